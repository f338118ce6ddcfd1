#include "attention_service/engine.h"

#include <unistd.h>

#include <algorithm>
#include <numeric>
#include <utility>

#include "absl/time/clock.h"
#include "attention_service/sampler.h"
#include "transport/link.h"

namespace atl::attention {
namespace {

namespace pb = atollpb::v1;

// Rows of logits in memory at a time: a prompt's logprobs would otherwise take T x V floats.
constexpr int64_t kLogitRows = 16;
// Halves of a step below this cost more in weights read twice than they hide.
constexpr int64_t kMinMicroBatchRows = 32;
constexpr size_t kMaxAnnouncedPrefixes = 4096;
constexpr int kMaxLogprobs = 20;  // inference.proto

}  // namespace

StatusOr<EngineOptions> ResolveEngineOptions(EngineOptions options,
                                             const model::ModelConfig& config,
                                             const model::NumericProfile& profile) {
  const int64_t model_context = config.max_position_embeddings;
  if (options.context_length < 0 || options.context_length > model_context) {
    return InvalidArgument("context of %d tokens: the model has %d", options.context_length,
                           model_context);
  }
  if (options.context_length == 0) options.context_length = model_context;
  // A micro-batch travels in one frame, however many a step has.
  const int64_t row_bytes = config.hidden_size * DTypeBytes(profile.wire);
  const int64_t window = transport::LinkLimits().window_bytes;
  if (options.max_step_tokens > window / row_bytes) {
    return InvalidArgument(
        "--max-step-tokens: expected at most the %d rows of a link's window, found %d",
        window / row_bytes, options.max_step_tokens);
  }
  if (options.speculate < 0 || options.speculate > kMaxSpeculate) {
    return InvalidArgument("--speculate %d: expected 0 to %d", options.speculate, kMaxSpeculate);
  }
  if (options.speculate > 0 && config.num_nextn_predict_layers == 0) {
    return InvalidArgument("--speculate %d: the model has no MTP layer to guess tokens with",
                           options.speculate);
  }
  const int64_t layers = config.num_hidden_layers + (options.speculate > 0 ? 1 : 0);
  const int64_t block_bytes = kernels::CacheBlockBytes(CacheShape(config, profile, 1.0f)) * layers;
  const int64_t needed = (options.context_length + kernels::kCacheBlock - 1) / kernels::kCacheBlock;
  if (options.cache_blocks == 0) {
    const int64_t automatic = std::max<int64_t>(int64_t{1} << 30, needed * block_bytes);
    const int64_t bytes = options.cache_bytes > 0 ? options.cache_bytes : automatic;
    options.cache_blocks = bytes / block_bytes;
  }
  if (options.cache_blocks < needed) {
    return InvalidArgument(
        "latent cache of %d blocks holds %d positions, fewer than the context of %d: give it %d "
        "bytes or lower --context",
        options.cache_blocks, options.cache_blocks * kernels::kCacheBlock, options.context_length,
        needed * block_bytes);
  }
  const int64_t memory = int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGESIZE);
  if (options.cache_blocks > memory / block_bytes) {
    return InvalidArgument(
        "latent cache of %d blocks of %d bytes: expected at most the %d bytes of this machine's "
        "memory",
        options.cache_blocks, block_bytes, memory);
  }
  return options;
}

class Engine::LocalRun : public Run {
 public:
  LocalRun(Engine* engine, uint64_t sequence_id, std::shared_ptr<RunSink> sink)
      : engine_(engine), sequence_id_(sequence_id), sink_(std::move(sink)) {}
  ~LocalRun() override {
    sink_->Detach();
    engine_->Cancel(sequence_id_);
  }
  void Cancel() override { engine_->Cancel(sequence_id_); }

 private:
  Engine* const engine_;
  const uint64_t sequence_id_;
  const std::shared_ptr<RunSink> sink_;
};

