// What the links of a process carry, counted for metrics.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>

#include "transport/link.h"

namespace atl::transport {

// Links to one kind of peer. Written by the links' loops, readable from any thread.
struct LinkCounters {
  struct Kind {
    std::atomic<uint64_t> sent_frames{0}, sent_bytes{0};  // bytes of payload
    std::atomic<uint64_t> received_frames{0}, received_bytes{0};
    std::atomic<uint64_t> deaths{0};  // closed by the peer, the network, or for what the peer sent
    std::atomic<int64_t> open{0};
  };
  static constexpr std::array kKinds = {LinkKind::kInproc, LinkKind::kUnix, LinkKind::kTcp,
                                        LinkKind::kShm};
  Kind& of(LinkKind kind) { return kinds_[static_cast<size_t>(kind) - 1]; }
  const Kind& of(LinkKind kind) const { return kinds_[static_cast<size_t>(kind) - 1]; }

 private:
  std::array<Kind, kKinds.size()> kinds_;
};

// The same link, counted until it is destroyed. `counters` outlive it and its callbacks.
std::unique_ptr<Link> CountLink(std::unique_ptr<Link> link, LinkCounters* counters);

}  // namespace atl::transport
