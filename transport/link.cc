#include "transport/link.h"

#include <limits>

namespace atl::transport {

const char* LinkKindName(LinkKind kind) {
  switch (kind) {
    case LinkKind::kInproc:
      return "inproc";
    case LinkKind::kUnix:
      return "unix";
    case LinkKind::kTcp:
      return "tcp";
    case LinkKind::kShm:
      return "shm";
  }
  return "unknown";
}

StatusOr<LinkKind> ParseLinkKind(const std::string& name) {
  for (LinkKind kind : {LinkKind::kInproc, LinkKind::kUnix, LinkKind::kTcp, LinkKind::kShm}) {
    if (name == LinkKindName(kind)) return kind;
  }
  return InvalidArgument("link kind '%s' is unknown: expected inproc, shm, unix or tcp", name);
}

Status CheckLimits(const LinkLimits& limits) {
  constexpr int64_t kMaxWindowBytes = std::numeric_limits<uint32_t>::max();
  if (limits.window_bytes < 1 || limits.window_bytes > kMaxWindowBytes) {
    return InvalidArgument("link window of %d bytes, expected 1 to %d", limits.window_bytes,
                           kMaxWindowBytes);
  }
  if (limits.queue_bytes < 0)
    return InvalidArgument("link queue of %d bytes, expected at least 0", limits.queue_bytes);
  return absl::OkStatus();
}

}  // namespace atl::transport
