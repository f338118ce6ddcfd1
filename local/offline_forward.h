// Logits of a whole text at once, without requests: for `atoll verify` and for tests against golden
// numbers.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "attention_service/latent_cache.h"
#include "attention_service/model_runner.h"
#include "local/local_stack.h"

namespace atl::local {

// Over a stack whose engine has not been started: shares its weights and fabric, has a cache of its
// own.
class OfflineForward {
 public:
  // max_positions: longest text.
  OfflineForward(LocalStack* stack, int64_t max_positions);

  // logits [T, V] of every position of `ids`, computed in chunks of at most `chunk` rows.
  // final_hidden, if not null: [T, D] after model.norm. InvalidArgument: a text that is too long,
  // or an id outside the vocabulary (a tokenizer may know more of them than the model).
  Status Logits(std::span<const uint32_t> ids, int64_t chunk, std::vector<float>* logits,
                std::vector<float>* final_hidden = nullptr);

  // Logits [T - 1, V] of the MTP layer: row i, from h_i and token i + 1, predicts token i + 2. The
  // stack has it loaded.
  Status MtpLogits(std::span<const uint32_t> ids, std::vector<float>* logits);

  attention::ModelRunner* runner() { return &runner_; }

 private:
  LocalStack* const stack_;
  attention::LatentCache cache_;
  attention::ModelRunner runner_;
  std::vector<attention::BlockId> blocks_;
};

}  // namespace atl::local
