#include "router_service/front_door/session_run.h"

#include <algorithm>
#include <optional>

#include "base/log.h"

namespace atl::front_door {
namespace {

namespace pb = atollpb::v1;

// A process that is killed is noticed twice, by the end of its run and by the directory, within
// milliseconds but in either order. Where it matters whether a node is dead or only cannot be
// reached, that much is waited for the directory.
constexpr absl::Duration kSettle = absl::Milliseconds(500);

NodeTroubles::Kind KindOf(const Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kResourceExhausted:
      return NodeTroubles::Kind::kFull;
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kInvalidArgument:
      return NodeTroubles::Kind::kRefused;
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kCancelled:
      return NodeTroubles::Kind::kGone;
    default:
      return NodeTroubles::Kind::kFailed;
  }
}

}  // namespace

void Session::StartRun(const AttentionNode& node) {
  state_ = State::kRunning;
  outage_since_ = absl::InfiniteFuture();
  const absl::Time now = scheduler_->Now();
  if (next_run_number_ == 0) queued_ = now - arrival_;
  pb::RunStart& start = request_.start;
  start.set_run_number(next_run_number_++);
  if (have_prompt_logprobs_) start.set_prompt_logprobs(-1);
  run_ = std::make_unique<ActiveRun>(weak_from_this(), start.run_number(), node, now);
  const int num_ids = start.prompt_ids_size() + start.generated_ids_size();
  run_->patience = options_.progress_timeout + num_ids * options_.prefill_allowance;
  sessions_->node_use_.Begin(node.name);
  run_->run = node.backend->Start(start, &run_->observer);
}

void Session::DropRun() {
  if (run_ == nullptr) return;
  run_->run->Cancel();
  sessions_->node_use_.End(run_->node.name);
  // Destroying a run waits for its callback under way, which may be the caller of this.
  scheduler_->Post([run = std::shared_ptr<ActiveRun>(std::move(run_))] {});
}

void Session::OnRunDone(uint32_t run_number, const Status& status) {
  if (run_ == nullptr || run_->number != run_number) return;
  if (status.ok()) {
    return OnRunFailed(NodeTroubles::Kind::kFailed,
                       Internal("expected a finish_reason at the end of the run, found none"));
  }
  OnRunFailed(KindOf(status), status);
}

void Session::OnRunFailed(NodeTroubles::Kind kind, const Status& status) {
  const AttentionNode node = run_->node;
  last_error_ = Annotate(status, "attention node " + node.name);
  LogWarning("request %s, run %d: %s: %s", request_.request_id, run_->number,
             absl::StatusCodeToString(status.code()), std::string(last_error_.message()));
  DropRun();
  const absl::Time now = scheduler_->Now();
  settle_until_ = now + kSettle;
  troubles_.Add(kind, node.backend, now);
  Seek();
}

void Session::OnRunResponse(uint32_t run_number, pb::RunResponse* response) {
  if (run_ == nullptr || run_->number != run_number) return;
  if (const Status status = CheckResponse(*response); !status.ok()) {
    return OnRunFailed(NodeTroubles::Kind::kFailed, status);
  }
  run_->last_progress = scheduler_->Now();
  run_->patience = options_.progress_timeout;
  sessions_->node_use_.Progress(run_->node.name, run_->last_progress);
  TakeFirstResponse(response);
  if (TakeTokens(response)) return Finish(pb::FINISH_REASON_STOP);
  if (response->finish_reason() != pb::FINISH_REASON_UNSPECIFIED)
    return Finish(response->finish_reason());
  SendReady();
}

Status Session::CheckResponse(const pb::RunResponse& response) const {
  const pb::RunStart& start = request_.start;
  const int64_t total = int64_t{start.generated_ids_size()} + response.token_ids_size();
  if (total > start.max_tokens()) {
    return Internal("expected %d generated tokens at most, found %d", start.max_tokens(), total);
  }
  const int logprobs = start.logprobs() >= 0 ? response.token_ids_size() : 0;
  if (response.logprobs_size() != logprobs) {
    return Internal("expected %d logprobs, found %d", logprobs, response.logprobs_size());
  }
  // The first answer after they were asked for brings them.
  const int prompt_logprobs =
      start.prompt_logprobs() >= 0 && !have_prompt_logprobs_ ? start.prompt_ids_size() - 1 : 0;
  if (response.prompt_logprobs_size() != prompt_logprobs) {
    return Internal("expected %d prompt_logprobs, found %d", prompt_logprobs,
                    response.prompt_logprobs_size());
  }
  return absl::OkStatus();
}

void Session::TakeFirstResponse(pb::RunResponse* response) {
  if (!have_prompt_logprobs_ && request_.start.prompt_logprobs() >= 0) {
    prompt_logprobs_ = std::move(*response->mutable_prompt_logprobs());
    have_prompt_logprobs_ = true;
  }
  if (have_first_response_) return;
  have_first_response_ = true;
  cached_prompt_tokens_ = response->cached_prompt_tokens();
  queued_ += absl::Seconds(response->queue_s());
  sessions_->histograms_.queue_seconds.Record(absl::ToDoubleSeconds(queued_));
}

