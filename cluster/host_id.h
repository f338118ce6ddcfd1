// Names the machine and network namespace of this process.
#pragma once

#include <cstdint>
#include <string>

namespace atl::cluster {

// The machine's boot id and the network namespace: processes that have both in common reach each
// other's unix sockets, the abstract ones included. Empty if the system does not tell.
std::string HostId();

// A random number for a process's incarnation, or a name that must be nobody else's; never 0.
uint64_t RandomId();

}  // namespace atl::cluster
