// Prompts of a checkpoint in one process, in steps of --chunk rows, beside the arithmetic roof of
// the instruction that the profile's products use, measured in turn with the prompts.
//   prefill_bench --model DIR [--profile NAME] [--threads N] [--isa NAME] [--lengths T,...]
//                 [--chunk N] [--rounds N]
// Prints a table and a line of JSON a length.
#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include "bench/flags.h"
#include "bench/offline_model.h"
#include "bench/timing.h"

namespace atl::bench {
namespace {

struct Flags {
  local::LocalStackOptions stack;
  std::vector<int> lengths = {128, 512, 2048};
  int chunk = 512;
  int rounds = 3;
};

// The whole prompt, and logits of its last row. Seconds.
StatusOr<double> Prompt(OfflineModel* model, int length, int chunk) {
  const double begin = WallSeconds();
  for (int at = 0; at < length; at += chunk) {
    std::vector<attention::StepRow> rows;
    for (int i = at; i < std::min(length, at + chunk); ++i)
      rows.push_back({model->PromptToken(0, i), i, 0});
    std::vector<int32_t> wanted;
    if (at + chunk >= length) wanted.push_back(static_cast<int32_t>(rows.size()) - 1);
    ATL_RETURN_IF_ERROR(model->Step(rows, wanted));
  }
  return WallSeconds() - begin;
}

Status Run(const Flags& flags) {
  const int most = *std::max_element(flags.lengths.begin(), flags.lengths.end());
  ATL_ASSIGN_OR_RETURN(const auto model, OfflineModel::Open(flags.stack, 1, most));
  local::LocalStack& stack = model->stack();
  ThreadPool* pool = stack.ctx().pool;
  const std::optional<Arithmetic> kind = model->Roof();
  std::printf("%s, profile %s, %d threads; roof: %s\n", stack.checkpoint().name().c_str(),
              stack.profile().name.c_str(), pool->num_threads(),
              kind.has_value() ? ArithmeticName(*kind) : "none");
  for (const int length : flags.lengths) {
    std::vector<double> seconds, gops;
    for (int i = 0; i < flags.rounds; ++i) {
      gops.push_back(model->RoofGops());
      ATL_ASSIGN_OR_RETURN(seconds.emplace_back(), Prompt(model.get(), length, flags.chunk));
    }
    double ops = 0;
    for (int i = 0; i < length; ++i) ops += model->Ops(i);
    const double median = Median(seconds), roof = Median(gops), reached = ops / median / 1e9;
    const double share = roof > 0 ? reached / roof : 0;
    std::printf("prompt %-6d %8.2f s %10.1f tokens/s  %8.1f of %.1f Gop/s (%.0f %%)\n", length,
                median, length / median, reached, roof, 100 * share);
    std::printf(
        "{\"bench\": \"prefill\", \"profile\": \"%s\", \"threads\": %d, \"tokens\": %d, "
        "\"seconds\": %.4f, \"tokens_per_s\": %.2f, \"gops\": %.1f, \"roof_gops\": %.1f, "
        "\"share\": %.4f}\n",
        stack.profile().name.c_str(), pool->num_threads(), length, median, length / median, reached,
        roof, share);
  }
  return absl::OkStatus();
}

}  // namespace
}  // namespace atl::bench

int main(int argc, char** argv) {
  atl::bench::Flags flags;
  CLI::App app("Prompts beside the machine's arithmetic roof");
  atl::bench::AddStackFlags(&app, &flags.stack);
  app.add_option("--lengths", flags.lengths, "tokens of the prompts")
      ->delimiter(',')
      ->check(CLI::Range(1, 1 << 20));
  app.add_option("--chunk", flags.chunk, "rows of a step")->check(CLI::Range(1, 8192));
  app.add_option("--rounds", flags.rounds, "prompts of each length")->check(CLI::Range(1, 100));
  CLI11_PARSE(app, argc, argv);
  return atl::bench::ExitCode("prefill_bench", atl::bench::Run(flags));
}
