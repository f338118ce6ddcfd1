// Runs requests on an engine (or any attention backend) and collects their answers.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "attention_service/client/attention_backend.h"
#include "base/status.h"
#include "model/checkpoint.h"
#include "model/profile.h"

namespace atl::testing {

struct Answer {
  std::vector<uint32_t> ids;
  std::vector<float> logprobs;         // of ids, and each one's alternatives, in order
  std::vector<float> prompt_logprobs;  // likewise
  atollpb::v1::FinishReason finish_reason = atollpb::v1::FINISH_REASON_UNSPECIFIED;
  uint32_t cached_prompt_tokens = 0;
  Status status;
};

// Greedy, no end ids, 5 alternatives' logprobs: the start of most tests.
atollpb::v1::RunStart MakeStart(const model::Checkpoint& checkpoint,
                                const model::NumericProfile& profile, std::vector<uint32_t> prompt,
                                uint32_t max_tokens);
// The same, drawn with temperature 1, top_p 0.95, top_k 50 and penalties from `seed`.
atollpb::v1::RunStart MakeSampledStart(const model::Checkpoint& checkpoint,
                                       const model::NumericProfile& profile,
                                       std::vector<uint32_t> prompt, uint32_t max_tokens,
                                       uint64_t seed);

// One request under way.
class PendingAnswer : public attention::RunObserver {
 public:
  void OnResponse(atollpb::v1::RunResponse response) override;
  void OnDone(const Status& status) override;

  // Waits until the run has ended; DEADLINE_EXCEEDED in the answer's status after a minute.
  Answer Get();
  // Waits until at least `count` tokens have come or the run has ended.
  bool WaitForTokens(size_t count, absl::Duration timeout);
  size_t num_tokens() const;

  std::unique_ptr<attention::Run> run;

 private:
  mutable absl::Mutex mu_;
  Answer answer_;
  bool done_ = false;
};

std::unique_ptr<PendingAnswer> StartRun(attention::AttentionBackend* backend,
                                        const atollpb::v1::RunStart& start);
// All at once, each waited for.
std::vector<Answer> RunAll(attention::AttentionBackend* backend,
                           const std::vector<atollpb::v1::RunStart>& starts);
Answer RunOne(attention::AttentionBackend* backend, const atollpb::v1::RunStart& start);

// "" if equal; else the first difference: token, or bits of a logprob.
std::string Difference(const Answer& expected, const Answer& found);

}  // namespace atl::testing
