#include "cluster/planner.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <set>
#include <tuple>

#include "cluster/layer_assignment.h"

namespace atl::cluster {
namespace {

constexpr int64_t kUnbounded = int64_t{1} << 60;

struct Shares {
  int replicas = 0;
  bool shared_everywhere = false;
  std::vector<std::set<int32_t>> shared_layers;  // [node], where not everywhere
  std::vector<int64_t> units;  // [node] routed experts that fit beside the shared ones
};

// The planner's work on one input; nodes are those not draining, ascending by name.
class Planning {
 public:
  Planning(const ModelExperts& model, std::vector<const PlanNode*> nodes)
      : model_(model), nodes_(std::move(nodes)) {
    for (size_t layer = 0; layer < model.moe_layers.size(); ++layer) {
      if (model.moe_layers[layer]) layers_.push_back(static_cast<int32_t>(layer));
    }
    for (const PlanNode* node : nodes_) held_.emplace_back(node->holds.begin(), node->holds.end());
  }

  StatusOr<Targets> Run(int min_replicas) {
    std::optional<Shares> shares;
    for (int r = std::min<int>(std::max(min_replicas, 1), nodes_.size()); r >= 1 && !shares; --r) {
      for (const bool everywhere : {true, false}) {
        if (!shares) shares = Fit(r, everywhere);
      }
    }
    if (!shares) return TooSmall();
    Targets targets{.replicas = shares->replicas, .shared_everywhere = shares->shared_everywhere};
    std::vector<std::set<LayerExpert>> result(nodes_.size());
    ATL_RETURN_IF_ERROR(Assign(*shares, &result));
    Rehouse(&result);
    for (int64_t i = 0; i < num_nodes(); ++i) {
      for (const LayerExpert id : result[i]) targets.loads += !held_[i].contains(id);
      targets.of_node[nodes_[i]->name] = {result[i].begin(), result[i].end()};
    }
    return targets;
  }

 private:
  int64_t num_nodes() const { return static_cast<int64_t>(nodes_.size()); }
  int64_t num_layers() const { return static_cast<int64_t>(layers_.size()); }
  int64_t Budget(int64_t i) const {
    return nodes_[i]->budget_bytes > 0 ? nodes_[i]->budget_bytes : kUnbounded;
  }
  LayerExpert SharedOf(int32_t layer) const {
    return {layer, static_cast<int32_t>(model_.num_routed)};
  }

  // Empty if the budgets cannot hold that.
  std::optional<Shares> Fit(int replicas, bool shared_everywhere) const {
    Shares shares{.replicas = replicas, .shared_everywhere = shared_everywhere};
    std::vector<int64_t> left;
    for (int64_t i = 0; i < num_nodes(); ++i) left.push_back(Budget(i));
    shares.shared_layers.resize(nodes_.size());
    if (model_.has_shared && shared_everywhere) {
      for (int64_t& bytes : left) bytes -= num_layers() * model_.shared_bytes;
    } else if (model_.has_shared && !SpreadShared(replicas, &left, &shares.shared_layers)) {
      return std::nullopt;
    }
    int64_t total = 0;
    for (const int64_t bytes : left) {
      if (bytes < 0) return std::nullopt;
      shares.units.push_back(std::min(bytes / std::max<int64_t>(model_.routed_bytes, 1),
                                      num_layers() * model_.num_routed));
      total += shares.units.back();
    }
    if (total < num_layers() * model_.num_routed * replicas) return std::nullopt;
    return shares;
  }

  // Each layer's shared expert to `replicas` nodes: those that hold it and have no more than their
  // part, then those with the fewest and with most memory left. False if they do not fit.
  bool SpreadShared(int replicas, std::vector<int64_t>* left,
                    std::vector<std::set<int32_t>>* shared) const {
    const int64_t part = (num_layers() * replicas + num_nodes() - 1) / num_nodes();
    for (const int32_t layer : layers_) {
      std::vector<std::tuple<bool, int64_t, int64_t, int64_t>> order;
      for (int64_t i = 0; i < num_nodes(); ++i) {
        if ((*left)[i] < model_.shared_bytes) continue;
        const int64_t count = static_cast<int64_t>((*shared)[i].size());
        const bool keep = held_[i].contains(SharedOf(layer)) && count < part;
        order.emplace_back(!keep, count, -(*left)[i], i);
      }
      if (static_cast<int64_t>(order.size()) < replicas) return false;
      std::sort(order.begin(), order.end());
      for (int r = 0; r < replicas; ++r) {
        const int64_t i = std::get<3>(order[r]);
        (*shared)[i].insert(layer);
        (*left)[i] -= model_.shared_bytes;
      }
    }
    return true;
  }

  Status TooSmall() const {
    int64_t budget = 0;
    for (int64_t i = 0; i < num_nodes(); ++i)
      budget += std::min(Budget(i), kUnbounded / (num_nodes() + 1));
    const int64_t need = num_layers() * (model_.num_routed * model_.routed_bytes +
                                         (model_.has_shared ? model_.shared_bytes : 0));
    if (budget < need) {
      return ResourceExhausted(
          "the experts take %d bytes and %d nodes have budgets of %d bytes in all: %d bytes are "
          "missing",
          need, num_nodes(), budget, need - budget);
    }
    return ResourceExhausted(
        "the experts take %d bytes and %d nodes have budgets of %d bytes in all, but what is left "
        "over on single nodes is less "
        "than one expert of %d bytes: up to %d bytes more are needed",
        need, num_nodes(), budget, std::max(model_.routed_bytes, model_.shared_bytes),
        num_nodes() * std::max(model_.routed_bytes, model_.shared_bytes));
  }

