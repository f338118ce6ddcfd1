#include "expert_service/expert_engine.h"

#include <algorithm>
#include <deque>
#include <map>
#include <utility>

#include "absl/time/clock.h"
#include "base/log.h"
#include "expert_service/expert_batch.h"

namespace atl::expert {
namespace {

using transport::Frame;
using transport::FrameHeader;
using transport::FrameType;

// Enough to fill the kernels; bounds the scratch (float32 outs of a batch) and the time to the
// first answer.
constexpr int64_t kBatchPairs = 4096;

}  // namespace

struct ExpertEngine::State : std::enable_shared_from_this<ExpertEngine::State> {
  struct Peer {
    std::string name;
    std::unique_ptr<transport::Link> link;
  };
  struct Work {  // one kWork frame that waits
    uint64_t peer_id = 0;
    Frame frame;
    absl::Time deadline;
    int64_t arrived_ns = 0;
    Status refusal;  // not OK: its answer; it is not counted as queued

    int64_t pairs() const { return frame.header.pairs; }
    bool alone() const { return (frame.header.flags & transport::kFlagAlone) != 0; }
  };

  State(transport::EventLoop* loop_arg, kernels::KernelContext ctx,
        const model::ModelConfig& config_arg, const model::NumericProfile& profile,
        ExpertStore* store, EngineOptions options_arg)
      : loop(loop_arg),
        config(config_arg),
        shape({.hidden_size = config.hidden_size,
               .num_layers = config.num_hidden_layers + config.num_nextn_predict_layers,
               .num_experts = config.num_expert_ids(),
               .wire = profile.wire}),
        options(options_arg),
        stats(shape.num_layers),
        batch(ctx, config, profile, store) {}

  void OnFrame(uint64_t peer_id, Frame frame);
  Status TakeWork(uint64_t peer_id, Frame frame);
  template <typename Predicate>
  void DropWork(Predicate drop);
  void Schedule();
  void TakeBatch();
  void RunBatch();
  void ComputeTaken();
  // Computes calls of one layer, and counts.
  void Compute(int32_t layer, std::span<const BatchCall> batch_calls);
  Status CheckReady(const Work& work);
  void Answer(const Work& work, FrameHeader header, Buffer payload);
  void AnswerError(const Work& work, const Status& error);
  void Send(uint64_t peer_id, const FrameHeader& header, Buffer payload);

  int64_t OutBytes(const FrameHeader& header) const {
    return header.pairs * shape.hidden_size * DTypeBytes(shape.wire);
  }

  transport::EventLoop* const loop;
  const model::ModelConfig config;
  const transport::PayloadShape shape;
  const EngineOptions options;
  EngineStats stats;
  ExpertBatch batch;
  std::map<uint64_t, Peer> peers;
  uint64_t next_peer_id = 1;
  std::deque<Work> queue;  // oldest first
  bool scheduled = false;

