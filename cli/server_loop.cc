#include "cli/server_loop.h"

#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <nlohmann/json.hpp>

#include "base/log.h"
#include "cli/status_file.h"

namespace atl::cli {
namespace {

sigset_t EndSignals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGINT);
  sigaddset(&set, SIGTERM);
  return set;
}

// One line of JSON; shorter than a pipe's atomic write.
Status Report(int fd, const cluster::NodeAddresses& addresses) {
  const std::string line = AddressesToJson(addresses).dump() + "\n";
  const ssize_t written = write(fd, line.data(), line.size());
  const int error = errno;
  close(fd);
  if (written != static_cast<ssize_t>(line.size()))
    return ErrnoStatus(error, "report to the supervisor");
  return absl::OkStatus();
}

std::string Describe(const cluster::NodeAddresses& addresses) {
  std::string text = "gRPC on " + addresses.grpc;
  if (!addresses.data.empty()) text += ", links on " + addresses.data;
  if (!addresses.health.empty()) text += ", health on " + addresses.health;
  if (!addresses.metrics.empty()) text += ", metrics on " + addresses.metrics;
  return text;
}

}  // namespace

void BlockEndSignals() {
  const sigset_t set = EndSignals();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  signal(SIGPIPE, SIG_IGN);
}

void WaitForEndSignal() {
  const sigset_t set = EndSignals();
  int signal_number = 0;
  while (sigwait(&set, &signal_number) != 0) {
  }
  pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
}

int RunServer(const std::string& command, const StatusOr<StartedServer>& started,
              const ProcessFlags& process) {
  if (!started.ok()) return Fail(command, started.status());
  LogInfo("%s", Describe(started->addresses));
  if (process.report_fd >= 0) {
    const Status reported = Report(process.report_fd, started->addresses);
    if (!reported.ok()) return Fail(command, reported);
  }
  WaitForEndSignal();
  LogInfo("draining");
  started->drain_and_stop();
  return kExitOk;
}

int Fail(const std::string& command, const Status& status) {
  std::fprintf(stderr, "%s: %s\n", command.c_str(), std::string(status.message()).c_str());
  return kExitFailure;
}

}  // namespace atl::cli
