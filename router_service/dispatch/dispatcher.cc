#include "router_service/dispatch/dispatcher.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "absl/time/clock.h"
#include "router_service/dispatch/dispatcher_state.h"

namespace atl::dispatch {

using transport::Frame;
using transport::FrameType;

Dispatcher::Dispatcher(transport::EventLoop* loop, kernels::KernelContext ctx,
                       const model::ModelConfig& config, const model::NumericProfile& profile,
                       const GateWeights* gates, DispatcherOptions options)
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
  for (const auto& [id, call] : state_->calls) {
    for (uint64_t timer : call.timers()) state_->loop->CancelTimer(timer);
  }
  state_->loop->CancelTimer(state_->hedge_timer);
}

Status Dispatcher::State::Check(const DispatchCall& request) const {
  if (request.layer < 0 || request.layer >= shape.num_layers ||
      !config.is_moe_layer(request.layer)) {
    return InvalidArgument("layer %d has no experts", request.layer);
  }
  const int64_t bytes = request.rows * config.hidden_size * DTypeBytes(profile.wire);
  if (request.rows < 0 || static_cast<int64_t>(request.x.size()) != bytes) {
    return InvalidArgument("%d rows in %d bytes, expected %d bytes", request.rows, request.x.size(),
                           bytes);
  }
  if (!gates->has_bias_version(request.bias_version)) {
    return FailedPrecondition("bias version %d is not loaded here", request.bias_version);
  }
  return absl::OkStatus();
}

uint64_t Dispatcher::Submit(DispatchCall request, Done done) {
  State& s = *state_;
  const uint64_t id = s.next_id++;
  if (const Status bad = s.Check(request); !bad.ok()) {
    done(bad);
    return id;
  }
  const int64_t began_ns = metrics::MonotonicNs();
  s.histograms.call_rows.Record(static_cast<double>(request.rows));
  const int32_t layer = request.layer;
  request.deadline = std::min(request.deadline, absl::Now() + s.options.call_timeout);
  const absl::Time deadline = request.deadline;
  auto routed = std::make_unique<RoutedCall>(std::move(request), s.config, s.profile);
  {
    const metrics::ScopedTime time(&s.histograms.gate_ns);
    routed->Gate(s.ctx, *s.gates);
  }
  if (s.route_hook) {
    bool replaced = false;
    s.route_hook(layer, routed->call().rows, routed->expert_ids(), routed->weights(), &replaced);
    if (replaced) routed->Reweigh(s.ctx, *s.gates);
  }
  routed->MakePairs();
  std::vector<int32_t> pairs(routed->num_pairs());
  std::iota(pairs.begin(), pairs.end(), 0);
  for (int32_t i : pairs) s.counters.Add(layer, static_cast<int32_t>(routed->pair(i).expert), 1);
  State::Call& call = s.calls[id];
  call.routed = std::move(routed);
  call.done = std::move(done);
  call.began_ns = began_ns;
  s.num_calls.fetch_add(1);
  s.submitted.fetch_add(1);
  call.deadline_timer = s.loop->RunAt(deadline, [&s, id] {
    s.Finish(id,
             absl::DeadlineExceededError("the experts did not answer within the call's deadline"));
  });
  if (pairs.empty()) {
    s.Finish(id, s.Combine(*call.routed));
  } else {
    s.Send(id, pairs);
  }
  return id;
}

void Dispatcher::Cancel(uint64_t id) {
  State& s = *state_;
  const auto it = s.calls.find(id);
  if (it == s.calls.end()) return;
  State::Call call = std::move(it->second);
  s.calls.erase(it);
  s.Forget(&call);
}

void Dispatcher::State::Finish(uint64_t call_id, StatusOr<Buffer> y) {
  const auto it = calls.find(call_id);
  if (it == calls.end()) return;
  Call call = std::move(it->second);
  calls.erase(it);
  Forget(&call);
  if (y.ok()) {
    const auto ns = static_cast<double>(metrics::MonotonicNs() - call.began_ns);
    histograms.call_seconds.Record(ns * 1e-9);
  }
  call.done(std::move(y));
}

Buffer Dispatcher::State::Combine(const RoutedCall& routed) {
  const metrics::ScopedTime time(&histograms.combine_ns);
  return routed.Combine(ctx);
}

void Dispatcher::State::Forget(Call* call) {
  for (uint64_t timer : call->timers()) loop->CancelTimer(timer);
  for (uint64_t work_id : call->works) {
    const auto work = works.extract(work_id);
    if (work.empty()) continue;
    const auto node = nodes.find(work.mapped().node);
    if (node == nodes.end()) continue;
    node->second.outstanding_rows -= work.mapped().pairs.size();
    // Best effort: a node that never hears of it computes for nothing, and the answer is dropped.
    node->second.link->Send({.type = FrameType::kCancel, .call_id = work_id}, Buffer())
        .IgnoreError();
  }
  num_calls.fetch_sub(1);
}

void Dispatcher::SetPlacement(std::shared_ptr<const cluster::Placement> placement) {
  state_->placement = std::move(placement);
  state_->RetryAll();
}

void Dispatcher::AddLink(const cluster::NodeName& node, std::unique_ptr<transport::Link> link) {
  State* s = state_.get();
  transport::Link* const added = link.get();
  RemoveLink(node);
  s->nodes[node].link = std::move(link);
  added->SetCallbacks([s, node](Frame frame) { s->OnFrame(node, std::move(frame)); },
                      [s, node](const Status& why) {
                        s->LoseNode(node, why, /*died=*/true);
                        if (s->on_link_closed) s->on_link_closed(node, why);
                      });
  s->RetryAll();
}

void Dispatcher::RemoveLink(const cluster::NodeName& node) {
  if (HasLink(node)) state_->LoseNode(node, absl::OkStatus(), /*died=*/false);
}

bool Dispatcher::HasLink(const cluster::NodeName& node) const {
  return state_->nodes.contains(node);
}

void Dispatcher::OnLinkClosed(std::function<void(const cluster::NodeName&, const Status&)> fn) {
  state_->on_link_closed = std::move(fn);
}

const RouteCounters& Dispatcher::counters() const { return state_->counters; }
const DispatchHistograms& Dispatcher::histograms() const { return state_->histograms; }
int64_t Dispatcher::outstanding() const { return state_->num_calls.load(); }
uint64_t Dispatcher::calls() const { return state_->submitted.load(); }
uint64_t Dispatcher::retries() const { return state_->retries.load(); }
uint64_t Dispatcher::hedges() const { return state_->hedges.load(); }
void Dispatcher::SetRouteHookForTest(RouteHook hook) { state_->route_hook = std::move(hook); }

}  // namespace atl::dispatch
