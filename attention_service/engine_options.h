// Sizes of an attention engine; flags of the same names are declared in cli/.
#pragma once

#include <cstdint>

namespace atl::attention {

inline constexpr int kMaxSpeculate = 4;

struct EngineOptions {
  int64_t cache_blocks =
      0;  // latent cache, in blocks of 64 positions; 0: as many as cache_bytes holds
  int64_t cache_bytes = 0;    // 0: 1 GiB, or what one sequence of the whole context needs
  int max_running = 64;       // sequences in a step at most
  int max_waiting = 1024;     // beyond: RESOURCE_EXHAUSTED
  int max_step_tokens = 512;  // rows of a step: decodes first, the rest prefill
  int prefill_chunk = 512;    // rows of one sequence's prompt in one step at most
  bool prefix_cache = true;
  int micro_batches = 2;       // 1: no ping-pong
  int64_t context_length = 0;  // 0: the model's max_position_embeddings
  bool speculate_always =
      false;          // as deep as allowed, whether it pays or not: for tests and measurements
  int speculate = 0;  // tokens guessed ahead at most, by the MTP layer; 0: none (drafter.h)
};

}  // namespace atl::attention