Engine::Engine(transport::EventLoop* loop, const kernels::KernelContext& ctx,
               const ModelWeights* weights, dispatch::ExpertFabric* fabric,
               const EngineOptions& options, std::string revision)
    : loop_(loop),
      fabric_(fabric),
      ctx_(ctx),
      weights_(weights),
      options_(options),
      revision_(std::move(revision)),
      numerics_id_(model::NumericsId(weights->profile)),
      cache_(CacheShape(weights->config, weights->profile, weights->softmax_scale),
             weights->layers.size(), options.cache_blocks),
      runner_(ctx, weights, &cache_, fabric, options.micro_batches, kMinMicroBatchRows),
      scheduler_(options, &cache_) {
  stats_.blocks_total = static_cast<uint32_t>(cache_.num_blocks());
  fabric->SetNobodyWaits([this] { return StepIsAbandoned(); });
  stats_.block_bytes = static_cast<uint64_t>(cache_.block_bytes()) * weights->layers.size();
  if (options.speculate > 0) drafter_ = std::make_unique<Drafter>(ctx, weights, &runner_, options);
}

Engine::~Engine() = default;

Status Engine::Validate(const pb::RunStart& start) const {
  if (!admitting_.load()) return absl::UnavailableError("the node is draining");
  if (start.revision() != revision_) {
    return FailedPrecondition("revision '%s' asked for, the node serves '%s'", start.revision(),
                              revision_);
  }
  if (start.numerics_id() != numerics_id_) {
    return FailedPrecondition("numerics id '%s' asked for, the node computes '%s'",
                              start.numerics_id(), numerics_id_);
  }
  if (start.bias_version() != 0) {
    return FailedPrecondition("bias version %d asked for, the node holds 0", start.bias_version());
  }
  const int64_t size = int64_t{start.prompt_ids_size()} + start.generated_ids_size();
  if (start.prompt_ids_size() == 0) return absl::InvalidArgumentError("the prompt has no tokens");
  const bool generates = start.max_tokens() > 0;
  if (size > options_.context_length - (generates ? 1 : 0)) {
    return InvalidArgument("%d tokens leave no room in a context of %d", size,
                           options_.context_length);
  }
  const uint32_t vocab = static_cast<uint32_t>(weights_->config.vocab_size);
  for (const auto* ids : {&start.prompt_ids(), &start.generated_ids()}) {
    for (uint32_t id : *ids) {
      if (id >= vocab) return InvalidArgument("token id %d, the vocabulary has %d", id, vocab);
    }
  }
  for (const int32_t count : {start.logprobs(), start.prompt_logprobs()}) {
    if (count > kMaxLogprobs)
      return InvalidArgument("%d logprobs a token, at most %d are given", count, kMaxLogprobs);
  }
  ATL_RETURN_IF_ERROR(CheckSampling(start.sampling(), vocab));
  if (start.max_tokens() <= static_cast<uint32_t>(start.generated_ids_size()) &&
      (generates || start.generated_ids_size() > 0)) {
    return InvalidArgument("max_tokens %d with %d tokens generated before", start.max_tokens(),
                           start.generated_ids_size());
  }
  return absl::OkStatus();
}

std::unique_ptr<Run> Engine::Start(const pb::RunStart& start, RunObserver* observer) {
  auto sink = std::make_shared<RunSink>(observer);
  const uint64_t id = next_id_.fetch_add(1);
  Status status = Validate(start);
  const uint32_t limit = static_cast<uint32_t>(options_.max_running + options_.max_waiting);
  if (status.ok() && num_sequences_.fetch_add(1) >= limit) {
    num_sequences_.fetch_sub(1);
    status = ResourceExhausted("%d sequences are here already", limit);
  }
  if (status.ok()) {
    auto sequence = std::make_unique<Sequence>(id, start, sink, absl::Now());
    if (weights_->profile.expands_prompts())
      sequence->num_expanded = static_cast<int64_t>(sequence->prompt_size);
    Send({.start = std::move(sequence)});
  } else {
    sink->OnDone(status);
  }
  return std::make_unique<LocalRun>(this, id, std::move(sink));
}

void Engine::Cancel(uint64_t sequence_id) { Send({.cancel = sequence_id}); }

void Engine::Send(Message message) {
  {
    absl::MutexLock lock(&mu_);
    inbox_.push_back(std::move(message));
  }
  loop_->Post([] {});  // wakes it; messages are taken between steps, never inside one
}

