// What every server process does around its server: signals, one line of where it listens, the
// report to a supervisor.
#pragma once

#include <functional>
#include <string>

#include "base/status.h"
#include "cli/node_flags.h"
#include "cluster/node_options.h"

namespace atl::cli {

// Blocks SIGINT and SIGTERM in this thread and in those it will start, so that WaitForEndSignal
// gets them; ignores SIGPIPE. Called first in a server's main.
void BlockEndSignals();
// Waits, without a deadline, for SIGINT or SIGTERM. From then on another of them ends the process
// at once.
void WaitForEndSignal();

// What a started server has to offer to RunServer.
struct StartedServer {
  cluster::NodeAddresses addresses;
  std::function<void()> drain_and_stop;
};

// Tells supervisor and log that the server is up, waits for the end signal, drains. Returns the
// process's exit code. REQUIRES: BlockEndSignals was called before the server was started.
int RunServer(const std::string& command, const StatusOr<StartedServer>& started,
              const ProcessFlags& process);

// A server's pointer as RunServer wants it. `server` must outlive the result.
template <typename Server>
StatusOr<StartedServer> AsStarted(const StatusOr<Server>& server) {
  if (!server.ok()) return server.status();
  auto* started = server->get();
  return StartedServer{started->addresses(), [started] { started->DrainAndStop(); }};
}

// "command: message" on stderr; returns kExitFailure.
int Fail(const std::string& command, const Status& status);

}  // namespace atl::cli
