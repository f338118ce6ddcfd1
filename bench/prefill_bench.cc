// Prompts of a checkpoint in one process, in steps of --chunk rows, beside the arithmetic roof of
// the instruction that the profile's products use, measured in turn with the prompts.
//   prefill_bench --model DIR [--profile NAME] [--threads N] [--isa NAME] [--lengths T,...]
//                 [--chunk N] [--rounds N] [--beside PROFILE]
// Prints a table and a line of JSON a length. --beside: another profile's prompts, in turns.
#include <algorithm>
#include <cstdio>
#include <memory>
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
  std::string beside;
};

// The whole prompt, and logits of its last row. Seconds.
StatusOr<double> Prompt(OfflineModel* model, int length, int chunk) {
  const double begin = WallSeconds();
  for (int at = 0; at < length; at += chunk) {
    std::vector<attention::StepRow> rows;
    for (int i = at; i < std::min(length, at + chunk); ++i) rows.push_back(model->PromptRow(0, i));
    std::vector<int32_t> wanted;
    if (at + chunk >= length) wanted.push_back(static_cast<int32_t>(rows.size()) - 1);
    ATL_RETURN_IF_ERROR(model->Step(rows, wanted));
  }
  return WallSeconds() - begin;
}

// What one profile's prompts of a length took, and the roof in turn with them.
struct Measured {
  std::vector<double> seconds, gops;
};

double Print(OfflineModel* model, int length, const Measured& m) {
  double ops = 0;
  for (int i = 0; i < length; ++i) ops += model->Ops(model->PromptRow(0, i));
  const double median = Median(m.seconds), roof = Median(m.gops), reached = ops / median / 1e9;
  const double share = roof > 0 ? reached / roof : 0;
  const std::string& profile = model->stack().profile().name;
  std::printf("%-14s prompt %-6d %8.2f s %10.1f tokens/s  %8.1f of %.1f Gop/s (%.0f %%)\n",
              profile.c_str(), length, median, length / median, reached, roof, 100 * share);
  std::printf(
      "{\"bench\": \"prefill\", \"profile\": \"%s\", \"threads\": %d, \"tokens\": %d, "
      "\"seconds\": %.4f, \"tokens_per_s\": %.2f, \"gops\": %.1f, \"roof_gops\": %.1f, "
      "\"share\": %.4f}\n",
      profile.c_str(), model->stack().ctx().pool->num_threads(), length, median, length / median,
      reached, roof, share);
  return median;
}

Status Run(const Flags& flags) {
  const int most = *std::max_element(flags.lengths.begin(), flags.lengths.end());
  std::vector<std::unique_ptr<OfflineModel>> models;
  for (const std::string& profile : {flags.stack.profile, flags.beside}) {
    if (profile.empty() && !models.empty()) break;
    local::LocalStackOptions stack = flags.stack;
    stack.profile = profile;
    ATL_ASSIGN_OR_RETURN(models.emplace_back(), OfflineModel::Open(stack, 1, most));
  }
  local::LocalStack& stack = models[0]->stack();
  const std::optional<Arithmetic> kind = models[0]->Roof();
  std::printf("%s, %d threads; roof: %s\n", stack.checkpoint().name().c_str(),
              stack.ctx().pool->num_threads(), kind.has_value() ? ArithmeticName(*kind) : "none");
  for (const int length : flags.lengths) {
    std::vector<Measured> measured(models.size());
    for (int round = 0; round < flags.rounds; ++round) {
      for (size_t i = 0; i < models.size(); ++i) {
        Measured& m = measured[i];
        m.gops.push_back(models[i]->RoofGops());
        ATL_ASSIGN_OR_RETURN(m.seconds.emplace_back(),
                             Prompt(models[i].get(), length, flags.chunk));
      }
    }
    const double first = Print(models[0].get(), length, measured[0]);
    if (models.size() == 1) continue;
    const double second = Print(models[1].get(), length, measured[1]);
    std::printf("%s is %.2f times as fast as %s\n", models[1]->stack().profile().name.c_str(),
                first / second, stack.profile().name.c_str());
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
  app.add_option("--beside", flags.beside,
                 "another profile, its prompts in turns with the first's");
  CLI11_PARSE(app, argc, argv);
  return atl::bench::ExitCode("prefill_bench", atl::bench::Run(flags));
}