bool Engine::StepIsAbandoned() {
  absl::MutexLock lock(&mu_);
  if (inbox_.empty()) return false;
  const auto cancelled = [this](const Step::Part& part) ABSL_SHARED_LOCKS_REQUIRED(mu_) {
    return part.sequence == nullptr ||
           std::any_of(inbox_.begin(), inbox_.end(), [&](const Message& message) {
             return message.start == nullptr && message.cancel == part.sequence->sequence_id;
           });
  };
  return std::all_of(step_.parts.begin(), step_.parts.end(), cancelled);
}

void Engine::TakeMessages() {
  std::vector<Message> messages;
  {
    absl::MutexLock lock(&mu_);
    messages.swap(inbox_);
  }
  for (Message& message : messages) {
    if (message.start == nullptr) {
      if (auto sequence = scheduler_.Remove(message.cancel))
        End(std::move(sequence), absl::CancelledError("cancelled"));
      continue;
    }
    Sequence* s = message.start.get();
    // Fencing: the newest run of a request is the only one.
    auto [it, fresh] =
        runs_.try_emplace(s->start.request_id(), s->start.run_number(), s->sequence_id);
    if (!fresh) {
      if (s->start.run_number() < it->second.first) {
        s->sink->OnDone(FailedPrecondition("run %d of request '%s' is older than run %d",
                                           s->start.run_number(), s->start.request_id(),
                                           it->second.first));
        num_sequences_.fetch_sub(1);
        continue;
      }
      const uint64_t older = it->second.second;
      it->second = {s->start.run_number(), s->sequence_id};
      if (auto fenced = scheduler_.Remove(older)) {
        fenced->sink->OnDone(absl::CancelledError("a newer run of the same request has begun"));
        num_sequences_.fetch_sub(1);
      }
    }
    if (s->start.max_tokens() == 0 && s->start.prompt_logprobs() < 0) {
      s->response.set_finish_reason(pb::FINISH_REASON_LENGTH);
      Respond(s);
      End(std::move(message.start), absl::OkStatus());
      continue;
    }
    scheduler_.Add(std::move(message.start));
  }
}

void Engine::RunUntilStopped() {
  while (!stop_.load()) {
    TakeMessages();
    const bool worked = StepOnce();
    PublishStats();
    loop_->RunOnce(worked ? absl::ZeroDuration() : absl::Milliseconds(200));
  }
  TakeMessages();
  for (auto& sequence : scheduler_.RemoveAll())
    End(std::move(sequence), absl::UnavailableError("the node stops"));
}

void Engine::Stop() {
  stop_.store(true);
  fabric_->Stop();  // a step that waits for experts ends
  loop_->Post([] {});
}

void Engine::StopAdmitting() { admitting_.store(false); }

bool Engine::StepOnce() {
  const auto refuse = [this](std::unique_ptr<Sequence> sequence, Status status) {
    End(std::move(sequence), status);
  };
  StepTimer timer(&stats_.step);
  if (!scheduler_.Plan(&step_, refuse)) return false;
  const absl::Time began = absl::Now();
  PlanLogits();
  hidden_.resize(hidden_rows_.size() * weights_->config.hidden_size);
  timer.EndOf(StepPart::kPlan);
  const int64_t experts_ns = runner_.experts_ns();
  const Status status =
      runner_.Run(step_.rows, step_.block_tables, step_.bias_version, hidden_rows_, hidden_.data());
  timer.EndOfLayers(runner_.experts_ns() - experts_ns);
  ++stats_.steps;
  stats_.dispatched_rows =
      runner_.dispatched_rows();  // before anybody is told of the step's tokens
  if (!status.ok()) {
    for (const Step::Part& part : step_.parts)
      End(scheduler_.Remove(part.sequence->sequence_id), status);
    timer.EndOfStep();
    return true;
  }
  FinishStep();
  timer.EndOf(StepPart::kSample);
  if (drafter_ != nullptr) {
    drafter_->Draft(step_, hidden_.data(), absl::Now() - began);
    stats_.dispatched_rows = runner_.dispatched_rows();
    timer.EndOf(StepPart::kDraft);
  }
  timer.EndOfStep();
  return true;
}

