#include <algorithm>
#include <string_view>
#include <tuple>
#include <utility>

#include "absl/time/clock.h"
#include "router_service/dispatch/dispatcher_state.h"

namespace atl::dispatch {

using transport::FrameHeader;
using transport::FrameType;

namespace {

// Nodes that answered NOT_FOUND, RESOURCE_EXHAUSTED or UNAVAILABLE are asked again after this,
// unless a new placement or link comes before.
constexpr absl::Duration kAvoidFor = absl::Milliseconds(20);

}  // namespace

Dispatcher::State::Node* Dispatcher::State::Choose(int32_t layer, uint32_t expert,
                                                   const std::set<cluster::NodeName>& but,
                                                   cluster::NodeName* name) {
  if (layer >= static_cast<int32_t>(placement->holders.size()) ||
      expert >= placement->holders[layer].size()) {
    return nullptr;
  }
  const absl::Time now = absl::Now();
  const auto rank = [&](const cluster::NodeName& node_name, const Node& node) {
    return std::tuple(node.suspect_until > now, node.outstanding_rows, std::string_view(node_name));
  };
  Node* best = nullptr;
  for (int32_t holder : placement->holders[layer][expert]) {
    const auto it = nodes.find(placement->nodes[holder]);
    if (it == nodes.end() || but.contains(it->first)) continue;
    if (best != nullptr && rank(it->first, it->second) > rank(*name, *best)) continue;
    best = &it->second;
    *name = it->first;
  }
  return best;
}

std::vector<int32_t> Dispatcher::State::Assign(uint64_t call_id, const std::vector<int32_t>& pairs,
                                               const std::set<cluster::NodeName>& but) {
  const RoutedCall& routed = *calls.at(call_id).routed;
  std::map<cluster::NodeName, std::vector<int32_t>> by_node;
  std::vector<int32_t> unplaced;
  // All pairs of one expert go to one holder: its weights are read once.
  size_t end;
  for (size_t begin = 0; begin < pairs.size(); begin = end) {
    const uint32_t expert = routed.pair(pairs[begin]).expert;
    for (end = begin; end < pairs.size() && routed.pair(pairs[end]).expert == expert;) ++end;
    cluster::NodeName name;
    Node* const node = Choose(routed.call().layer, expert, but, &name);
    std::vector<int32_t>& to = node == nullptr ? unplaced : by_node[name];
    for (size_t i = begin; i < end; ++i) {
      if (routed.answered(pairs[i])) continue;
      to.push_back(pairs[i]);
      if (node != nullptr) ++node->outstanding_rows;
    }
  }
  const size_t out_bytes = shape.hidden_size * DTypeBytes(shape.wire);
  const size_t most = std::max<size_t>(options.max_frame_bytes / out_bytes, 1);
  for (const auto& [name, node_pairs] : by_node) {
    for (size_t begin = 0; begin < node_pairs.size(); begin += most) {
      const auto first = node_pairs.begin() + begin;
      SendWork(call_id, name, {first, first + std::min(most, node_pairs.size() - begin)});
    }
  }
  return unplaced;
}

void Dispatcher::State::Send(uint64_t call_id, const std::vector<int32_t>& pairs) {
  const std::set<cluster::NodeName> avoid = calls.at(call_id).avoid;
  const std::vector<int32_t> unplaced = Assign(call_id, pairs, avoid);
  if (!unplaced.empty() && calls.contains(call_id)) Wait(call_id, unplaced);
}

// The pairs are counted as outstanding at the node already.
void Dispatcher::State::SendWork(uint64_t call_id, const cluster::NodeName& name,
                                 std::vector<int32_t> pairs) {
  const auto found = calls.find(call_id);
  const auto node = nodes.find(name);
  if (found == calls.end()) {  // a direct answer to an earlier frame has ended the call
    if (node != nodes.end()) node->second.outstanding_rows -= pairs.size();
    return;
  }
  if (node == nodes.end()) return Send(call_id, pairs);  // and it removed the link
  Call& call = found->second;
  const DispatchCall& request = call.routed->call();
  const uint64_t work_id = next_id++;
  FrameHeader header = {
      .type = FrameType::kWork,
      .flags = LostNodes(call, pairs) + 1 >= options.max_lost_nodes ? transport::kFlagAlone
                                                                    : uint16_t{0},
      .call_id = work_id,
      .layer = static_cast<uint16_t>(request.layer),
      .micro_batch = static_cast<uint16_t>(request.micro_batch),
      .pairs = static_cast<uint32_t>(pairs.size()),
      .dtype = profile.wire,
      .time_left_us = transport::TimeLeftUs(request.deadline),
      .bias_version = request.bias_version,
  };
  Buffer payload = call.routed->WorkPayload(pairs, &header.rows);
  call.works.insert(work_id);
  works[work_id] = {.call_id = call_id, .node = name, .pairs = pairs, .sent = absl::Now()};
  ArmHedgeTimer();
  if (node->second.link->Send(header, std::move(payload)).ok()) return;
  // A full queue, or a link about to tell of its death: other holders, or a little later.
  works.erase(work_id);
  node->second.outstanding_rows -= pairs.size();
  call.works.erase(work_id);
  call.avoid.insert(name);
  retries.fetch_add(1);
  Send(call_id, pairs);
}

void Dispatcher::State::Wait(uint64_t call_id, const std::vector<int32_t>& pairs) {
  Call& call = calls.at(call_id);
  call.waiting.insert(call.waiting.end(), pairs.begin(), pairs.end());
  std::sort(call.waiting.begin(), call.waiting.end());
  if (call.coverage_timer == 0) {
    call.coverage_timer = loop->RunAt(absl::Now() + options.coverage_timeout, [this, call_id] {
      Call& late = calls.at(call_id);
      late.coverage_timer = 0;
      if (late.waiting.empty()) return;  // sent since then
      const uint32_t expert = late.routed->pair(late.waiting.front()).expert;
      Finish(call_id, Unavailable("expert %d of layer %d has had no live holder for %s", expert,
                                  late.routed->call().layer,
                                  absl::FormatDuration(options.coverage_timeout).c_str()));
    });
  }
  if (call.retry_timer == 0 && !call.avoid.empty()) {
    call.retry_timer = loop->RunAt(absl::Now() + kAvoidFor, [this, call_id] {
      calls.at(call_id).retry_timer = 0;
      calls.at(call_id).avoid.clear();
      RetryWaiting(call_id);
    });
  }
}

void Dispatcher::State::RetryWaiting(uint64_t call_id) {
  const auto it = calls.find(call_id);
  if (it == calls.end() || it->second.waiting.empty()) return;
  Call& call = it->second;
  cluster::NodeName name;
  const bool any = std::any_of(call.waiting.begin(), call.waiting.end(), [&](int32_t i) {
    return Choose(call.routed->call().layer, call.routed->pair(i).expert, call.avoid, &name) !=
           nullptr;
  });
  if (!any) return;
  retries.fetch_add(1);
  Send(call_id, std::exchange(call.waiting, {}));
}

void Dispatcher::State::RetryAll() {
  std::vector<uint64_t> ids;
  for (auto& [id, call] : calls) {
    call.avoid.clear();
    if (!call.waiting.empty()) ids.push_back(id);
  }
  std::sort(ids.begin(), ids.end());
  for (uint64_t id : ids) RetryWaiting(id);
}

}  // namespace atl::dispatch
