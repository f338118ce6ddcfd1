#include "router_service/dispatch/remote_fabric.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <optional>
#include <string>
#include <utility>

#include "absl/time/clock.h"
#include "base/check.h"
#include "base/log.h"
#include "transport/frame.h"

namespace atl::dispatch {

using transport::Frame;
using transport::FrameHeader;
using transport::FrameType;

struct RemoteFabric::State {
  struct Call {
    DispatchCall request;  // kept until the answer: another router may be asked
    cluster::NodeName router;  // asked now; empty: none could be
    std::optional<StatusOr<Buffer>> result;
    absl::Time unsent_since = absl::InfiniteFuture();
  };

  transport::EventLoop* loop;
  transport::PayloadShape shape;
  DispatcherOptions options;
  std::map<cluster::NodeName, std::unique_ptr<transport::Link>> routers;
  cluster::NodeName current;  // the router that is asked as long as it lives
  std::map<uint64_t, Call> calls;
  uint64_t next_id = 1;
  std::function<void(const cluster::NodeName&, const Status&)> on_link_closed;

  void Send(uint64_t id, Call* call);
  void OnFrame(const cluster::NodeName& router, Frame frame);
  void LoseRouter(const cluster::NodeName& router);
};

RemoteFabric::RemoteFabric(transport::EventLoop* loop, const model::ModelConfig& config,
                           const model::NumericProfile& profile, DispatcherOptions options)
    : state_(new State{.loop = loop,
                       .shape = {.hidden_size = config.hidden_size,
                                 .num_layers = config.num_hidden_layers + config.num_nextn_predict_layers,
                                 .num_experts = config.num_expert_ids(),
                                 .wire = profile.wire},
                       .options = options}) {}

RemoteFabric::~RemoteFabric() = default;

uint64_t RemoteFabric::Submit(DispatchCall request) {
  const uint64_t id = state_->next_id++;
  State::Call& call = state_->calls[id];
  call.request = std::move(request);
  state_->Send(id, &call);
  return id;
}

void RemoteFabric::State::Send(uint64_t id, Call* call) {
  const DispatchCall& request = call->request;
  FrameHeader header{.type = FrameType::kDispatch, .call_id = id};
  header.layer = static_cast<uint16_t>(request.layer);
  header.micro_batch = static_cast<uint16_t>(request.micro_batch);
  header.rows = static_cast<uint32_t>(request.rows);
  header.dtype = shape.wire;
  header.bias_version = request.bias_version;
  if (request.deadline != absl::InfiniteFuture()) {
    const int64_t left = absl::ToInt64Microseconds(request.deadline - absl::Now());
    header.time_left_us = static_cast<uint32_t>(std::clamp<int64_t>(left, 1, UINT32_MAX));
  }
  // The router of before, then the others by name.
  call->router.clear();
  for (size_t tries = 0; tries < 1 + routers.size(); ++tries) {
    auto it = tries == 0 ? routers.find(current) : std::next(routers.begin(), tries - 1);
    if (it == routers.end()) continue;
    Buffer payload(request.x.size());
    std::memcpy(payload.data(), request.x.data(), payload.size());
    call->router = it->first;  // before Send: the answer may come from inside it
    const cluster::NodeName name = it->first;
    if (it->second->Send(header, std::move(payload)).ok()) {
      current = name;
      call->unsent_since = absl::InfiniteFuture();
      return;
    }
    call->router.clear();
  }
  if (call->unsent_since == absl::InfiniteFuture()) call->unsent_since = absl::Now();
}

Status RemoteFabric::Wait(uint64_t call_id, Buffer* y) {
  State& s = *state_;
  auto it = s.calls.find(call_id);
  ATL_CHECK(it != s.calls.end());
  State::Call& call = it->second;
  while (!call.result.has_value()) {
    // A router always answers, by its own timers, or its link dies; without a router the time is counted here.
    s.loop->RunOnce(absl::Milliseconds(call.router.empty() ? 20 : 1000));
    if (call.result.has_value() || !call.router.empty()) continue;
    s.Send(call_id, &call);
    if (call.router.empty() && absl::Now() - call.unsent_since > s.options.coverage_timeout) {
      call.result = Unavailable("no router for %s", absl::FormatDuration(s.options.coverage_timeout));
    }
  }
  StatusOr<Buffer> result = *std::move(call.result);
  s.calls.erase(it);
  if (!result.ok()) return result.status();
  *y = *std::move(result);
  return absl::OkStatus();
}

void RemoteFabric::State::OnFrame(const cluster::NodeName& router, Frame frame) {
  auto it = calls.find(frame.header.call_id);
  if (it == calls.end() || it->second.router != router || it->second.result.has_value()) return;  // late
  Call& call = it->second;
  if (frame.header.type == FrameType::kError) {
    const auto code = static_cast<absl::StatusCode>(frame.header.layer);
    call.result = Status(code, std::string(frame.payload.as<char>(), frame.payload.size()));
    return;
  }
  if (frame.header.type != FrameType::kCombined) return;
  Status status = transport::CheckPayload(shape, frame);
  if (status.ok() && frame.header.rows != call.request.rows) {
    status = InvalidArgument("%d combined rows, expected %d", frame.header.rows, call.request.rows);
  }
  if (!status.ok()) {
    LogWarning("link to %s closed: %s", router, std::string(status.message()));
    call.router.clear();  // Wait asks another
    call.unsent_since = absl::Now();
    routers.at(router)->Close(status);
    return;
  }
  call.result = std::move(frame.payload);
}

void RemoteFabric::State::LoseRouter(const cluster::NodeName& router) {
  routers.erase(router);
  if (current == router) current.clear();
  for (auto& [id, call] : calls) {
    if (call.router == router && !call.result.has_value()) Send(id, &call);
  }
}

void RemoteFabric::AddLink(const cluster::NodeName& router, std::unique_ptr<transport::Link> link) {
  State* s = state_.get();
  if (s->routers.contains(router)) s->LoseRouter(router);
  transport::Link* raw = link.get();
  s->routers[router] = std::move(link);
  raw->SetCallbacks([s, router](Frame frame) { s->OnFrame(router, std::move(frame)); },
                    [s, router](const Status& why) {
                      s->LoseRouter(router);
                      if (s->on_link_closed) s->on_link_closed(router, why);
                    });
}

void RemoteFabric::RemoveLink(const cluster::NodeName& router) {
  if (HasLink(router)) state_->LoseRouter(router);
}

bool RemoteFabric::HasLink(const cluster::NodeName& router) const { return state_->routers.contains(router); }

void RemoteFabric::OnLinkClosed(std::function<void(const cluster::NodeName&, const Status&)> fn) {
  state_->on_link_closed = std::move(fn);
}

}  // namespace atl::dispatch
