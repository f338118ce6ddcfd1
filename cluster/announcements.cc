#include "cluster/announcements.h"

#include <algorithm>
#include <utility>

namespace atl::cluster {
namespace {

// Two passes, so that draining nodes fill only gaps; indexes stay ascending because a gap has
// draining holders alone.
void AddHolders(const NodeList& experts, const ModelExperts& model, bool draining,
                Placement* placement) {
  const Placement before = draining ? *placement : Placement();
  for (size_t i = 0; i < experts.size(); ++i) {
    if (experts[i]->state().draining() != draining) continue;
    for (const LayerExpert id : FromProto(experts[i]->state().holds())) {
      if (!model.Has(id)) continue;
      if (draining && !before.holders[id.layer][id.expert].empty()) continue;
      placement->holders[id.layer][id.expert].push_back(static_cast<int32_t>(i));
    }
  }
}

}  // namespace

std::vector<LayerExpert> FromProto(const LayerExpertsProto& layers) {
  std::vector<LayerExpert> experts;
  for (const pb::LayerExperts& layer : layers) {
    for (const uint32_t expert : layer.experts()) {
      experts.push_back({static_cast<int32_t>(layer.layer()), static_cast<int32_t>(expert)});
    }
  }
  std::sort(experts.begin(), experts.end());
  experts.erase(std::unique(experts.begin(), experts.end()), experts.end());
  return experts;
}

LayerExpertsProto ToProto(const std::vector<LayerExpert>& experts) {
  LayerExpertsProto layers;
  for (const LayerExpert id : experts) {
    if (layers.empty() || static_cast<int32_t>(layers.rbegin()->layer()) != id.layer) {
      layers.Add()->set_layer(id.layer);
    }
    layers.rbegin()->add_experts(id.expert);
  }
  return layers;
}

std::shared_ptr<const Placement> MakePlacement(const NodeList& nodes, const ModelExperts& model,
                                               uint64_t version) {
  auto placement = std::make_shared<Placement>();
  placement->version = version;
  NodeList experts;
  for (const auto& node : nodes) {
    if (node->info().role() != pb::NODE_ROLE_EXPERT) continue;
    experts.push_back(node);
    placement->nodes.push_back(node->info().name());
  }
  for (const bool moe : model.moe_layers)
    placement->holders.emplace_back(moe ? model.num_ids() : 0);
  AddHolders(experts, model, /*draining=*/false, placement.get());
  AddHolders(experts, model, /*draining=*/true, placement.get());
  return placement;
}

std::string PlannerOf(const NodeList& nodes) {
  const pb::NodeInfo* best = nullptr;
  for (const auto& node : nodes) {
    const pb::NodeInfo& info = node->info();
    if (info.role() != pb::NODE_ROLE_ROUTER || node->state().draining()) continue;
    if (best == nullptr ||
        std::pair(info.rank(), info.name()) < std::pair(best->rank(), best->name()))
      best = &info;
  }
  return best == nullptr ? "" : best->name();
}

}  // namespace atl::cluster
