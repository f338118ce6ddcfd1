#include "router_service/dispatch/remote_fabric.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "base/check.h"
#include "base/log.h"
#include "transport/frame.h"

namespace atl::dispatch {

using cluster::NodeName;
using transport::Frame;
using transport::FrameHeader;
using transport::FrameType;

struct RemoteFabric::State {
  struct Router {
    std::unique_ptr<transport::Link> link;
    bool draining = false;
    absl::Time pinged =
        absl::InfiniteFuture();  // when it was last asked for a sign of life and gave none since
  };
  struct Call {
    DispatchCall request;  // kept until the answer: another router may be asked
    NodeName router;       // asked now; empty: none could be
    absl::Time sent;
    absl::Time unsent_since = absl::InfiniteFuture();
    std::optional<StatusOr<Buffer>> result;
  };

  transport::EventLoop* loop;
  transport::PayloadShape shape;
  DispatcherOptions options;
  std::map<NodeName, Router> routers;
  NodeName current;  // the router that is asked as long as it lives
  std::map<uint64_t, Call> calls;
  uint64_t next_id = 1;
  std::function<void(const NodeName&, const Status&)> on_link_closed;

  void Send(uint64_t id, Call* call);
  bool SendTo(const NodeName& name, uint64_t id, Call* call);
  void OnFrame(const NodeName& name, Frame frame);
  Status CheckAnswer(const Call& call, const Frame& frame) const;
  void TellCancelled(uint64_t id, const Call& call);
  void CheckTime(uint64_t id, Call* call);
  void CheckSilence(const Call& call);
  void LoseRouter(const NodeName& name);
};

RemoteFabric::RemoteFabric(transport::EventLoop* loop, const model::ModelConfig& config,
                           const model::NumericProfile& profile, DispatcherOptions options)
    : state_(new State{
          .loop = loop,
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
  call.request.deadline =
      std::min(call.request.deadline, absl::Now() + state_->options.call_timeout);
  state_->Send(id, &call);
  return id;
}

// To the router of before, or else to the others by name; to none: Wait tries again.
void RemoteFabric::State::Send(uint64_t id, Call* call) {
  std::vector<NodeName> order;
  if (routers.contains(current)) order.push_back(current);
  for (const auto& [name, router] : routers) {
    if (name != current) order.push_back(name);
  }
  for (const NodeName& name : order) {
    if (!routers.at(name).draining && SendTo(name, id, call)) return;
  }
  if (call->unsent_since == absl::InfiniteFuture()) call->unsent_since = absl::Now();
}

bool RemoteFabric::State::SendTo(const NodeName& name, uint64_t id, Call* call) {
  const DispatchCall& request = call->request;
  const FrameHeader header = {.type = FrameType::kDispatch,
                              .call_id = id,
                              .layer = static_cast<uint16_t>(request.layer),
                              .micro_batch = static_cast<uint16_t>(request.micro_batch),
                              .rows = static_cast<uint32_t>(request.rows),
                              .dtype = shape.wire,
                              .time_left_us = transport::TimeLeftUs(request.deadline),
                              .bias_version = request.bias_version};
  Buffer payload(request.x.size());
  if (!payload.empty()) std::memcpy(payload.data(), request.x.data(), payload.size());
  call->router = name;  // before Send: the answer may come from inside it
  call->sent = absl::Now();
  const Status sent = routers.at(name).link->Send(header, std::move(payload));
  if (sent.ok()) {
    current = name;
    call->unsent_since = absl::InfiniteFuture();
    return true;
  }
  call->router.clear();
  if (!absl::IsInvalidArgument(sent)) return false;
  // No link takes it: more rows than a window holds.
  call->result = Internal("rows of layer %d cannot be sent: %s", request.layer, sent.ToString());
  return true;
}

Status RemoteFabric::Wait(uint64_t call_id, Buffer* y) {
  State& s = *state_;
  const auto it = s.calls.find(call_id);
  ATL_CHECK(it != s.calls.end());
  State::Call& call = it->second;
  while (!call.result.has_value()) {
    const absl::Duration pause =
        call.router.empty() ? absl::Milliseconds(20) : s.options.router_silence / 4;
    s.loop->RunOnce(std::clamp(call.request.deadline - absl::Now(), absl::ZeroDuration(), pause));
    if (const Status goes_on = GoesOn(); !call.result.has_value() && !goes_on.ok()) {
      s.TellCancelled(call_id, call);
      call.result = goes_on;
    }
    if (!call.result.has_value()) s.CheckTime(call_id, &call);
  }
  StatusOr<Buffer> result = *std::move(call.result);
  s.calls.erase(it);
  if (!result.ok()) return result.status();
  *y = *std::move(result);
  return absl::OkStatus();
}

// Best effort: a router that never hears of it has the call's deadline.
void RemoteFabric::State::TellCancelled(uint64_t id, const Call& call) {
  const auto router = routers.find(call.router);
  if (router == routers.end()) return;
  router->second.link->Send({.type = FrameType::kCancel, .call_id = id}, {}).IgnoreError();
}

void RemoteFabric::State::CheckTime(uint64_t id, Call* call) {
  const absl::Time now = absl::Now();
  if (now >= call->request.deadline) {
    call->result = DeadlineExceeded("no combined rows of layer %d within the call's time",
                                    call->request.layer);
    return TellCancelled(id, *call);
  }
  if (!call->router.empty()) return CheckSilence(*call);
  Send(id, call);
  if (call->router.empty() && now - call->unsent_since >= options.coverage_timeout) {
    call->result = Unavailable("no router took the rows of layer %d for %s", call->request.layer,
                               absl::FormatDuration(options.coverage_timeout).c_str());
  }
}

// The loop has just turned, so an answer that is there has been read.
void RemoteFabric::State::CheckSilence(const Call& call) {
  const absl::Time now = absl::Now();
  const NodeName name = call.router;
  Router& router = routers.at(name);
  if (router.pinged == absl::InfiniteFuture()) {
    if (now - call.sent < options.router_silence / 4) return;
    router.pinged = now;
    router.link->Send({.type = FrameType::kPing}, {})
        .IgnoreError();  // a link that takes nothing stays silent
    return;
  }
  if (now - router.pinged < options.router_silence) return;
  const Status why = Unavailable("router %s gave no sign of life for %s", name,
                                 absl::FormatDuration(options.router_silence).c_str());
  LogWarning("link to %s closed: %s", name, why.ToString());
  router.link->Close(why);
  LoseRouter(name);
  if (on_link_closed) on_link_closed(name, why);
}

void RemoteFabric::State::OnFrame(const NodeName& name, Frame frame) {
  Router& router = routers.at(name);
  router.pinged = absl::InfiniteFuture();
  if (frame.header.type == FrameType::kPong) return;
  const auto it = calls.find(frame.header.call_id);
  if (it == calls.end() || it->second.router != name || it->second.result.has_value())
    return;  // late
  Call& call = it->second;
  if (const Status bad = CheckAnswer(call, frame); !bad.ok()) {
    LogWarning("link to %s closed: %s", name, bad.ToString());
    router.link->Close(bad);  // its calls go elsewhere when it tells of its end
    return;
  }
  if (frame.header.type == FrameType::kCombined) {
    call.result = std::move(frame.payload);
  } else if ((frame.header.flags & transport::kFlagTryAnother) != 0) {
    router.draining = true;
    call.router.clear();  // Wait asks another
    call.unsent_since = absl::Now();
  } else {
    call.result = ErrorOf(frame);
  }
}

Status RemoteFabric::State::CheckAnswer(const Call& call, const Frame& frame) const {
  if (frame.header.type != FrameType::kCombined && frame.header.type != FrameType::kError) {
    return InvalidArgument("a call was answered with a frame of type %d",
                           static_cast<int>(frame.header.type));
  }
  ATL_RETURN_IF_ERROR(CheckPayload(shape, frame));
  if (frame.header.type == FrameType::kCombined && frame.header.rows != call.request.rows) {
    return InvalidArgument("%d combined rows, expected %d", frame.header.rows, call.request.rows);
  }
  return absl::OkStatus();
}

void RemoteFabric::State::LoseRouter(const NodeName& name) {
  routers.erase(name);
  if (current == name) current.clear();
  for (auto& [id, call] : calls) {
    if (call.router != name || call.result.has_value()) continue;
    call.router.clear();
    Send(id, &call);
  }
}

void RemoteFabric::AddLink(const NodeName& router, std::unique_ptr<transport::Link> link) {
  State* const s = state_.get();
  transport::Link* const added = link.get();
  RemoveLink(router);
  s->routers[router].link = std::move(link);
  added->SetCallbacks([s, router](Frame frame) { s->OnFrame(router, std::move(frame)); },
                      [s, router](const Status& why) {
                        s->LoseRouter(router);
                        if (s->on_link_closed) s->on_link_closed(router, why);
                      });
}

void RemoteFabric::RemoveLink(const NodeName& router) {
  if (HasLink(router)) state_->LoseRouter(router);
}

bool RemoteFabric::HasLink(const NodeName& router) const {
  return state_->routers.contains(router);
}

void RemoteFabric::OnLinkClosed(std::function<void(const NodeName&, const Status&)> fn) {
  state_->on_link_closed = std::move(fn);
}

}  // namespace atl::dispatch
