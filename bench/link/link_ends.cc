#include "bench/link/link_ends.h"

#include <unistd.h>

#include <string>
#include <utility>

#include "absl/time/clock.h"
#include "transport/endpoint.h"

namespace atl::bench {

using transport::Endpoint;
using transport::Link;
using transport::LinkKind;

namespace {

constexpr absl::Duration kTimeout = absl::Seconds(5);

}  // namespace

StatusOr<LinkEnds> MakeLinkEnds(LinkKind kind, transport::EventLoop* near_loop,
                                transport::EventLoop* far_loop) {
  LinkEnds ends;
  if (kind == LinkKind::kInproc) {
    std::tie(ends.near, ends.far) = transport::MakeInprocLinks(near_loop, far_loop, {});
    return ends;
  }
  const Endpoint endpoint = {.kind = kind,
                             .address = kind == LinkKind::kTcp
                                            ? "127.0.0.1:0"
                                            : absl::StrFormat("@atoll-link-bench-%d", getpid())};
  Status failed;
  transport::TicketBook tickets;
  ATL_ASSIGN_OR_RETURN(
      const auto listener,
      transport::LinkListener::Listen(
          far_loop, endpoint, &tickets, {},
          [&](const std::string&, std::unique_ptr<Link> link) { ends.far = std::move(link); }));
  transport::ConnectLink(near_loop, listener->endpoint(), tickets.Issue("bench"), {}, kTimeout,
                         [&](StatusOr<std::unique_ptr<Link>> link) {
                           failed = link.status();
                           if (link.ok()) ends.near = *std::move(link);
                         });
  const absl::Time deadline = absl::Now() + 2 * kTimeout;  // ConnectLink has ended before
  while (failed.ok() && (ends.near == nullptr || ends.far == nullptr)) {
    if (absl::Now() > deadline)
      return DeadlineExceeded("no %s link in this process", LinkKindName(kind));
    near_loop->RunOnce(absl::ZeroDuration());
    far_loop->RunOnce(absl::ZeroDuration());
  }
  ATL_RETURN_IF_ERROR(failed);
  return ends;
}

}  // namespace atl::bench