  Status Assign(const Shares& shares, std::vector<std::set<LayerExpert>>* result) const {
    const int64_t per_layer = model_.num_routed * shares.replicas;
    LayerQuotas quotas(TotalShares(shares.units, num_layers() * per_layer, HeldCounts()),
                       num_layers());
    for (const int32_t layer : layers_) {
      LayerInput in{.num_experts = model_.num_routed, .replicas = shares.replicas};
      for (int64_t i = 0; i < num_nodes(); ++i) {
        in.zones.push_back(nodes_[i]->zone.empty() ? nodes_[i]->name : "zone " + nodes_[i]->zone);
        in.held.push_back(HeldRouted(i, layer));
      }
      in.quotas = quotas.Next(in.held);
      ATL_ASSIGN_OR_RETURN(const LayerAssignment assigned, AssignLayer(in));
      for (int64_t i = 0; i < num_nodes(); ++i) {
        for (const int32_t expert : assigned[i]) (*result)[i].insert({layer, expert});
        if (model_.has_shared &&
            (shares.shared_everywhere || shares.shared_layers[i].contains(layer))) {
          (*result)[i].insert(SharedOf(layer));
        }
      }
    }
    return absl::OkStatus();
  }

  int64_t BytesOf(LayerExpert id) const {
    return id.expert < model_.num_routed ? model_.routed_bytes : model_.shared_bytes;
  }

  // What a node cannot read and does not hold goes to the least laden one that has room for it and
  // can; to none such: it stays, and the node tries again.
  void Rehouse(std::vector<std::set<LayerExpert>>* result) const {
    std::vector<std::set<LayerExpert>> unreadable;
    std::vector<int64_t> bytes(nodes_.size(), 0);
    for (int64_t i = 0; i < num_nodes(); ++i) {
      unreadable.emplace_back(nodes_[i]->unreadable.begin(), nodes_[i]->unreadable.end());
      for (const LayerExpert id : (*result)[i]) bytes[i] += BytesOf(id);
    }
    for (int64_t from = 0; from < num_nodes(); ++from) {
      for (const LayerExpert id : unreadable[from]) {
        if (!(*result)[from].contains(id) || held_[from].contains(id)) continue;
        int64_t best = -1;
        for (int64_t to = 0; to < num_nodes(); ++to) {
          const bool can = !(*result)[to].contains(id) && !unreadable[to].contains(id) &&
                           bytes[to] + BytesOf(id) <= Budget(to);
          if (can && (best < 0 || bytes[to] < bytes[best])) best = to;
        }
        // Where copies are on all other nodes already, one fewer will do.
        const bool elsewhere = std::any_of(result->begin(), result->end(), [&](const auto& target) {
          return &target != &(*result)[from] && target.contains(id);
        });
        if (best < 0 && !elsewhere) continue;
        (*result)[from].erase(id);
        bytes[from] -= BytesOf(id);
        if (best < 0) continue;
        (*result)[best].insert(id);
        bytes[best] += BytesOf(id);
      }
    }
  }

  std::set<int32_t> HeldRouted(int64_t node, int32_t layer) const {
    std::set<int32_t> experts;
    for (auto it = held_[node].lower_bound({layer, 0});
         it != held_[node].end() && it->layer == layer; ++it) {
      if (it->expert < model_.num_routed) experts.insert(it->expert);
    }
    return experts;
  }

  std::vector<int64_t> HeldCounts() const {
    std::vector<int64_t> counts(nodes_.size(), 0);
    for (int64_t i = 0; i < num_nodes(); ++i) {
      for (const LayerExpert id : held_[i])
        counts[i] += model_.Has(id) && id.expert < model_.num_routed;
    }
    return counts;
  }

  const ModelExperts& model_;
  const std::vector<const PlanNode*> nodes_;
  std::vector<int32_t> layers_;
  std::vector<std::set<LayerExpert>> held_;
};

}  // namespace

StatusOr<Targets> PlanTargets(const PlanInput& input) {
  std::vector<const PlanNode*> nodes;
  for (const PlanNode& node : input.nodes) {
    if (!node.draining) nodes.push_back(&node);
  }
  if (nodes.empty()) {
    return Unavailable("no expert node to plan for: %d are there, all draining",
                       input.nodes.size());
  }
  std::sort(nodes.begin(), nodes.end(),
            [](const PlanNode* a, const PlanNode* b) { return a->name < b->name; });
  ATL_ASSIGN_OR_RETURN(Targets targets,
                       Planning(input.model, std::move(nodes)).Run(input.min_replicas));
  for (const PlanNode& node : input.nodes) targets.of_node[node.name];  // draining ones: nothing
  return targets;
}

std::map<NodeName, std::vector<LayerExpert>> MayUnload(const std::vector<PlanNode>& nodes,
                                                       const Targets& targets) {
  const auto is_target = [&targets](const NodeName& name, LayerExpert id) {
    const auto it = targets.of_node.find(name);
    return it != targets.of_node.end() &&
           std::binary_search(it->second.begin(), it->second.end(), id);
  };
  std::map<LayerExpert, int> keepers;
  for (const PlanNode& node : nodes) {
    if (node.draining) continue;
    for (const LayerExpert id : node.holds) keepers[id] += is_target(node.name, id);
  }
  std::map<NodeName, std::vector<LayerExpert>> result;
  for (const PlanNode& node : nodes) {
    std::vector<LayerExpert>& may = result[node.name];
    for (const LayerExpert id : node.holds) {
      const auto it = keepers.find(id);  // nobody keeps it: it stays
      if (!is_target(node.name, id) && it != keepers.end() && it->second > 0) may.push_back(id);
    }
    std::sort(may.begin(), may.end());
  }
  return result;
}

}  // namespace atl::cluster
