#include "cluster/link_metrics.h"

namespace atl::cluster {

std::vector<metrics::Family> LinkMetrics(
    const std::vector<std::pair<std::string, const transport::LinkCounters*>>& by_peer_role) {
  using transport::LinkCounters;
  std::vector<metrics::Family> all = {
      {.name = "atoll_link_sent_bytes_total",
       .help = "Payload sent over the data plane, by the peer's role and the kind of link.",
       .counter = true},
      {.name = "atoll_link_received_bytes_total", .help = "Payload received.", .counter = true},
      {.name = "atoll_link_sent_frames_total", .help = "Frames sent.", .counter = true},
      {.name = "atoll_link_received_frames_total", .help = "Frames received.", .counter = true},
      {.name = "atoll_link_deaths_total",
       .help = "Links that broke: the peer died, fell silent or sent what is no frame.",
       .counter = true},
      {.name = "atoll_links", .help = "Links that are open."},
  };
  for (const auto& [role, counters] : by_peer_role) {
    for (const transport::LinkKind kind : LinkCounters::kKinds) {
      const LinkCounters::Kind& k = counters->of(kind);
      const double values[] = {
          static_cast<double>(k.sent_bytes),    static_cast<double>(k.received_bytes),
          static_cast<double>(k.sent_frames),   static_cast<double>(k.received_frames),
          static_cast<double>(k.deaths.load()), static_cast<double>(k.open.load())};
      for (size_t i = 0; i < all.size(); ++i) {
        all[i].samples.push_back(
            {.labels = {{"peer", role}, {"kind", transport::LinkKindName(kind)}},
             .value = values[i]});
      }
    }
  }
  return all;
}

}  // namespace atl::cluster