// Counts the step's rows and tells which of them lead to tokens or prompt logprobs.
void Engine::PlanLogits() {
  stats_.step.rows.Record(static_cast<double>(step_.rows.size()));
  stats_.step.sequences.Record(static_cast<double>(step_.parts.size()));
  logit_rows_.clear();
  for (const Step::Part& part : step_.parts) {
    Sequence* s = part.sequence;
    if (!s->started) {
      s->started = true;
      s->first_step = absl::Now();
      stats_.step.queue_seconds.Record(absl::ToDoubleSeconds(s->first_step - s->arrived));
      stats_.prompt_tokens += s->prompt_size;
      stats_.cached_tokens += s->cached_prompt_tokens;
    }
    for (int64_t i = 0; i < part.num_rows; ++i) {
      const int64_t row = part.first_row + i, position = step_.rows[row].position;
      const bool scores_prompt =
          s->wants_prompt_logprobs() && position + 1 < static_cast<int64_t>(s->prompt_size);
      const bool last_or_draft = position + 1 >= static_cast<int64_t>(s->ids.size());
      if (scores_prompt || last_or_draft) logit_rows_.push_back(static_cast<int32_t>(row));
    }
    const int64_t sure_rows = part.num_rows - part.num_drafts;
    (sure_rows == 1 && s->remaining() == 1 ? stats_.decode_tokens : stats_.prefill_tokens) +=
        sure_rows;
    stats_.drafted_tokens += part.num_drafts;
  }
  hidden_rows_ = logit_rows_;
  if (drafter_ == nullptr) return;
  hidden_rows_.resize(step_.rows.size());
  std::iota(hidden_rows_.begin(), hidden_rows_.end(), 0);
}

const float* Engine::LogitStates(int64_t begin, int64_t count) {
  const int64_t d = weights_->config.hidden_size;
  if (drafter_ == nullptr) return hidden_.data() + begin * d;
  logit_states_.clear();
  for (int64_t i = begin; i < begin + count; ++i) {
    const float* state = hidden_.data() + logit_rows_[i] * d;
    logit_states_.insert(logit_states_.end(), state, state + d);
  }
  return logit_states_.data();
}

// Logits of the wanted rows, a few at a time, in the order of the rows.
void Engine::FinishStep() {
  const int64_t vocab = weights_->config.vocab_size;
  const int64_t total = logit_rows_.size();
  logits_.resize(std::min(kLogitRows, total) * vocab);
  for (int64_t begin = 0; begin < total; begin += kLogitRows) {
    const int64_t count = std::min(kLogitRows, total - begin);
    runner_.Logits(LogitStates(begin, count), count, logits_.data());
    for (int64_t i = begin; i < begin + count; ++i) {
      TakeRow(logit_rows_[i], std::span(logits_.data() + (i - begin) * vocab, vocab));
      const int32_t part = step_.rows[logit_rows_[i]].seq_idx;
      if (i + 1 == total || step_.rows[logit_rows_[i + 1]].seq_idx != part)
        Respond(step_.parts[part].sequence);
    }
  }
  scheduler_.Computed(step_);
  for (const Step::Part& part : step_.parts) {
    const Sequence* s = part.sequence;
    if (part.num_drafts > 0) {
      const int64_t right = s->computed - step_.rows[part.first_row].position - 1;
      drafter_->Record(right, !s->finished && right < part.num_drafts);
    }
  }
  if (drafter_ != nullptr) drafter_->FeedFinished(step_, hidden_.data());
  for (Step::Part& part : step_.parts) {
    Sequence* s = part.sequence;
    if (!s->finished) continue;
    part.sequence = nullptr;
    End(scheduler_.Remove(s->sequence_id), absl::OkStatus());
  }
}

