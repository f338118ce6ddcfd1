#include "cli/supervisor.h"

#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <memory>
#include <optional>

#include "absl/time/clock.h"
#include "base/log.h"
#include "cli/child_process.h"
#include "cli/flag_set.h"
#include "cli/status_writer.h"

namespace atl::cli {
namespace {

constexpr absl::Duration kFirstBackoff = absl::Milliseconds(100);
constexpr absl::Duration kMaxBackoff = absl::Seconds(5);
constexpr absl::Duration kLongLife = absl::Seconds(10);
constexpr absl::Duration kTick = absl::Milliseconds(100);
constexpr absl::Duration kNoticeEvery = absl::Seconds(10);
constexpr absl::Duration kFirstWrite = absl::Seconds(30);  // of the status file
constexpr const char* kEndOrder[] = {"router", "attention", "expert"};

struct Child {
  ChildSpec spec;
  int pid = 0;  // 0: not running
  int report_fd = -1;
  std::string report;                               // as far as read
  std::optional<cluster::NodeAddresses> addresses;  // of the running process, once it is up
  bool was_up = false;                              // any process of this child
  absl::Time started;
  absl::Time restart_at = absl::InfiniteFuture();
  RestartBackoff backoff;
};

std::string DescribeEnd(int wait_status) {
  if (WIFSIGNALED(wait_status))
    return absl::StrFormat("was ended by signal %d", WTERMSIG(wait_status));
  return absl::StrFormat("ended with code %d", WEXITSTATUS(wait_status));
}

class Supervisor {
 public:
  Supervisor(const SupervisorOptions& options, StatusFile status_file)
      : options_(options), status_file_(std::move(status_file)) {
    for (const ChildSpec& spec : options.children) children_.push_back({.spec = spec});
  }
  ~Supervisor() {
    KillAll();
    if (signal_fd_ >= 0) close(signal_fd_);
  }

  // OK after a signal.
  Status Run() {
    ATL_RETURN_IF_ERROR(WatchSignals());  // before there is a thread that could take them
    status_writer_ = std::make_unique<StatusWriter>(std::move(status_file_));
    for (Child& child : children_) ATL_RETURN_IF_ERROR(Start(&child));
    std::vector<std::string> names;
    for (const Child& child : children_) names.push_back(child.spec.name);
    watch_ = std::make_unique<ClusterWatch>(options_.router_addresses, names);
    last_notice_ = absl::Now();
    while (!signalled_) {
      Wait(kTick);
      ATL_RETURN_IF_ERROR(failure_);
      RestartDue();
      ATL_RETURN_IF_ERROR(Publish());
    }
    EndAll();
    return absl::OkStatus();
  }

 private:
  Status WatchSignals() {
    sigset_t set;
    sigemptyset(&set);
    for (int number : {SIGINT, SIGTERM, SIGHUP, SIGCHLD}) sigaddset(&set, number);
    pthread_sigmask(SIG_BLOCK, &set, nullptr);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGINT, SIG_DFL);  // a shell starts background jobs with SIGINT ignored
    signal_fd_ = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    return signal_fd_ < 0 ? ErrnoStatus(errno, "signalfd") : absl::OkStatus();
  }

  Status Start(Child* child) {
    ATL_ASSIGN_OR_RETURN(const StartedChild started, StartChild(child->spec.arguments));
    child->pid = started.pid;
    child->report_fd = started.report_fd;
    child->report.clear();
    child->started = absl::Now();
    child->restart_at = absl::InfiniteFuture();
    return absl::OkStatus();
  }

  // Waits for signals, ends of children and their reports, and takes them in.
  void Wait(absl::Duration timeout) {
    std::vector<pollfd> fds = {{signal_fd_, POLLIN, 0}};
    for (const Child& child : children_) {
      if (child.report_fd >= 0) fds.push_back({child.report_fd, POLLIN, 0});
    }
    poll(fds.data(), fds.size(), static_cast<int>(absl::ToInt64Milliseconds(timeout)));
    ReadSignals();
    for (Child& child : children_) ReadReport(&child);
    ReapChildren();
  }

  void ReadSignals() {
    signalfd_siginfo info;
    while (read(signal_fd_, &info, sizeof info) == sizeof info) {
      if (info.ssi_signo == SIGCHLD) continue;
      killed_ = signalled_;
      signalled_ = true;
    }
  }

  void ReadReport(Child* child) {
    if (child->report_fd < 0) return;
    char bytes[4096];
    const ssize_t size = read(child->report_fd, bytes, sizeof bytes);
    if (size < 0) return;  // nothing yet
    child->report.append(bytes, size);
    if (size > 0 && child->report.back() != '\n') return;
    close(child->report_fd);
    child->report_fd = -1;
    const StatusOr<cluster::NodeAddresses> addresses = AddressesFromJson(child->report);
    if (!addresses.ok()) return;  // it died first: ReapChildren tells
    child->addresses = *addresses;
    child->was_up = true;
  }

  void ReapChildren() {
    for (Child& child : children_) {
      int wait_status = 0;
      if (child.pid == 0 || waitpid(child.pid, &wait_status, WNOHANG) != child.pid) continue;
      ReadReport(&child);
      OnEnd(&child, wait_status);
    }
  }

