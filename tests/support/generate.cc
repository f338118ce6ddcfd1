#include "tests/support/generate.h"

#include <atomic>
#include <bit>
#include <utility>

#include "absl/strings/str_format.h"

namespace atl::testing {

namespace pb = atollpb::v1;

pb::RunStart MakeStart(const model::Checkpoint& checkpoint, const model::NumericProfile& profile,
                       std::vector<uint32_t> prompt, uint32_t max_tokens) {
  static std::atomic<int> next{0};
  pb::RunStart start;
  start.set_request_id(absl::StrFormat("request-%d", next.fetch_add(1)));
  start.set_run_number(1);
  start.set_revision(checkpoint.revision());
  start.set_numerics_id(model::NumericsId(profile));
  start.mutable_prompt_ids()->Add(prompt.begin(), prompt.end());
  start.set_max_tokens(max_tokens);
  start.set_logprobs(5);
  start.set_prompt_logprobs(-1);
  pb::ResolvedSampling* sampling = start.mutable_sampling();
  sampling->set_top_p(1);
  sampling->set_repetition_penalty(1);
  return start;
}

pb::RunStart MakeSampledStart(const model::Checkpoint& checkpoint,
                              const model::NumericProfile& profile, std::vector<uint32_t> prompt,
                              uint32_t max_tokens, uint64_t seed) {
  pb::RunStart start = MakeStart(checkpoint, profile, std::move(prompt), max_tokens);
  pb::ResolvedSampling* sampling = start.mutable_sampling();
  sampling->set_temperature(1);
  sampling->set_top_p(0.95f);
  sampling->set_top_k(50);
  sampling->set_repetition_penalty(1.1f);
  sampling->set_presence_penalty(0.2f);
  sampling->set_frequency_penalty(0.1f);
  sampling->set_seed(seed);
  return start;
}

namespace {

void Append(const pb::TokenLogprob& from, std::vector<float>* to) {
  to->push_back(from.logprob());
  for (const auto& top : from.top()) {
    to->push_back(static_cast<float>(top.id()));
    to->push_back(top.logprob());
  }
}

std::string FirstDifference(const char* what, const std::vector<float>& expected,
                            const std::vector<float>& found) {
  if (expected.size() != found.size()) {
    return absl::StrFormat("%s: %d values, expected %d", what, found.size(), expected.size());
  }
  for (size_t i = 0; i < expected.size(); ++i) {
    if (std::bit_cast<uint32_t>(expected[i]) != std::bit_cast<uint32_t>(found[i])) {
      return absl::StrFormat("%s[%d]: %.9g, expected %.9g", what, i, found[i], expected[i]);
    }
  }
  return "";
}

}  // namespace

void PendingAnswer::OnResponse(pb::RunResponse response) {
  absl::MutexLock lock(&mu_);
  for (const auto& logprob : response.prompt_logprobs()) Append(logprob, &answer_.prompt_logprobs);
  for (const auto& logprob : response.logprobs()) Append(logprob, &answer_.logprobs);
  answer_.ids.insert(answer_.ids.end(), response.token_ids().begin(), response.token_ids().end());
  if (response.finish_reason() != pb::FINISH_REASON_UNSPECIFIED)
    answer_.finish_reason = response.finish_reason();
  if (response.cached_prompt_tokens() != 0)
    answer_.cached_prompt_tokens = response.cached_prompt_tokens();
}

void PendingAnswer::OnDone(const Status& status) {
  absl::MutexLock lock(&mu_);
  answer_.status = status;
  done_ = true;
}

Answer PendingAnswer::Get() {
  absl::MutexLock lock(&mu_);
  if (!mu_.AwaitWithTimeout(absl::Condition(&done_), absl::Minutes(5))) {
    answer_.status = absl::DeadlineExceededError("no end after five minutes");
  }
  return answer_;
}

bool PendingAnswer::WaitForTokens(size_t count, absl::Duration timeout) {
  absl::MutexLock lock(&mu_);
  const auto enough = [&] { return done_ || answer_.ids.size() >= count; };
  mu_.AwaitWithTimeout(absl::Condition(&enough), timeout);
  return answer_.ids.size() >= count;
}

size_t PendingAnswer::num_tokens() const {
  absl::MutexLock lock(&mu_);
  return answer_.ids.size();
}

std::unique_ptr<PendingAnswer> StartRun(attention::AttentionBackend* backend,
                                        const pb::RunStart& start) {
  auto pending = std::make_unique<PendingAnswer>();
  pending->run = backend->Start(start, pending.get());
  return pending;
}

std::vector<Answer> RunAll(attention::AttentionBackend* backend,
                           const std::vector<pb::RunStart>& starts) {
  std::vector<std::unique_ptr<PendingAnswer>> pending;
  for (const pb::RunStart& start : starts) pending.push_back(StartRun(backend, start));
  std::vector<Answer> answers;
  for (auto& p : pending) answers.push_back(p->Get());
  return answers;
}

Answer RunOne(attention::AttentionBackend* backend, const pb::RunStart& start) {
  return StartRun(backend, start)->Get();
}

std::string Difference(const Answer& expected, const Answer& found) {
  if (!found.status.ok()) return std::string(found.status.message());
  if (expected.ids != found.ids) {
    size_t i = 0;
    while (i < expected.ids.size() && i < found.ids.size() && expected.ids[i] == found.ids[i]) ++i;
    return absl::StrFormat("tokens differ from %d on (%d and %d tokens)", i, found.ids.size(),
                           expected.ids.size());
  }
  std::string difference = FirstDifference("logprobs", expected.logprobs, found.logprobs);
  if (difference.empty())
    difference =
        FirstDifference("prompt_logprobs", expected.prompt_logprobs, found.prompt_logprobs);
  return difference;
}

}  // namespace atl::testing