// Tokens that come together come 0 s apart.
void Session::NoteToken(absl::Time now) {
  RequestHistograms& histograms = sessions_->histograms_;
  if (num_new_tokens() == 0) {
    first_token_at_ = now;
    histograms.first_token_seconds.Record(absl::ToDoubleSeconds(now - arrival_));
  } else {
    histograms.inter_token_seconds.Record(absl::ToDoubleSeconds(now - last_token_at_));
  }
  last_token_at_ = now;
}

void Session::NoteAnswer() const {
  RequestHistograms& histograms = sessions_->histograms_;
  const int n = num_new_tokens();
  histograms.request_seconds.Record(absl::ToDoubleSeconds(scheduler_->Now() - arrival_));
  histograms.prompt_tokens.Record(request_.start.prompt_ids_size());
  histograms.generated_tokens.Record(n);
  if (n > 1) {
    histograms.token_seconds.Record(absl::ToDoubleSeconds(last_token_at_ - first_token_at_) /
                                    (n - 1));
  }
}

bool Session::TakeTokens(pb::RunResponse* response) {
  if (response->token_ids().empty()) return false;
  const absl::Time now = scheduler_->Now();
  stalled_since_ = now;
  troubles_.Clear();
  for (int i = 0; i < response->token_ids_size(); ++i) {
    const uint32_t id = response->token_ids(i);
    NoteToken(now);
    request_.start.add_generated_ids(id);
    std::optional<pb::TokenLogprob> logprob;
    if (i < response->logprobs_size()) logprob = std::move(*response->mutable_logprobs(i));
    if (text_.Push(id, std::move(logprob))) return true;
  }
  return false;
}

pb::FinishReason Session::EndedByResume() {
  const pb::RunStart& start = request_.start;
  if (num_resumed_ == 0) return pb::FINISH_REASON_UNSPECIFIED;
  if (text_.Resume({start.generated_ids().data(), static_cast<size_t>(num_resumed_)}))
    return pb::FINISH_REASON_STOP;
  const auto& ends = start.stop_token_ids();  // ascending
  for (const uint32_t id : start.generated_ids()) {
    if (std::binary_search(ends.begin(), ends.end(), id)) return pb::FINISH_REASON_STOP;
  }
  if (static_cast<uint32_t>(num_resumed_) >= start.max_tokens()) return pb::FINISH_REASON_LENGTH;
  return pb::FINISH_REASON_UNSPECIFIED;
}

void Session::SendReady() {
  pb::GenerateStreamResponse delta;
  if (!text_.Take(&delta)) return;
  FillFirst(&delta);
  sink_->Send(std::move(delta));
}

void Session::Finish(pb::FinishReason reason) {
  pb::GenerateStreamResponse delta;
  if (num_new_tokens() > 0) {
    if (text_.Finish()) reason = pb::FINISH_REASON_STOP;
    text_.Take(&delta);
  }
  FillFirst(&delta);
  FillLast(reason, &delta);
  NoteAnswer();
  sink_->Send(std::move(delta));
  DoEnd({});
}

FrontDoorStats Session::Stats() const {
  FrontDoorStats stats;
  if (next_run_number_ > 0) stats.replays = next_run_number_ - 1;
  if (!have_first_response_) return stats;
  stats.prompt_tokens = request_.start.prompt_ids_size();
  stats.cached_prompt_tokens = cached_prompt_tokens_;
  return stats;
}

void Session::FillFirst(pb::GenerateStreamResponse* delta) {
  if (std::exchange(first_sent_, true)) return;
  delta->set_request_id(request_.request_id);
  delta->set_seed(request_.start.sampling().seed());
  delta->set_bias_version(request_.start.bias_version());
  *delta->mutable_prompt_logprobs() = std::move(prompt_logprobs_);
}

void Session::FillLast(pb::FinishReason reason, pb::GenerateStreamResponse* delta) const {
  delta->set_finish_reason(reason);
  pb::Usage* usage = delta->mutable_usage();
  usage->set_prompt_tokens(request_.start.prompt_ids_size());
  usage->set_cached_prompt_tokens(cached_prompt_tokens_);
  usage->set_generated_tokens(request_.start.generated_ids_size());
  pb::Timings* timings = delta->mutable_timings();
  timings->set_queue_s(absl::ToDoubleSeconds(queued_));
  timings->set_total_s(absl::ToDoubleSeconds(scheduler_->Now() - arrival_));
  const int n = num_new_tokens();
  if (n > 0) timings->set_ttft_s(absl::ToDoubleSeconds(first_token_at_ - arrival_));
  if (n > 1) timings->set_tpot_s(absl::ToDoubleSeconds(last_token_at_ - first_token_at_) / (n - 1));
}

}  // namespace atl::front_door
