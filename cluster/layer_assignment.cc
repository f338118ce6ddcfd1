#include "cluster/layer_assignment.h"

#include <algorithm>
#include <numeric>
#include <tuple>

namespace atl::cluster {

std::vector<int64_t> TotalShares(const std::vector<int64_t>& capacity, int64_t total,
                                 const std::vector<int64_t>& held) {
  const auto filled_to = [&capacity](int64_t level) {
    int64_t sum = 0;
    for (const int64_t c : capacity) sum += std::min(c, level);
    return sum;
  };
  int64_t low = 0, high = total;  // the highest level that does not overflow
  while (low < high) {
    const int64_t middle = low + (high - low + 1) / 2;
    if (filled_to(middle) <= total) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  std::vector<int64_t> shares;
  for (const int64_t c : capacity) shares.push_back(std::min(c, low));
  std::vector<size_t> order(capacity.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&held](size_t a, size_t b) { return held[a] > held[b]; });
  int64_t odd = total - filled_to(low);
  for (const size_t i : order) {
    if (odd > 0 && capacity[i] > shares[i]) {
      ++shares[i];
      --odd;
    }
  }
  return shares;
}

LayerQuotas::LayerQuotas(const std::vector<int64_t>& totals, int64_t num_layers)
    : layers_left_(num_layers) {
  for (const int64_t total : totals) {
    base_.push_back(num_layers == 0 ? 0 : total / num_layers);
    extra_.push_back(num_layers == 0 ? 0 : total % num_layers);
  }
}

std::vector<int64_t> LayerQuotas::Next(const std::vector<std::set<int32_t>>& held) {
  int64_t odd = std::accumulate(extra_.begin(), extra_.end(), int64_t{0}) / layers_left_;
  // Whoever needs one in each layer that is left comes first: so the rest always works out.
  std::vector<std::tuple<bool, bool, int64_t, size_t>> order;
  for (size_t i = 0; i < base_.size(); ++i) {
    if (extra_[i] == 0) continue;
    const bool holds_more = static_cast<int64_t>(held[i].size()) > base_[i];
    order.emplace_back(extra_[i] != layers_left_, !holds_more, -extra_[i], i);
  }
  std::sort(order.begin(), order.end());
  std::vector<int64_t> quotas = base_;
  for (const auto& [may_wait, holds_less, extra, i] : order) {
    if (odd-- <= 0) break;
    ++quotas[i];
    --extra_[i];
  }
  --layers_left_;
  return quotas;
}

namespace {

class Assigner {
 public:
  explicit Assigner(const LayerInput& input)
      : in_(input), room_(input.quotas), nodes_(input.quotas.size()), copies_(input.num_experts) {}

  StatusOr<LayerAssignment> Run() {
    KeepHeld(/*new_zone=*/true);
    Fill(/*new_zone=*/true);
    KeepHeld(/*new_zone=*/false);
    Fill(/*new_zone=*/false);
    for (int32_t e = 0; e < in_.num_experts; ++e) {
      while (Missing(e) > 0) {
        if (!SwapIn(e))
          return Internal("no place for copy %d of expert %d", copies_[e].size() + 1, e);
      }
    }
    return nodes_;
  }

 private:
  int64_t num_nodes() const { return static_cast<int64_t>(nodes_.size()); }
  int64_t Missing(int32_t e) const {
    return in_.replicas - static_cast<int64_t>(copies_[e].size());
  }

  bool ZoneIsNew(int32_t e, int64_t node) const {
    return std::none_of(copies_[e].begin(), copies_[e].end(),
                        [&](int64_t other) { return in_.zones[other] == in_.zones[node]; });
  }
  bool MayPut(int32_t e, int64_t node, bool new_zone) const {
    return Missing(e) > 0 && room_[node] > 0 && !nodes_[node].contains(e) &&
           (!new_zone || ZoneIsNew(e, node));
  }
  void Put(int32_t e, int64_t node) {
    nodes_[node].insert(e);
    copies_[e].insert(node);
    --room_[node];
  }

  // Experts that few hold first, so that a node full to its quota gives up what others have.
  void KeepHeld(bool new_zone) {
    std::vector<int64_t> holders(in_.num_experts, 0);
    for (const auto& held : in_.held) {
      for (const int32_t e : held) ++holders[e];
    }
    std::vector<std::tuple<int64_t, int32_t, int64_t>> order;
    for (int64_t i = 0; i < num_nodes(); ++i) {
      for (const int32_t e : in_.held[i]) order.emplace_back(holders[e], e, i);
    }
    std::sort(order.begin(), order.end());
    for (const auto& [count, e, i] : order) {
      if (MayPut(e, i, new_zone)) Put(e, i);
    }
  }

  void Fill(bool new_zone) {
    for (int32_t e = 0; e < in_.num_experts; ++e) {
      while (Missing(e) > 0) {
        int64_t best = -1;
        for (int64_t i = 0; i < num_nodes(); ++i) {
          if (MayPut(e, i, new_zone) && (best < 0 || room_[i] > room_[best])) best = i;
        }
        if (best < 0) break;
        Put(e, best);
      }
    }
  }

  // Every node with room has `e` already: another expert moves there and leaves its place to `e`.
  bool SwapIn(int32_t e) {
    for (int64_t to = 0; to < num_nodes(); ++to) {
      if (room_[to] <= 0) continue;
      for (int64_t from = 0; from < num_nodes(); ++from) {
        if (from == to || nodes_[from].contains(e)) continue;
        for (const int32_t other : nodes_[from]) {
          if (nodes_[to].contains(other)) continue;
          nodes_[from].erase(other);
          copies_[other].erase(from);
          ++room_[from];
          Put(other, to);
          Put(e, from);
          return true;
        }
      }
    }
    return false;
  }

  const LayerInput& in_;
  std::vector<int64_t> room_;              // [node]
  LayerAssignment nodes_;                  // [node]
  std::vector<std::set<int64_t>> copies_;  // [expert] nodes
};

}  // namespace

StatusOr<LayerAssignment> AssignLayer(const LayerInput& input) { return Assigner(input).Run(); }

}  // namespace atl::cluster
