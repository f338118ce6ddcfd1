// Decode of a checkpoint in one process, every sequence a token a step. Batch 1 beside the
// machine's read bandwidth, more beside its arithmetic too; roofs are measured in turn with the
// steps.
//   decode_bench --model DIR [--profile NAME] [--threads N] [--isa NAME] [--batch B,...]
//                [--tokens N] [--prompt N] [--expert-nodes N]
// Prints a table and a line of JSON a batch.
#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include "bench/flags.h"
#include "bench/offline_model.h"
#include "bench/roof.h"
#include "bench/timing.h"

namespace atl::bench {
namespace {

constexpr int kChunk = 512;  // rows of a prompt's step

struct Flags {
  local::LocalStackOptions stack;
  std::vector<int> batches = {1};
  int tokens = 64;
  int prompt = 16;
};

// Every sequence's prompt, one after another, and its first token.
Status Prefill(OfflineModel* model, int sequences, int prompt, std::vector<uint32_t>* next) {
  for (int s = 0; s < sequences; ++s) {
    for (int at = 0; at < prompt; at += kChunk) {
      std::vector<attention::StepRow> rows;
      for (int i = at; i < std::min(prompt, at + kChunk); ++i)
        rows.push_back(model->PromptRow(s, i));
      const int32_t last = static_cast<int32_t>(rows.size()) - 1;
      ATL_RETURN_IF_ERROR(model->Step(rows, std::span(&last, 1)));
    }
    next->push_back(model->BestToken(0));
  }
  return absl::OkStatus();
}

Status Decode(OfflineModel* model, const Flags& flags, int batch, const Buffer& memory) {
  std::vector<uint32_t> next;
  ATL_RETURN_IF_ERROR(Prefill(model, batch, flags.prompt, &next));
  std::vector<int32_t> wanted(batch);
  for (int s = 0; s < batch; ++s) wanted[s] = s;
  ThreadPool* pool = model->stack().ctx().pool;
  std::vector<double> seconds, reads, gops, shares;  // shares: each of the roof last measured
  std::vector<attention::StepRow> rows(batch);
  for (int i = 0; i < flags.tokens; ++i) {
    if (i % 4 == 0) {
      reads.push_back(ReadGbps(pool, memory));
      gops.push_back(model->RoofGops());
    }
    for (int s = 0; s < batch; ++s) rows[s] = {next[s], flags.prompt + i, s};
    const double begin = WallSeconds();
    ATL_RETURN_IF_ERROR(model->Step(rows, wanted));
    seconds.push_back(WallSeconds() - begin);
    shares.push_back(model->ActiveBytes() / seconds.back() / 1e9 / reads.back());
    for (int s = 0; s < batch; ++s) next[s] = model->BestToken(s);
  }
  const double step = Median(seconds), read = Median(reads), roof = Median(gops);
  const double share = Median(shares);
  const double gbps = model->ActiveBytes() / step / 1e9;
  const double ops = model->Ops({0, flags.prompt + flags.tokens / 2, 0}) * batch / step / 1e9;
  std::printf("batch %-4d %10.2f tokens/s", batch, batch / step);
  if (batch == 1) std::printf("  %6.1f of %.1f GB/s read (%.0f %%)", gbps, read, 100 * share);
  std::printf("  %8.1f of %.1f Gop/s (%.0f %%)\n", ops, roof, roof > 0 ? 100 * ops / roof : 0);
  std::printf(
      "{\"bench\": \"decode\", \"profile\": \"%s\", \"threads\": %d, \"batch\": %d, \"position\": "
      "%d, "
      "\"bytes_per_token\": %.0f, \"tokens_per_s\": %.4f, \"gbps\": %.3f, \"roof_gbps\": %.3f, "
      "\"share\": %.4f, \"gops\": %.1f, \"roof_gops\": %.1f}\n",
      model->stack().profile().name.c_str(), pool->num_threads(), batch, flags.prompt,
      model->ActiveBytes(), batch / step, gbps, read, share, ops, roof);
  return absl::OkStatus();
}

Status Run(const Flags& flags) {
  const double begin = WallSeconds();
  const int most = *std::max_element(flags.batches.begin(), flags.batches.end());
  ATL_ASSIGN_OR_RETURN(const auto model,
                       OfflineModel::Open(flags.stack, most, flags.prompt + flags.tokens));
  local::LocalStack& stack = model->stack();
  std::printf("%s, profile %s, %d threads, loaded and packed in %.1f s\n",
              stack.checkpoint().name().c_str(), stack.profile().name.c_str(),
              stack.ctx().pool->num_threads(), WallSeconds() - begin);
  std::printf("weights read for one token: %.3f GB\n", model->ActiveBytes() / 1e9);
  const Buffer memory = MakeRoofMemory();
  for (const int batch : flags.batches)
    ATL_RETURN_IF_ERROR(Decode(model.get(), flags, batch, memory));
  return absl::OkStatus();
}

}  // namespace
}  // namespace atl::bench

int main(int argc, char** argv) {
  atl::bench::Flags flags;
  CLI::App app("Decode beside the machine's roofs");
  atl::bench::AddStackFlags(&app, &flags.stack);
  app.add_option("--batch", flags.batches, "sequences at a time")
      ->delimiter(',')
      ->check(CLI::Range(1, 1024));
  app.add_option("--expert-nodes", flags.stack.num_expert_nodes,
                 "engines that share the experts, joined by in-process links")
      ->check(CLI::Range(1, 256));
  app.add_option("--tokens", flags.tokens, "tokens to decode")->check(CLI::Range(1, 10000));
  app.add_option("--prompt", flags.prompt, "tokens of the prompt")->check(CLI::Range(1, 1 << 20));
  CLI11_PARSE(app, argc, argv);
  return atl::bench::ExitCode("decode_bench", atl::bench::Run(flags));
}
