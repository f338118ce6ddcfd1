// Both ends of a link of any kind, for benchmarks whose two sides are threads of one process.
#pragma once

#include <memory>

#include "base/status.h"
#include "transport/link.h"

namespace atl::bench {

struct LinkEnds {
  std::unique_ptr<transport::Link> near, far;
};

// Each end on its loop; sockets are abstract ones and loopback. REQUIRES: neither loop runs yet on
// a thread of its own: this one turns both until the link stands. DeadlineExceeded after 5 s, else
// as ConnectLink and Listen.
StatusOr<LinkEnds> MakeLinkEnds(transport::LinkKind kind, transport::EventLoop* near_loop,
                                transport::EventLoop* far_loop);

}  // namespace atl::bench
