#include "router_service/dispatch/dispatcher.h"

#include <algorithm>
#include <atomic>
#include <map>
#include <set>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "base/check.h"
#include "base/log.h"
#include "router_service/dispatch/routed_call.h"

namespace atl::dispatch {

using transport::Frame;
using transport::FrameHeader;
using transport::FrameType;

namespace {

// A node that answered NOT_FOUND or RESOURCE_EXHAUSTED is asked again after this, unless a new placement comes before.
constexpr absl::Duration kAvoidFor = absl::Milliseconds(20);

}  // namespace

struct Dispatcher::State {
  struct Node {
    std::unique_ptr<transport::Link> link;
    int64_t outstanding_rows = 0;
  };

  // A frame that a node has and has not answered.
  struct Work {
    uint64_t call_id = 0;
    cluster::NodeName node;
    std::vector<int32_t> pairs;
  };

  struct Call {
    std::unique_ptr<RoutedCall> routed;
    Done done;
    std::vector<int32_t> waiting;        // pairs that no live node takes now
    std::set<cluster::NodeName> avoid;   // answered that they cannot
    std::set<uint64_t> works;
    int lost_nodes = 0;
    uint64_t deadline_timer = 0;
    uint64_t coverage_timer = 0;
    uint64_t retry_timer = 0;
  };

  transport::EventLoop* loop;
  kernels::KernelContext ctx;
  model::ModelConfig config;
  model::NumericProfile profile;
  const GateWeights* gates;
  DispatcherOptions options;
  transport::PayloadShape shape;
  RouteCounters counters;
  RouteHook route_hook;
  std::function<void(const cluster::NodeName&, const Status&)> on_link_closed;

  std::map<cluster::NodeName, Node> nodes;  // with a live link
  std::shared_ptr<const cluster::Placement> placement = std::make_shared<cluster::Placement>();
  std::unordered_map<uint64_t, Call> calls;
  std::unordered_map<uint64_t, Work> works;
  uint64_t next_id = 1;
  std::atomic<int64_t> num_calls{0};
  std::atomic<uint64_t> retries{0};

