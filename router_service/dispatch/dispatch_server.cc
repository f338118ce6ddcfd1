#include "router_service/dispatch/dispatch_server.h"

#include <cstring>
#include <map>
#include <unordered_map>
#include <utility>

#include "absl/time/clock.h"
#include "base/log.h"
#include "transport/frame.h"

namespace atl::dispatch {

using transport::Frame;
using transport::FrameHeader;
using transport::FrameType;

struct DispatchServer::State {
  struct Caller {
    std::string peer;
    std::unique_ptr<transport::Link> link;
    std::unordered_map<uint64_t, uint64_t> calls;  // the caller's id -> the dispatcher's
  };

  transport::EventLoop* loop;
  transport::PayloadShape shape;
  Dispatcher* dispatcher;
  std::map<uint64_t, Caller> callers;
  uint64_t next_caller = 1;

  void OnFrame(uint64_t caller_id, Frame frame);
  void Dispatch(uint64_t caller_id, Frame frame);
  void Answer(uint64_t caller_id, const FrameHeader& request, StatusOr<Buffer> y);
  void SendError(Caller& caller, const FrameHeader& request, const Status& status);
};

DispatchServer::DispatchServer(transport::EventLoop* loop, const model::ModelConfig& config,
                               const model::NumericProfile& profile, Dispatcher* dispatcher)
    : state_(new State{.loop = loop,
                       .shape = {.hidden_size = config.hidden_size,
                                 .num_layers = config.num_hidden_layers + config.num_nextn_predict_layers,
                                 .num_experts = config.num_expert_ids(),
                                 .wire = profile.wire},
                       .dispatcher = dispatcher}) {}

DispatchServer::~DispatchServer() {
  for (auto& [id, caller] : state_->callers) {
    for (const auto& [call, dispatched] : caller.calls) state_->dispatcher->Cancel(dispatched);
  }
}

int DispatchServer::num_links() const { return static_cast<int>(state_->callers.size()); }

void DispatchServer::AddLink(const std::string& peer, std::unique_ptr<transport::Link> link) {
  State* s = state_.get();
  const uint64_t id = s->next_caller++;
  transport::Link* raw = link.get();
  s->callers[id] = {.peer = peer, .link = std::move(link)};
  raw->SetCallbacks([s, id](Frame frame) { s->OnFrame(id, std::move(frame)); },
                    [s, id](const Status& why) {
                      State::Caller caller = std::move(s->callers.at(id));
                      s->callers.erase(id);
                      LogDebug("link of %s closed: %s", caller.peer, std::string(why.message()));
                      for (const auto& [call, dispatched] : caller.calls) s->dispatcher->Cancel(dispatched);
                    });
}

void DispatchServer::State::OnFrame(uint64_t caller_id, Frame frame) {
  Caller& caller = callers.at(caller_id);
  switch (frame.header.type) {
    case FrameType::kDispatch: {
      const Status status = transport::CheckPayload(shape, frame);
      if (!status.ok()) {
        LogWarning("link of %s closed: %s", caller.peer, std::string(status.message()));
        caller.link->Close(status);
        return;
      }
      Dispatch(caller_id, std::move(frame));
      return;
    }
    case FrameType::kCancel: {
      auto it = caller.calls.find(frame.header.call_id);
      if (it == caller.calls.end()) return;
      dispatcher->Cancel(it->second);
      caller.calls.erase(it);
      return;
    }
    case FrameType::kPing:
      // A full queue only means that the peer hears of us anyway.
      caller.link->Send({.type = FrameType::kPong, .call_id = frame.header.call_id}, Buffer()).IgnoreError();
      return;
    case FrameType::kPong: return;
    default:
      caller.link->Close(InvalidArgument("a frame of type %d, expected dispatch or cancel",
                                         static_cast<int>(frame.header.type)));
  }
}

void DispatchServer::State::Dispatch(uint64_t caller_id, Frame frame) {
  const FrameHeader header = frame.header;
  DispatchCall call{.layer = header.layer,
                    .micro_batch = header.micro_batch,
                    .bias_version = header.bias_version,
                    .rows = header.rows,
                    .x = std::move(frame.payload)};
  if (header.time_left_us != 0) call.deadline = absl::Now() + absl::Microseconds(header.time_left_us);
  // The answer may come from inside Submit: the call is entered first.
  callers.at(caller_id).calls[header.call_id] = 0;
  const uint64_t dispatched = dispatcher->Submit(std::move(call), [this, caller_id, header](StatusOr<Buffer> y) {
    Answer(caller_id, header, std::move(y));
  });
  auto caller = callers.find(caller_id);
  if (caller == callers.end()) return;
  auto it = caller->second.calls.find(header.call_id);
  if (it != caller->second.calls.end()) it->second = dispatched;
}

void DispatchServer::State::Answer(uint64_t caller_id, const FrameHeader& request, StatusOr<Buffer> y) {
  auto it = callers.find(caller_id);
  if (it == callers.end()) return;
  Caller& caller = it->second;
  caller.calls.erase(request.call_id);
  if (!y.ok()) {
    SendError(caller, request, y.status());
    return;
  }
  FrameHeader header{.type = FrameType::kCombined, .call_id = request.call_id};
  header.layer = request.layer;
  header.micro_batch = request.micro_batch;
  header.rows = request.rows;
  header.dtype = request.dtype;
  header.bias_version = request.bias_version;
  const Status sent = caller.link->Send(header, *std::move(y));
  if (!sent.ok()) caller.link->Close(Annotate(sent, "combined rows could not be sent"));
}

void DispatchServer::State::SendError(Caller& caller, const FrameHeader& request, const Status& status) {
  FrameHeader header{.type = FrameType::kError, .call_id = request.call_id};
  header.layer = static_cast<uint16_t>(status.code());
  Buffer payload(status.message().size());
  std::memcpy(payload.data(), status.message().data(), status.message().size());
  const Status sent = caller.link->Send(header, std::move(payload));
  if (!sent.ok()) caller.link->Close(Annotate(sent, "an error could not be sent"));
}

}  // namespace atl::dispatch
