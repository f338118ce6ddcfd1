// Batch-1 decode of a checkpoint in one process, as a share of the machine's read bandwidth
// measured in the same run.
//   decode_bench --model DIR [--profile NAME] [--threads N] [--isa NAME] [--tokens N] [--prompt N]
// Prints a table and one line of JSON.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <string>
#include <vector>

#include "bench/roof.h"
#include "local/local_stack.h"

namespace atl::bench {
namespace {

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// Bytes of packed weights that one token reads.
int64_t ActiveBytes(const local::LocalStack& stack, const dispatch::GateWeights& gates) {
  const attention::ModelWeights& w = stack.weights();
  const model::ModelConfig& c = w.config;
  int64_t bytes = w.head.bytes();
  for (int64_t l = 0; l < c.num_hidden_layers; ++l) {
    const attention::LayerWeights& layer = w.layers[l];
    bytes += layer.q_proj.bytes() + layer.q_a.bytes() + layer.q_b.bytes() + layer.kv_a.bytes() +
             layer.o_proj.bytes();
    for (const auto& m : layer.w_uk) bytes += m.bytes();
    for (const auto& m : layer.w_uv) bytes += m.bytes();
    if (layer.dense) {
      bytes += layer.dense->gate.bytes() + layer.dense->up.bytes() + layer.dense->down.bytes();
    } else {
      bytes += gates.weight(static_cast<int32_t>(l)).bytes();
      bytes += c.num_experts_per_tok * stack.store(0).ExpertBytes(false);
      if (c.n_shared_experts > 0) bytes += stack.store(0).ExpertBytes(true);
    }
  }
  return bytes;
}

struct Flags {
  local::LocalStackOptions stack;
  int tokens = 64;
  int prompt = 16;
};

Status Run(const Flags& flags) {
  const double load_begin = Now();
  ATL_ASSIGN_OR_RETURN(auto stack, local::LocalStack::Open(flags.stack));
  const double load_seconds = Now() - load_begin;
  ATL_ASSIGN_OR_RETURN(auto gates,
                       dispatch::GateWeights::Load(stack->checkpoint(), stack->ctx().pool));
  const model::ModelConfig& c = stack->checkpoint().config();
  const int64_t blocks = (flags.prompt + flags.tokens) / kernels::kCacheBlock + 1;
  attention::LatentCache cache(
      attention::CacheShape(c, stack->profile(), stack->weights().softmax_scale),
      c.num_hidden_layers, blocks);
  attention::ModelRunner runner(stack->ctx(), &stack->weights(), &cache, stack->fabric(), 1, 1);
  std::vector<attention::BlockId> table;
  for (int64_t i = 0; i < blocks; ++i) table.push_back(*cache.Acquire());
  const std::span<const attention::BlockId> block_table(table);
  std::vector<float> hidden(c.hidden_size), logits(c.vocab_size);

  std::vector<attention::StepRow> rows;
  for (int i = 0; i < flags.prompt; ++i)
    rows.push_back({static_cast<uint32_t>(3 + i * 7) % static_cast<uint32_t>(c.vocab_size), i, 0});
  int32_t wanted = flags.prompt - 1;
  ATL_RETURN_IF_ERROR(
      runner.Run(rows, std::span(&block_table, 1), 0, std::span(&wanted, 1), hidden.data()));
  runner.Logits(hidden.data(), 1, logits.data());

  const Buffer memory = MakeRoofMemory();
  const double bytes = static_cast<double>(ActiveBytes(*stack, *gates));
  std::vector<double> seconds, roofs;
  wanted = 0;
  for (int i = 0; i < flags.tokens; ++i) {
    if (i % 4 == 0) roofs.push_back(ReadGbps(stack->ctx().pool, memory));
    const uint32_t token =
        static_cast<uint32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
    const attention::StepRow row{token, flags.prompt + i, 0};
    const double begin = Now();
    ATL_RETURN_IF_ERROR(runner.Run(std::span(&row, 1), std::span(&block_table, 1), 0,
                                   std::span(&wanted, 1), hidden.data()));
    runner.Logits(hidden.data(), 1, logits.data());
    seconds.push_back(Now() - begin);
  }
  const double per_token = Median(seconds), roof = Median(roofs), gbps = bytes / per_token / 1e9;
  std::printf("%-28s %s\n", "checkpoint", stack->checkpoint().name().c_str());
  std::printf("%-28s %s, %d threads\n", "profile", stack->profile().name.c_str(),
              stack->ctx().pool->num_threads());
  std::printf("%-28s %.1f s\n", "load and pack", load_seconds);
  std::printf("%-28s %.3f GB\n", "weights read per token", bytes / 1e9);
  std::printf("%-28s %.2f tokens/s (median of %d)\n", "decode, batch 1", 1 / per_token,
              flags.tokens);
  std::printf("%-28s %.1f GB/s\n", "weights streamed at", gbps);
  std::printf("%-28s %.1f GB/s (median of %d)\n", "read roof", roof,
              static_cast<int>(roofs.size()));
  std::printf("%-28s %.0f %%\n", "share of the roof", 100 * gbps / roof);
  std::printf(
      "{\"bench\": \"decode\", \"profile\": \"%s\", \"threads\": %d, \"bytes_per_token\": %.0f, "
      "\"tokens_per_s\": %.4f, "
      "\"gbps\": %.3f, \"roof_gbps\": %.3f, \"share\": %.4f, \"load_s\": %.2f}\n",
      stack->profile().name.c_str(), stack->ctx().pool->num_threads(), bytes, 1 / per_token, gbps,
      roof, gbps / roof, load_seconds);
  return absl::OkStatus();
}

}  // namespace
}  // namespace atl::bench

int main(int argc, char** argv) {
  atl::bench::Flags flags;
  flags.stack.dispatch = "inline";
  CLI::App app("Batch-1 decode beside the machine's read bandwidth");
  app.add_option("--model", flags.stack.model_dir, "checkpoint folder")->required();
  app.add_option("--profile", flags.stack.profile, "numeric profile");
  app.add_option("--threads", flags.stack.threads, "compute threads; 0: one a core");
  app.add_option("--isa", flags.stack.isa, "instruction set of the kernels");
  app.add_option("--tokens", flags.tokens, "tokens to decode")->check(CLI::Range(1, 1000));
  app.add_option("--prompt", flags.prompt, "tokens of the prompt")->check(CLI::Range(1, 100));
  CLI11_PARSE(app, argc, argv);
  const atl::Status status = atl::bench::Run(flags);
  if (!status.ok())
    std::fprintf(stderr, "decode_bench: %s\n", std::string(status.message()).c_str());
  return status.ok() ? 0 : 1;
}
