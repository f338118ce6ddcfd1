// Keeps the processes of a cluster on this machine alive, tells where they are, and ends them.
#pragma once

#include <string>
#include <vector>

#include "absl/time/time.h"
#include "base/status.h"
#include "cli/cluster_watch.h"
#include "cli/status_file.h"

namespace atl::cli {

struct ChildSpec {
  std::string role;  // "router", "attention", "expert"
  std::string name;
  std::vector<std::string> arguments;  // of this binary
};

struct SupervisorOptions {
  std::vector<ChildSpec> children;  // ended in this order of roles: routers, attention, experts
  std::vector<std::string> router_addresses;  // where the routers of `children` listen
  std::string status_file;                    // empty: none
  bool restart = true;
  absl::Duration grace = absl::Seconds(10);  // between SIGTERM and SIGKILL
};

// How long a child that died waits for its restart: 0.1 s, doubling to 5 s; from the start again
// once a child has lived for 10 s. Pure state.
class RestartBackoff {
 public:
  absl::Duration Next(absl::Duration lived);

 private:
  absl::Duration next_ = absl::Milliseconds(100);
};

// Runs until SIGINT or SIGTERM; returns the process's exit code. A child that ends with an error
// before it was up ends the whole start. A second signal kills what still drains. REQUIRES: called
// from the main thread, with no other thread started before (signals are blocked here).
int Supervise(const std::string& command, const SupervisorOptions& options);

}  // namespace atl::cli
