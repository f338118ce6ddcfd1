#include "router_service/service.h"

namespace atl::router {

grpc::ServerUnaryReactor* RouterServiceAdapter::GetDispatchStats(
    grpc::CallbackServerContext* context, const pb::GetDispatchStatsRequest*,
    pb::GetDispatchStatsResponse* response) {
  const dispatch::RouteCounters& counters = dispatcher_->counters();
  for (int64_t layer = 0; layer < counters.num_layers(); ++layer) {
    for (int64_t expert = 0; expert < counters.num_experts(); ++expert) {
      const uint64_t rows = counters.Get(static_cast<int32_t>(layer), static_cast<int32_t>(expert));
      if (rows == 0) continue;
      pb::ExpertRows* entry = response->add_experts();
      entry->set_layer(layer);
      entry->set_expert(expert);
      entry->set_rows(rows);
    }
  }
  response->set_calls(dispatcher_->calls());
  response->set_retries(dispatcher_->retries());
  auto* reactor = context->DefaultReactor();
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

grpc::ServerUnaryReactor* RouterServiceAdapter::GetPlacement(grpc::CallbackServerContext* context,
                                                             const pb::GetPlacementRequest*,
                                                             pb::GetPlacementResponse* response) {
  const std::shared_ptr<const cluster::Placement> placement = placement_();
  response->set_version(placement->version);
  for (const cluster::NodeName& node : placement->nodes) response->add_nodes(node);
  for (size_t layer = 0; layer < placement->holders.size(); ++layer) {
    for (size_t expert = 0; expert < placement->holders[layer].size(); ++expert) {
      pb::PlacementEntry* entry = response->add_entries();
      entry->set_layer(layer);
      entry->set_expert(expert);
      for (const int32_t node : placement->holders[layer][expert])
        entry->add_nodes(placement->nodes[node]);
    }
  }
  auto* reactor = context->DefaultReactor();
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

}  // namespace atl::router
