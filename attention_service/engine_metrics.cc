#include "attention_service/engine_metrics.h"

namespace atl::attention {

std::vector<metrics::Family> EngineMetrics(const EngineStats& s) {
  using metrics::Counter;
  using metrics::DistributionOf;
  using metrics::Gauge;
  metrics::Family parts{.name = "atoll_attention_step_part_seconds_total",
                        .help = "Time of the steps, by what it was spent on.",
                        .counter = true};
  for (size_t i = 0; i < kStepPartNames.size(); ++i) {
    parts.samples.push_back({.labels = {{"part", kStepPartNames[i]}},
                             .value = static_cast<double>(s.step.part_ns[i].load()) * 1e-9});
  }
  const double total = s.blocks_total, used = s.blocks_used, cached = s.blocks_cached;
  return {
      Gauge("atoll_attention_running_sequences", "Sequences in the steps.", s.running),
      Gauge("atoll_attention_waiting_sequences", "Sequences that wait for room.", s.waiting),
      {.name = "atoll_attention_cache_blocks",
       .help = "Blocks of latent cache by what they are used for.",
       .samples = {{.labels = {{"state", "used"}}, .value = used},
                   {.labels = {{"state", "cached"}}, .value = cached},
                   {.labels = {{"state", "free"}}, .value = total - used - cached}}},
      Gauge("atoll_attention_cache_block_bytes",
            "Bytes of a block of latent cache, all layers: 64 positions in the profile's format.",
            static_cast<double>(s.block_bytes)),
      Counter("atoll_attention_steps_total", "Steps through all layers.",
              static_cast<double>(s.steps)),
      DistributionOf("atoll_attention_step_seconds", "Time of each step.", s.step.seconds),
      DistributionOf("atoll_attention_step_rows", "Rows of each step: tokens computed together.",
                     s.step.rows),
      DistributionOf("atoll_attention_step_sequences", "Sequences of each step.", s.step.sequences),
      parts,
      DistributionOf("atoll_attention_queue_seconds",
                     "Time that a sequence waited at this node until its first step.",
                     s.step.queue_seconds),
      Counter("atoll_attention_prefill_tokens_total", "Prompt tokens computed.",
              static_cast<double>(s.prefill_tokens)),
      Counter("atoll_attention_decode_tokens_total",
              "Tokens computed one a step, and guesses that were right.",
              static_cast<double>(s.decode_tokens)),
      Counter("atoll_attention_prompt_tokens_total", "Prompt tokens of sequences that have begun.",
              static_cast<double>(s.prompt_tokens)),
      Counter("atoll_attention_cached_tokens_total", "Of these, found in the prefix cache.",
              static_cast<double>(s.cached_tokens)),
      Counter("atoll_attention_preemptions_total",
              "Sequences that gave their blocks back to run again later.",
              static_cast<double>(s.preemptions)),
      Counter("atoll_attention_dispatched_rows_total",
              "Rows handed to the experts, over all layers.",
              static_cast<double>(s.dispatched_rows)),
      Counter("atoll_attention_drafted_tokens_total", "Tokens guessed ahead and computed along.",
              static_cast<double>(s.drafted_tokens)),
      Counter("atoll_attention_accepted_tokens_total",
              "Guesses that were the token sampled: each saved a step.",
              static_cast<double>(s.accepted_tokens)),
  };
}

}  // namespace atl::attention
