#include "cli/child_process.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <cerrno>

extern char** environ;

namespace atl::cli {
namespace {

std::vector<char*> Pointers(std::vector<std::string>& texts) {
  std::vector<char*> pointers;
  for (std::string& text : texts) pointers.push_back(text.data());
  pointers.push_back(nullptr);
  return pointers;
}

std::vector<std::string> EnvironmentForChild() {
  std::vector<std::string> kept;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string text = *entry;
    if (text.rfind("ATOLL_", 0) != 0) kept.push_back(text);
  }
  return kept;
}

// After fork in a process with threads: async-signal-safe calls only.
[[noreturn]] void BecomeChild(int parent_pid, int report_fd, int null_fd, char** argv,
                              char** environment) {
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  signal(SIGINT, SIG_DFL);
  setpgid(0, 0);
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent_pid) _exit(1);  // it died before prctl
  dup2(null_fd, STDIN_FILENO);
  dup2(STDERR_FILENO, STDOUT_FILENO);
  fcntl(report_fd, F_SETFD, 0);
  execve("/proc/self/exe", argv, environment);
  _exit(127);
}

}  // namespace

StatusOr<StartedChild> StartChild(const std::vector<std::string>& arguments) {
  int report[2];
  if (pipe2(report, O_CLOEXEC) != 0) return ErrnoStatus(errno, "pipe");
  const int null_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
  std::vector<std::string> argv_texts = {"atoll"};
  argv_texts.insert(argv_texts.end(), arguments.begin(), arguments.end());
  argv_texts.push_back("--report-fd=" + std::to_string(report[1]));
  std::vector<std::string> environment_texts = EnvironmentForChild();
  std::vector<char*> argv = Pointers(argv_texts);
  std::vector<char*> environment = Pointers(environment_texts);

  const int parent_pid = getpid();
  const int pid = fork();
  const int error = errno;
  if (pid == 0) BecomeChild(parent_pid, report[1], null_fd, argv.data(), environment.data());
  close(report[1]);
  close(null_fd);
  if (pid < 0) {
    close(report[0]);
    return ErrnoStatus(error, "fork");
  }
  fcntl(report[0], F_SETFL, O_NONBLOCK);
  return StartedChild{pid, report[0]};
}

}  // namespace atl::cli