  // Of the batch in hand; kept for their memory.
  std::vector<Work> taken;
  std::vector<BatchCall> calls;
  std::vector<Buffer> outs;
};

ExpertEngine::ExpertEngine(transport::EventLoop* loop, kernels::KernelContext ctx,
                           const model::ModelConfig& config, const model::NumericProfile& profile,
                           ExpertStore* store, EngineOptions options)
    : state_(std::make_shared<State>(loop, ctx, config, profile, store, options)) {}

ExpertEngine::~ExpertEngine() = default;

const EngineStats& ExpertEngine::stats() const { return state_->stats; }
int ExpertEngine::num_links() const { return static_cast<int>(state_->peers.size()); }

void ExpertEngine::AddLink(const std::string& peer, std::unique_ptr<transport::Link> link) {
  State* const s = state_.get();
  const uint64_t id = s->next_peer_id++;
  transport::Link* const added = link.get();
  s->peers.emplace(id, State::Peer{peer, std::move(link)});
  added->SetCallbacks([s, id](Frame frame) { s->OnFrame(id, std::move(frame)); },
                      [s, id](Status why) {
                        LogInfo("link from %s closed: %s", s->peers[id].name, why.ToString());
                        s->DropWork([id](const State::Work& work) { return work.peer_id == id; });
                        s->peers.erase(id);
                      });
}

Status ExpertEngine::Compute(int32_t layer, int64_t rows, const float* x,
                             std::span<const transport::WorkPair> pairs, float* out) {
  const Status found = state_->batch.Find(layer, pairs);
  if (found.ok() && !pairs.empty()) {
    const BatchCall call = {.dtype = DType::kF32, .rows = rows, .x = x, .pairs = pairs, .out = out};
    state_->Compute(layer, {&call, 1});
  }
  state_->batch.Clear();
  return found;
}

void ExpertEngine::State::OnFrame(uint64_t peer_id, Frame frame) {
  switch (frame.header.type) {
    case FrameType::kWork: {
      const Status taken_status = TakeWork(peer_id, std::move(frame));
      if (taken_status.ok()) return;
      stats.bad_frames.fetch_add(1, std::memory_order_relaxed);
      LogWarning("bad frame from %s: %s", peers[peer_id].name, taken_status.ToString());
      peers[peer_id].link->Close(taken_status);
      return;
    }
    case FrameType::kCancel:
      return DropWork([&](const Work& work) {
        return work.peer_id == peer_id && work.frame.header.call_id == frame.header.call_id;
      });
    case FrameType::kPing: {
      FrameHeader pong = frame.header;
      pong.type = FrameType::kPong;
      return Send(peer_id, pong, {});
    }
    default:
      stats.bad_frames.fetch_add(1, std::memory_order_relaxed);
      peers[peer_id].link->Close(
          InvalidArgument("frame of type %d at an expert node, expected work",
                          static_cast<int>(frame.header.type)));
  }
}

Status ExpertEngine::State::TakeWork(uint64_t peer_id, Frame frame) {
  ATL_RETURN_IF_ERROR(CheckPayload(shape, frame));
  const FrameHeader& header = frame.header;
  if (!config.is_moe_layer(header.layer))
    return InvalidArgument("work for layer %d, which has no experts", header.layer);
  if (OutBytes(header) > transport::kMaxPayloadBytes) {
    return InvalidArgument("work of %d pairs: its outs are larger than a frame", header.pairs);
  }
  const absl::Time deadline = DeadlineOf(header);
  Work work = {.peer_id = peer_id,
               .frame = std::move(frame),
               .deadline = deadline,
               .arrived_ns = metrics::MonotonicNs()};
  const int64_t queued = stats.queued_rows.load(std::memory_order_relaxed);
  if (queued > 0 && queued + work.pairs() > options.max_queued_rows) {
    work.refusal = ResourceExhausted("%d pairs are queued, no room for %d more (limit %d)", queued,
                                     work.pairs(), options.max_queued_rows);
  } else {
    stats.queued_rows.fetch_add(work.pairs(), std::memory_order_relaxed);
  }
  queue.push_back(std::move(work));
  Schedule();
  return absl::OkStatus();
}

template <typename Predicate>
void ExpertEngine::State::DropWork(Predicate drop) {
  std::erase_if(queue, [&](const Work& work) {
    if (!drop(work)) return false;
    if (work.refusal.ok()) stats.queued_rows.fetch_sub(work.pairs(), std::memory_order_relaxed);
    return true;
  });
}

// Once a turn: what comes in until the next one is merged.
void ExpertEngine::State::Schedule() {
  if (std::exchange(scheduled, true)) return;
  loop->Post([weak = weak_from_this()] {
    if (const std::shared_ptr<State> self = weak.lock()) self->RunBatch();
  });
}

// One layer's work, that of the oldest; then the loop may bring more before the next layer's.
void ExpertEngine::State::RunBatch() {
  scheduled = false;
  TakeBatch();
  std::erase_if(taken, [&](const Work& work) {
    const Status ready = CheckReady(work);
    if (!ready.ok()) AnswerError(work, ready);
    return !ready.ok();
  });
  if (!taken.empty()) ComputeTaken();
  batch.Clear();
  taken.clear();
  if (!queue.empty()) Schedule();
}

void ExpertEngine::State::TakeBatch() {
  int64_t pairs = 0;
  for (auto it = queue.begin(); it != queue.end();) {
    const bool joins = taken.empty() || (options.merge && !it->alone() && !taken[0].alone() &&
                                         pairs + it->pairs() <= kBatchPairs &&
                                         it->frame.header.layer == taken[0].frame.header.layer);
    if (!joins && it->refusal.ok()) {
      ++it;
      continue;
    }
    if (it->refusal.ok()) {
      pairs += it->pairs();
      taken.push_back(std::move(*it));
    } else {
      AnswerError(*it, it->refusal);
    }
    it = queue.erase(it);
  }
}

Status ExpertEngine::State::CheckReady(const Work& work) {
  if (absl::Now() >= work.deadline)
    return DeadlineExceeded("the time of the work was up before it started");
  return batch.Find(work.frame.header.layer, WorkPairs(work.frame));
}

void ExpertEngine::State::Compute(int32_t layer, std::span<const BatchCall> batch_calls) {
  size_t pairs = 0;
  for (const BatchCall& call : batch_calls) pairs += call.pairs.size();
  const int64_t spent_ns = batch.Compute(batch_calls);
  stats.batch_rows.Record(static_cast<double>(pairs));
  stats.batch_seconds.Record(static_cast<double>(spent_ns) * 1e-9);
  stats.layers[layer].rows.fetch_add(pairs, std::memory_order_relaxed);
  stats.layers[layer].busy_ns.fetch_add(spent_ns, std::memory_order_relaxed);
  stats.rows.fetch_add(pairs, std::memory_order_relaxed);
  stats.calls.fetch_add(batch_calls.size(), std::memory_order_relaxed);
}

void ExpertEngine::State::ComputeTaken() {
  const int64_t now_ns = metrics::MonotonicNs();
  calls.clear();
  outs.clear();
  for (const Work& work : taken) {
    outs.emplace_back(OutBytes(work.frame.header));
    calls.push_back({.dtype = shape.wire,
                     .rows = work.frame.header.rows,
                     .x = work.frame.payload.data(),
                     .pairs = WorkPairs(work.frame),
                     .out = outs.back().data()});
    stats.queue_seconds.Record(static_cast<double>(now_ns - work.arrived_ns) * 1e-9);
  }
  Compute(taken[0].frame.header.layer, calls);
  if (taken.size() > 1) stats.merged_calls.fetch_add(taken.size(), std::memory_order_relaxed);
  for (size_t i = 0; i < taken.size(); ++i) {
    FrameHeader header = taken[i].frame.header;
    header.type = FrameType::kOuts;
    Answer(taken[i], header, std::move(outs[i]));
  }
}

void ExpertEngine::State::Answer(const Work& work, FrameHeader header, Buffer payload) {
  if (work.refusal.ok()) stats.queued_rows.fetch_sub(work.pairs(), std::memory_order_relaxed);
  header.flags = 0;
  header.time_left_us = 0;
  Send(work.peer_id, header, std::move(payload));
}

void ExpertEngine::State::AnswerError(const Work& work, const Status& error) {
  stats.errors.fetch_add(1, std::memory_order_relaxed);
  Frame frame = transport::MakeErrorFrame(work.frame.header.call_id, error);
  Answer(work, frame.header, std::move(frame.payload));
}

// A peer that does not take its answers is cut off: its dispatcher then asks another holder.
void ExpertEngine::State::Send(uint64_t peer_id, const FrameHeader& header, Buffer payload) {
  const auto peer = peers.find(peer_id);
  if (peer == peers.end()) return;
  const Status sent = peer->second.link->Send(header, std::move(payload));
  if (!sent.ok()) peer->second.link->Close(sent);
}

}  // namespace atl::expert