// A guess's row counts if the guess is the token sampled before it, and so were all before that:
// the first wrong one leaves ids shorter than the positions that follow.
void Engine::TakeRow(int32_t row_idx, std::span<float> logits) {
  const StepRow& row = step_.rows[row_idx];
  const Step::Part& part = step_.parts[row.seq_idx];
  Sequence* s = part.sequence;
  if (s->wants_prompt_logprobs() && row.position + 1 < static_cast<int64_t>(s->prompt_size))
    TakePromptLogits(s, row.position, logits);
  if (s->finished || row.position + 1 != static_cast<int64_t>(s->ids.size()) ||
      row.token != s->ids[row.position]) {
    return;
  }
  if (row_idx >= part.first_row + part.num_rows - part.num_drafts) {
    ++stats_.accepted_tokens;
    ++stats_.decode_tokens;
  }
  TakeToken(s, logits);
}

void Engine::TakePromptLogits(Sequence* s, int64_t position, std::span<const float> logits) {
  FillLogprob(ctx_, logits, s->ids[position + 1], s->start.prompt_logprobs(),
              &s->prompt_logprobs.emplace_back());
}

void Engine::TakeToken(Sequence* s, std::span<float> logits) {
  pb::RunResponse& response = s->response;
  if (s->start.max_tokens() == 0) {
    response.set_finish_reason(pb::FINISH_REASON_LENGTH);
  } else {
    const bool with_logprobs = s->start.logprobs() >= 0;
    std::vector<float> raw;  // logprobs are of the raw logits; sampling changes them
    if (with_logprobs) raw.assign(logits.begin(), logits.end());
    const uint32_t id = s->sampler.Sample(ctx_, logits, s->ids.size());
    if (with_logprobs) FillLogprob(ctx_, raw, id, s->start.logprobs(), response.add_logprobs());
    s->ids.push_back(id);
    s->sampler.Push(id);
    response.add_token_ids(id);
    if (s->stop_ids.contains(id)) {
      response.set_finish_reason(pb::FINISH_REASON_STOP);
    } else if (s->num_generated() >= s->start.max_tokens() ||
               static_cast<int64_t>(s->ids.size()) >= options_.context_length) {
      response.set_finish_reason(pb::FINISH_REASON_LENGTH);
    }
  }
  s->finished = response.finish_reason() != pb::FINISH_REASON_UNSPECIFIED;
}

void Engine::Respond(Sequence* s) {
  pb::RunResponse response = std::exchange(s->response, {});
  if (response.token_ids().empty() && response.finish_reason() == pb::FINISH_REASON_UNSPECIFIED)
    return;
  if (!s->answered) {
    s->answered = true;
    response.set_cached_prompt_tokens(s->cached_prompt_tokens);
    const absl::Time began = s->started ? s->first_step : absl::Now();
    response.set_queue_s(absl::ToDoubleSeconds(began - s->arrived));
    for (pb::TokenLogprob& logprob : s->prompt_logprobs)
      *response.add_prompt_logprobs() = std::move(logprob);
    s->prompt_logprobs.clear();
    s->prompt_logprobs_done = true;
  }
  s->sink->OnResponse(std::move(response));
}

void Engine::End(std::unique_ptr<Sequence> sequence, const Status& status) {
  if (sequence == nullptr) return;
  auto it = runs_.find(sequence->start.request_id());
  if (it != runs_.end() && it->second.second == sequence->sequence_id) runs_.erase(it);
  num_sequences_.fetch_sub(1);
  sequence->sink->OnDone(status);
}

void Engine::PublishStats() {
  stats_.running = static_cast<uint32_t>(scheduler_.num_running());
  stats_.waiting = static_cast<uint32_t>(scheduler_.num_waiting());
  const CacheStats cache = cache_.stats();
  stats_.blocks_used = static_cast<uint32_t>(cache.used);
  stats_.blocks_cached = static_cast<uint32_t>(cache.cached);
  stats_.preemptions = scheduler_.preemptions();
  const absl::Time now = absl::Now();
  if (now - published_ < absl::Milliseconds(250)) return;
  published_ = now;
  std::vector<uint64_t> kept = cache_.KeptHashes(kMaxAnnouncedPrefixes);
  absl::MutexLock lock(&mu_);
  kept_prefixes_ = std::move(kept);
}

std::vector<uint64_t> Engine::KeptPrefixes() const {
  absl::MutexLock lock(&mu_);
  return kept_prefixes_;
}

}  // namespace atl::attention
