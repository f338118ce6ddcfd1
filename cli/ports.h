// Ports that a supervisor chooses for its children, so that all of them can be told where the
// routers will be.
#pragma once

#include <string>
#include <utility>

#include "base/status.h"
#include "rpc/address.h"

namespace atl::cli {

// A TCP port kept for a child process: nobody listens on it now, the system hands it to no outgoing
// connection (it is below its range for those), and no other ReservedPort on this machine has it.
// Movable; given up when destroyed.
class ReservedPort {
 public:
  // `where.port` 0 chooses one. AlreadyExists if somebody listens on the port, or another
  // supervisor keeps it.
  static StatusOr<ReservedPort> Reserve(const rpc::HostPort& where);
  ~ReservedPort();
  ReservedPort(ReservedPort&& other) noexcept;
  ReservedPort& operator=(ReservedPort&&) = delete;

  const rpc::HostPort& where() const { return where_; }

 private:
  ReservedPort(rpc::HostPort where, int lock_fd) : where_(std::move(where)), lock_fd_(lock_fd) {}
  rpc::HostPort where_;
  int lock_fd_;  // a unix socket whose abstract name says the port: the kernel lets it go with the
                 // process
};

}  // namespace atl::cli