  void OnEnd(Child* child, int wait_status) {
    const std::string end = DescribeEnd(wait_status);
    const int pid = child->pid;
    child->pid = 0;
    child->addresses.reset();
    if (child->report_fd >= 0) close(child->report_fd);
    child->report_fd = -1;
    if (signalled_) return;
    if (!child->was_up && !WIFSIGNALED(wait_status)) {
      failure_ = Internal("%s %s before it was up", child->spec.name, end);
      return;
    }
    if (!options_.restart) {
      LogWarning("%s (pid %d) %s; it stays down", child->spec.name, pid, end);
      return;
    }
    const absl::Time now = absl::Now();
    const absl::Duration delay = child->backoff.Next(now - child->started);
    LogWarning("%s (pid %d) %s; again in %s", child->spec.name, pid, end,
               absl::FormatDuration(delay));
    child->restart_at = now + delay;
  }

  void RestartDue() {
    for (Child& child : children_) {
      if (child.pid != 0 || child.restart_at > absl::Now()) continue;
      const Status started = Start(&child);
      if (started.ok()) continue;
      child.restart_at = absl::Now() + child.backoff.Next(absl::ZeroDuration());
      LogError("%s: %s", child.spec.name, std::string(started.message()));
    }
  }

  Status Publish() {
    const ClusterState state = watch_->Latest();
    if (!announced_ && !AllUp(state)) {
      if (absl::Now() - last_notice_ < kNoticeEvery) return absl::OkStatus();
      last_notice_ = absl::Now();
      LogInfo("waiting: %s", state.waiting_for);
      return absl::OkStatus();
    }
    status_writer_->Tell(Entries(state));
    if (!announced_) {
      ATL_RETURN_IF_ERROR(status_writer_->Flush(kFirstWrite));
      Announce();
    }
    const Status written = status_writer_->last_write();
    if (!written.ok() && status_file_works_) LogWarning("%s", std::string(written.message()));
    status_file_works_ = written.ok();
    return absl::OkStatus();
  }

  bool AllUp(const ClusterState& state) const {
    return state.complete &&
           std::all_of(children_.begin(), children_.end(),
                       [](const Child& child) { return child.addresses.has_value(); });
  }

  void Announce() {
    announced_ = true;
    std::string addresses;
    for (const std::string& address : options_.router_addresses)
      addresses += (addresses.empty() ? "" : ",") + address;
    std::printf("cluster is ready: %d processes; clients take --address %s\n",
                static_cast<int>(children_.size()), addresses.c_str());
    std::fflush(stdout);
  }

  std::vector<ProcessEntry> Entries(const ClusterState& state) const {
    std::vector<ProcessEntry> entries;
    for (const Child& child : children_) {
      if (!child.addresses) continue;
      ProcessEntry entry{child.spec.role, child.spec.name, child.pid, *child.addresses};
      const auto holds = state.holds.find(child.spec.name);
      if (holds != state.holds.end()) {
        entry.experts = holds->second.experts;
        entry.sequences = holds->second.sequences;
      }
      entries.push_back(entry);
    }
    return entries;
  }

  // Routers first: their streams run to their end over attention and expert nodes that still work.
  void EndAll() {
    LogInfo("ending %d processes", static_cast<int>(children_.size()));
    watch_.reset();
    for (const char* role : kEndOrder) EndRole(role);
    status_writer_->Tell({});
  }

  void EndRole(const std::string& role) {
    Signal(role, SIGTERM);
    const absl::Time deadline = absl::Now() + options_.grace;
    while (Running(role) && absl::Now() < deadline && !killed_) Wait(kTick);
    if (!Running(role)) return;
    LogWarning("killing %ss that have not ended", role);
    Signal(role, SIGKILL);
    while (Running(role)) Wait(kTick);  // the kernel always ends them
  }

  bool Running(const std::string& role) const {
    return std::any_of(children_.begin(), children_.end(), [&](const Child& child) {
      return child.pid != 0 && child.spec.role == role;
    });
  }

  void Signal(const std::string& role, int number) {
    for (const Child& child : children_) {
      if (child.pid != 0 && child.spec.role == role) {
        kill(child.pid, number);
        kill(child.pid, SIGCONT);  // a stopped child could not end
      }
    }
  }

  void KillAll() {
    for (const Child& child : children_) {
      if (child.pid == 0) continue;
      kill(child.pid, SIGKILL);
      waitpid(child.pid, nullptr, 0);
    }
  }

  const SupervisorOptions options_;
  StatusFile status_file_;  // until Run
  std::unique_ptr<StatusWriter> status_writer_;
  std::vector<Child> children_;
  std::unique_ptr<ClusterWatch> watch_;
  int signal_fd_ = -1;
  bool signalled_ = false;
  bool killed_ = false;     // a second signal
  bool announced_ = false;  // the cluster was complete once
  bool status_file_works_ = true;
  absl::Time last_notice_;
  Status failure_;
};

}  // namespace

absl::Duration RestartBackoff::Next(absl::Duration lived) {
  if (lived >= kLongLife) next_ = kFirstBackoff;
  const absl::Duration delay = next_;
  next_ = std::min(next_ * 2, kMaxBackoff);
  return delay;
}

int Supervise(const std::string& command, const SupervisorOptions& options) {
  StatusOr<StatusFile> status_file = StatusFile::Create(options.status_file);
  Status status = status_file.status();
  if (status.ok()) status = Supervisor(options, *std::move(status_file)).Run();
  if (status.ok()) return kExitOk;
  std::fprintf(stderr, "%s: %s\n", command.c_str(), std::string(status.message()).c_str());
  return kExitFailure;
}

}  // namespace atl::cli
