#include "router_service/dispatch/dispatch_server.h"

#include <map>
#include <unordered_map>
#include <utility>

#include "base/log.h"
#include "transport/frame.h"

namespace atl::dispatch {

using transport::Frame;
using transport::FrameHeader;
using transport::FrameType;

namespace {

constexpr size_t kMaxCallsPerLink = 256;

}  // namespace

struct DispatchServer::State {
  struct Caller {
    std::string peer;
    std::unique_ptr<transport::Link> link;
    std::unordered_map<uint64_t, uint64_t> calls;  // the caller's id -> the dispatcher's
  };

  transport::PayloadShape shape;
  Dispatcher* dispatcher;
  std::map<uint64_t, Caller> callers;
  uint64_t next_caller = 1;
  bool draining = false;

  void OnFrame(uint64_t caller_id, Frame frame);
  Status Dispatch(uint64_t caller_id, Frame frame);
  void Answer(uint64_t caller_id, const FrameHeader& request, StatusOr<Buffer> y);
  // A caller that does not take its answers is cut off: it then asks another router.
  static void Send(Caller& caller, const FrameHeader& header, Buffer payload);
  static void Refuse(Caller& caller, uint64_t call_id, const Status& error, uint16_t flags);
};

DispatchServer::DispatchServer(transport::EventLoop* /*loop: the dispatcher's*/,
                               const model::ModelConfig& config,
                               const model::NumericProfile& profile, Dispatcher* dispatcher)
    : state_(new State{
          .shape = {.hidden_size = config.hidden_size,
                    .num_layers = config.num_hidden_layers + config.num_nextn_predict_layers,
                    .num_experts = config.num_expert_ids(),
                    .wire = profile.wire},
          .dispatcher = dispatcher}) {}

DispatchServer::~DispatchServer() {
  for (const auto& [id, caller] : state_->callers) {
    for (const auto& [call, dispatched] : caller.calls) state_->dispatcher->Cancel(dispatched);
  }
}

int DispatchServer::num_links() const { return static_cast<int>(state_->callers.size()); }

int64_t DispatchServer::calls_in_flight() const {
  int64_t calls = 0;
  for (const auto& [id, caller] : state_->callers)
    calls += static_cast<int64_t>(caller.calls.size());
  return calls;
}

void DispatchServer::StartDrain() { state_->draining = true; }

void DispatchServer::AddLink(const std::string& peer, std::unique_ptr<transport::Link> link) {
  State* const s = state_.get();
  const uint64_t id = s->next_caller++;
  transport::Link* const added = link.get();
  s->callers[id] = {.peer = peer, .link = std::move(link)};
  added->SetCallbacks([s, id](Frame frame) { s->OnFrame(id, std::move(frame)); },
                      [s, id](const Status& why) {
                        const State::Caller caller = std::move(s->callers.at(id));
                        s->callers.erase(id);
                        LogDebug("link of %s closed: %s", caller.peer, why.ToString());
                        for (const auto& [call, dispatched] : caller.calls)
                          s->dispatcher->Cancel(dispatched);
                      });
}

void DispatchServer::State::OnFrame(uint64_t caller_id, Frame frame) {
  Caller& caller = callers.at(caller_id);
  switch (frame.header.type) {
    case FrameType::kDispatch:
      if (const Status bad = Dispatch(caller_id, std::move(frame)); !bad.ok()) {
        LogWarning("link of %s closed: %s", caller.peer, bad.ToString());
        caller.link->Close(bad);
      }
      return;
    case FrameType::kCancel: {
      const auto it = caller.calls.find(frame.header.call_id);
      if (it == caller.calls.end()) return;
      dispatcher->Cancel(it->second);
      caller.calls.erase(it);
      return;
    }
    case FrameType::kPing:
      return Send(caller, {.type = FrameType::kPong, .call_id = frame.header.call_id}, {});
    default:
      caller.link->Close(
          InvalidArgument("a frame of type %d at a router, expected dispatch or cancel",
                          static_cast<int>(frame.header.type)));
  }
}

// Not OK: the frame is bad.
Status DispatchServer::State::Dispatch(uint64_t caller_id, Frame frame) {
  ATL_RETURN_IF_ERROR(CheckPayload(shape, frame));
  const FrameHeader header = frame.header;
  Caller& caller = callers.at(caller_id);
  if (caller.calls.contains(header.call_id))
    return InvalidArgument("call id %d is in use", header.call_id);
  if (draining) {
    Refuse(caller, header.call_id, absl::UnavailableError("the router is shutting down"),
           transport::kFlagTryAnother);
    return absl::OkStatus();
  }
  if (caller.calls.size() >= kMaxCallsPerLink) {
    Refuse(caller, header.call_id,
           ResourceExhausted("%d calls are in flight on this link", caller.calls.size()), 0);
    return absl::OkStatus();
  }
  DispatchCall call = {.layer = header.layer,
                       .micro_batch = header.micro_batch,
                       .bias_version = header.bias_version,
                       .rows = header.rows,
                       .x = std::move(frame.payload),
                       .deadline = DeadlineOf(header)};
  caller.calls[header.call_id] = 0;  // before Submit, which may answer from inside
  const uint64_t dispatched = dispatcher->Submit(
      std::move(call),
      [this, caller_id, header](StatusOr<Buffer> y) { Answer(caller_id, header, std::move(y)); });
  const auto it = caller.calls.find(header.call_id);
  if (it != caller.calls.end()) it->second = dispatched;
  return absl::OkStatus();
}

void DispatchServer::State::Answer(uint64_t caller_id, const FrameHeader& request,
                                   StatusOr<Buffer> y) {
  Caller& caller = callers.at(caller_id);  // the calls of a caller that went were cancelled
  caller.calls.erase(request.call_id);
  if (!y.ok()) return Refuse(caller, request.call_id, y.status(), 0);
  const FrameHeader header = {.type = FrameType::kCombined,
                              .call_id = request.call_id,
                              .layer = request.layer,
                              .micro_batch = request.micro_batch,
                              .rows = request.rows,
                              .dtype = request.dtype,
                              .bias_version = request.bias_version};
  Send(caller, header, *std::move(y));
}

void DispatchServer::State::Refuse(Caller& caller, uint64_t call_id, const Status& error,
                                   uint16_t flags) {
  Frame frame = transport::MakeErrorFrame(call_id, error);
  frame.header.flags = flags;
  Send(caller, frame.header, std::move(frame.payload));
}

void DispatchServer::State::Send(Caller& caller, const FrameHeader& header, Buffer payload) {
  const Status sent = caller.link->Send(header, std::move(payload));
  if (!sent.ok()) caller.link->Close(Annotate(sent, "an answer could not be sent"));
}

}  // namespace atl::dispatch