  // Assigns `pairs` (ascending) of a call to holders and sends them; those without a holder wait.
  void Send(uint64_t call_id, std::vector<int32_t> pairs);
  // The live holder of (layer, expert) with the fewest rows to do, then the lowest name; null: none.
  Node* Choose(const Call& call, int32_t layer, uint32_t expert, cluster::NodeName* name);
  void SendWork(uint64_t call_id, const cluster::NodeName& name, std::vector<int32_t> pairs);
  void Wait(uint64_t call_id, const std::vector<int32_t>& pairs);
  void RetryWaiting(uint64_t call_id);
  void RetryAll();
  void OnFrame(const cluster::NodeName& name, Frame frame);
  void OnOuts(const cluster::NodeName& name, Work work, Frame frame);
  void OnError(const cluster::NodeName& name, Work work, const Frame& frame);
  void LoseNode(const cluster::NodeName& name, const Status& why);
  std::string FirstMissing(const Call& call) const;
  // Ends the call: its timers, its outstanding work, then `done`.
  void Finish(uint64_t call_id, StatusOr<Buffer> y);
  void Forget(Call* call);
};

Dispatcher::Dispatcher(transport::EventLoop* loop, kernels::KernelContext ctx, const model::ModelConfig& config,
                       const model::NumericProfile& profile, const GateWeights* gates, DispatcherOptions options)
    : state_(new State{
          .loop = loop,
          .ctx = ctx,
          .config = config,
          .profile = profile,
          .gates = gates,
          .options = options,
          .shape = {.hidden_size = config.hidden_size,
                    .num_layers = config.num_hidden_layers + config.num_nextn_predict_layers,
                    .num_experts = config.num_expert_ids(),
                    .wire = profile.wire},
          .counters = RouteCounters(config.num_hidden_layers + config.num_nextn_predict_layers,
                                    config.num_expert_ids()),
      }) {}

Dispatcher::~Dispatcher() {
  for (auto& [id, call] : state_->calls) {
    for (uint64_t timer : {call.deadline_timer, call.coverage_timer, call.retry_timer}) {
      if (timer != 0) state_->loop->CancelTimer(timer);
    }
  }
}

uint64_t Dispatcher::Submit(DispatchCall request, Done done) {
  State& s = *state_;
  const uint64_t id = s.next_id++;
  const int32_t layer = request.layer;
  const absl::Time deadline = request.deadline;
  auto routed = std::make_unique<RoutedCall>(std::move(request), s.config, s.profile);
  routed->Gate(s.ctx, *s.gates);
  if (s.route_hook) {
    bool replaced = false;
    s.route_hook(layer, routed->call().rows, routed->expert_ids(), routed->weights(), &replaced);
    if (replaced) routed->Reweigh(s.ctx, *s.gates);
  }
  routed->MakePairs();
  std::vector<int32_t> pairs(routed->num_pairs());
  for (int32_t i = 0; i < static_cast<int32_t>(pairs.size()); ++i) {
    pairs[i] = i;
    s.counters.Add(layer, static_cast<int32_t>(routed->pair(i).expert), 1);
  }
  State::Call& call = s.calls[id];
  call.routed = std::move(routed);
  call.done = std::move(done);
  s.num_calls.fetch_add(1);
  if (deadline != absl::InfiniteFuture()) {
    call.deadline_timer = s.loop->RunAt(deadline, [&s, id] {
      s.calls[id].deadline_timer = 0;
      s.Finish(id, absl::DeadlineExceededError("the experts did not answer within the call's deadline"));
    });
  }
  if (pairs.empty()) {
    s.Finish(id, call.routed->Combine(s.ctx));
  } else {
    s.Send(id, std::move(pairs));
  }
  return id;
}

void Dispatcher::Cancel(uint64_t id) {
  State& s = *state_;
  auto it = s.calls.find(id);
  if (it == s.calls.end()) return;
  State::Call call = std::move(it->second);
  s.calls.erase(it);
  s.Forget(&call);
}

void Dispatcher::State::Forget(Call* call) {
  for (uint64_t timer : {call->deadline_timer, call->coverage_timer, call->retry_timer}) {
    if (timer != 0) loop->CancelTimer(timer);
  }
  for (uint64_t work_id : call->works) {
    auto it = works.find(work_id);
    if (it == works.end()) continue;
    auto node = nodes.find(it->second.node);
    if (node != nodes.end()) {
      node->second.outstanding_rows -= it->second.pairs.size();
      // Best effort: a node that never hears of it computes for nothing, and the answer is dropped.
      node->second.link->Send({.type = FrameType::kCancel, .call_id = work_id}, Buffer()).IgnoreError();
    }
    works.erase(it);
  }
  num_calls.fetch_sub(1);
}

void Dispatcher::State::Finish(uint64_t call_id, StatusOr<Buffer> y) {
  auto it = calls.find(call_id);
  if (it == calls.end()) return;
  Call call = std::move(it->second);
  calls.erase(it);
  Forget(&call);
  call.done(std::move(y));
}

Dispatcher::State::Node* Dispatcher::State::Choose(const Call& call, int32_t layer, uint32_t expert,
                                                   cluster::NodeName* name) {
  if (layer >= static_cast<int32_t>(placement->holders.size()) || expert >= placement->holders[layer].size()) {
    return nullptr;
  }
  Node* best = nullptr;
  for (int32_t holder : placement->holders[layer][expert]) {
    const cluster::NodeName& candidate = placement->nodes[holder];
    auto it = nodes.find(candidate);
    if (it == nodes.end() || call.avoid.contains(candidate)) continue;
    if (best != nullptr && (it->second.outstanding_rows > best->outstanding_rows ||
                            (it->second.outstanding_rows == best->outstanding_rows && candidate > *name))) {
      continue;
    }
    best = &it->second;
    *name = candidate;
  }
  return best;
}

void Dispatcher::State::Send(uint64_t call_id, std::vector<int32_t> pairs) {
  Call& call = calls.at(call_id);
  const RoutedCall& routed = *call.routed;
  const int32_t layer = routed.call().layer;
  std::map<cluster::NodeName, std::vector<int32_t>> by_node;
  std::vector<int32_t> unplaced;
  // All pairs of one expert go to one holder: its weights are read once.
  for (size_t begin = 0; begin < pairs.size();) {
    const uint32_t expert = routed.pair(pairs[begin]).expert;
    size_t end = begin;
    while (end < pairs.size() && routed.pair(pairs[end]).expert == expert) ++end;
    cluster::NodeName name;
    Node* node = Choose(call, layer, expert, &name);
    std::vector<int32_t>& to = node == nullptr ? unplaced : by_node[name];
    to.insert(to.end(), pairs.begin() + begin, pairs.begin() + end);
    if (node != nullptr) node->outstanding_rows += end - begin;
    begin = end;
  }
  if (!unplaced.empty()) Wait(call_id, unplaced);
  for (auto& [name, node_pairs] : by_node) SendWork(call_id, name, std::move(node_pairs));
}

void Dispatcher::State::SendWork(uint64_t call_id, const cluster::NodeName& name, std::vector<int32_t> pairs) {
  auto found = calls.find(call_id);
  auto node = nodes.find(name);
  if (found == calls.end() || node == nodes.end()) {
    // An earlier frame's direct answer ended the call, or its send found the link closed.
    if (node != nodes.end()) node->second.outstanding_rows -= pairs.size();
    if (found != calls.end()) Wait(call_id, pairs);
    return;
  }
  Call& call = found->second;
  const DispatchCall& request = call.routed->call();
  FrameHeader header{.type = FrameType::kWork, .call_id = next_id++};
  header.layer = static_cast<uint16_t>(request.layer);
  header.micro_batch = static_cast<uint16_t>(request.micro_batch);
  header.pairs = static_cast<uint32_t>(pairs.size());
  header.dtype = profile.wire;
  header.bias_version = request.bias_version;
  if (request.deadline != absl::InfiniteFuture()) {
    const int64_t left = absl::ToInt64Microseconds(request.deadline - absl::Now());
    header.time_left_us = static_cast<uint32_t>(std::clamp<int64_t>(left, 1, UINT32_MAX));
  }
  Buffer payload = call.routed->WorkPayload(pairs, &header.rows);
  const uint64_t work_id = header.call_id;
  call.works.insert(work_id);
  works[work_id] = {.call_id = call_id, .node = name, .pairs = pairs};
  const Status sent = node->second.link->Send(header, std::move(payload));
  if (sent.ok()) return;
  // A full queue, or a link about to tell of its death: other holders, or a little later.
  auto work = works.find(work_id);
  if (work == works.end()) return;
  works.erase(work);
  node = nodes.find(name);
  if (node != nodes.end()) node->second.outstanding_rows -= pairs.size();
  found = calls.find(call_id);
  if (found == calls.end()) return;
  found->second.works.erase(work_id);
  found->second.avoid.insert(name);
  retries.fetch_add(1);
  Send(call_id, std::move(pairs));
}

void Dispatcher::State::Wait(uint64_t call_id, const std::vector<int32_t>& pairs) {
  Call& call = calls.at(call_id);
  call.waiting.insert(call.waiting.end(), pairs.begin(), pairs.end());
  std::sort(call.waiting.begin(), call.waiting.end());
  if (call.coverage_timer == 0) {
    call.coverage_timer = loop->RunAt(absl::Now() + options.coverage_timeout, [this, call_id] {
      Call& late = calls.at(call_id);
      late.coverage_timer = 0;
      Finish(call_id, Unavailable("%s has had no live holder for %s", FirstMissing(late),
                                  absl::FormatDuration(options.coverage_timeout)));
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

std::string Dispatcher::State::FirstMissing(const Call& call) const {
  if (call.waiting.empty()) return "an expert";
  const RoutedCall& routed = *call.routed;
  return absl::StrFormat("layer %d expert %d", routed.call().layer, routed.pair(call.waiting.front()).expert);
}

void Dispatcher::State::RetryWaiting(uint64_t call_id) {
  auto it = calls.find(call_id);
  if (it == calls.end() || it->second.waiting.empty()) return;
  Call& call = it->second;
  std::vector<int32_t> pairs = std::exchange(call.waiting, {});
  const RoutedCall* routed = call.routed.get();
  const int32_t layer = routed->call().layer;
  const bool any = std::any_of(pairs.begin(), pairs.end(), [&](int32_t i) {
    cluster::NodeName name;
    return Choose(call, layer, routed->pair(i).expert, &name) != nullptr;
  });
  if (!any) {
    call.waiting = std::move(pairs);
    return;
  }
  retries.fetch_add(1);
  Send(call_id, std::move(pairs));
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

void Dispatcher::State::OnFrame(const cluster::NodeName& name, Frame frame) {
  if (frame.header.type == FrameType::kLoad || frame.header.type == FrameType::kPong) return;
  auto it = works.find(frame.header.call_id);
  if (it == works.end() || it->second.node != name) return;  // late: nobody waits for it any more
  Work work = std::move(it->second);
  works.erase(it);
  nodes.at(name).outstanding_rows -= work.pairs.size();
  calls.at(work.call_id).works.erase(frame.header.call_id);
  switch (frame.header.type) {
    case FrameType::kOuts: OnOuts(name, std::move(work), std::move(frame)); break;
    case FrameType::kError: OnError(name, std::move(work), frame); break;
    default:
      Finish(work.call_id, Internal("expert node %s answered work with a frame of type %d", name,
                                    static_cast<int>(frame.header.type)));
  }
}

void Dispatcher::State::OnOuts(const cluster::NodeName& name, Work work, Frame frame) {
  Status status = transport::CheckPayload(shape, frame);
  if (status.ok() && frame.header.pairs != work.pairs.size()) {
    status = InvalidArgument("outs of %d pairs, expected %d", frame.header.pairs, work.pairs.size());
  }
  if (!status.ok()) {
    // A node that answers nonsense is as good as dead: its link goes, its work is done again elsewhere.
    LogWarning("link to %s closed: %s", name, std::string(status.message()));
    nodes.at(name).link->Close(status);
    calls.at(work.call_id).avoid.insert(name);
    Send(work.call_id, std::move(work.pairs));
    return;
  }
  Call& call = calls.at(work.call_id);
  call.routed->AddOuts(work.pairs, std::move(frame.payload));
  // Progress: the coverage timeout counts from the next time that something waits.
  if (call.waiting.empty() && call.coverage_timer != 0) loop->CancelTimer(std::exchange(call.coverage_timer, 0));
  if (call.routed->complete()) Finish(work.call_id, call.routed->Combine(ctx));
}

void Dispatcher::State::OnError(const cluster::NodeName& name, Work work, const Frame& frame) {
  const auto code = static_cast<absl::StatusCode>(frame.header.layer);
  const std::string message(frame.payload.as<char>(), frame.payload.size());
  Call& call = calls.at(work.call_id);
  if (code == absl::StatusCode::kNotFound || code == absl::StatusCode::kResourceExhausted ||
      code == absl::StatusCode::kUnavailable) {
    LogDebug("expert node %s: %s", name, message);
    call.avoid.insert(name);
    retries.fetch_add(1);
    Send(work.call_id, std::move(work.pairs));
    return;
  }
  Finish(work.call_id, Status(code, absl::StrFormat("expert node %s: %s", name, message)));
}

void Dispatcher::State::LoseNode(const cluster::NodeName& name, const Status& why) {
  std::map<uint64_t, std::vector<int32_t>> lost;  // call -> pairs
  for (auto it = works.begin(); it != works.end();) {
    if (it->second.node != name) {
      ++it;
      continue;
    }
    std::vector<int32_t>& pairs = lost[it->second.call_id];
    pairs.insert(pairs.end(), it->second.pairs.begin(), it->second.pairs.end());
    calls.at(it->second.call_id).works.erase(it->first);
    it = works.erase(it);
  }
  nodes.erase(name);
  for (auto& [call_id, pairs] : lost) {
    auto it = calls.find(call_id);
    if (it == calls.end()) continue;
    if (++it->second.lost_nodes >= options.max_lost_nodes) {
      Finish(call_id, Internal("work of layer %d has lost %d expert nodes, the last one %s: %s",
                               it->second.routed->call().layer, it->second.lost_nodes, name,
                               std::string(why.message())));
      continue;
    }
    std::sort(pairs.begin(), pairs.end());
    retries.fetch_add(1);
    Send(call_id, std::move(pairs));
  }
}

void Dispatcher::SetPlacement(std::shared_ptr<const cluster::Placement> placement) {
  state_->placement = std::move(placement);
  state_->RetryAll();
}

void Dispatcher::AddLink(const cluster::NodeName& node, std::unique_ptr<transport::Link> link) {
  State* s = state_.get();
  if (s->nodes.contains(node)) s->LoseNode(node, absl::UnavailableError("replaced by a new link"));
  transport::Link* raw = link.get();
  s->nodes[node].link = std::move(link);
  raw->SetCallbacks([s, node](Frame frame) { s->OnFrame(node, std::move(frame)); },
                    [s, node](const Status& why) {
                      s->LoseNode(node, why);
                      if (s->on_link_closed) s->on_link_closed(node, why);
                    });
  s->RetryAll();
}

void Dispatcher::RemoveLink(const cluster::NodeName& node) {
  if (HasLink(node)) state_->LoseNode(node, absl::UnavailableError("the node was removed"));
}

bool Dispatcher::HasLink(const cluster::NodeName& node) const { return state_->nodes.contains(node); }

void Dispatcher::OnLinkClosed(std::function<void(const cluster::NodeName&, const Status&)> fn) {
  state_->on_link_closed = std::move(fn);
}

const RouteCounters& Dispatcher::counters() const { return state_->counters; }

int64_t Dispatcher::outstanding() const { return state_->num_calls.load(); }

uint64_t Dispatcher::retries() const { return state_->retries.load(); }

void Dispatcher::SetRouteHookForTest(RouteHook hook) { state_->route_hook = std::move(hook); }

}  // namespace atl::dispatch
