// One sequence inside an attention engine: its ids, its blocks, how far it is computed.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <unordered_set>
#include <vector>

#include "absl/time/time.h"
#include "atollpb/v1/attention.pb.h"
#include "attention_service/latent_cache.h"
#include "attention_service/run_sink.h"
#include "attention_service/sampler.h"

namespace atl::attention {

// Thread-compatible: the engine's thread alone.
struct Sequence {
  Sequence(uint64_t id, atollpb::v1::RunStart request, std::shared_ptr<RunSink> run_sink,
           absl::Time arrival);

  // Positions whose latents must be computed before the next token can be sampled.
  int64_t remaining() const { return static_cast<int64_t>(ids.size()) - computed; }
  bool wants_prompt_logprobs() const {
    return start.prompt_logprobs() >= 0 && !prompt_logprobs_done;
  }
  uint32_t num_generated() const { return static_cast<uint32_t>(ids.size() - prompt_size); }

  const uint64_t sequence_id;
  const atollpb::v1::RunStart start;
  const std::shared_ptr<RunSink> sink;
  const absl::Time arrived;

  std::vector<uint32_t> ids;  // prompt + generated
  const size_t prompt_size;
  // The first so many ids attend in the expanded form: with profiles that say so, the prompt.
  int64_t num_expanded = 0;
  Sampler sampler;
  std::unordered_set<uint32_t> stop_ids;

  std::vector<BlockId> blocks;
  int64_t kept_blocks = 0;  // the first so many are kept in the prefix cache (or came from it)
  int64_t computed = 0;     // positions whose latents are in `blocks`
  // Guesses of the tokens after `ids` (drafter.h); the next step computes them along.
  std::vector<uint32_t> drafts;

  bool started = false;   // was in a step
  bool answered = false;  // the first response has been sent
  bool finished = false;  // its last token has been sampled
  bool prompt_logprobs_done = false;
  uint32_t cached_prompt_tokens = 0;
  absl::Time first_step;
  std::vector<atollpb::v1::TokenLogprob> prompt_logprobs;
  atollpb::v1::RunResponse response;  // of the step under way
};

}  // namespace atl::attention
