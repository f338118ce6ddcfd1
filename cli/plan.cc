#include "model/plan.h"

#include <algorithm>
#include <cstdio>
#include <optional>

#include "cli/commands.h"
#include "cli/flag_set.h"
#include "cli/node_flags.h"
#include "cli/server_loop.h"
#include "model/presets.h"

namespace atl::cli {
namespace {

struct PlanFlags {
  std::string model, profile = model::kDefaultProfile;
  model::PlanOptions options;
  std::optional<uint32_t> context;
  double bandwidth_gb = 0, gflops = 0;
  int speculate = 0;
};

StatusOr<std::string> MakePlanText(PlanFlags* values) {
  model::PlanOptions& options = values->options;
  options.name = values->model;
  options.speculate = values->speculate > 0;
  options.bandwidth_bytes_per_s = values->bandwidth_gb * 1e9;
  options.flops_per_s = values->gflops * 1e9;
  ATL_ASSIGN_OR_RETURN(options.config, model::ResolveModelConfig(values->model));
  options.context_tokens = values->context.value_or(
      std::min(options.context_tokens, options.config.max_position_embeddings));
  ATL_ASSIGN_OR_RETURN(options.profile, model::FindProfile(values->profile));
  ATL_ASSIGN_OR_RETURN(const model::Plan plan, model::MakePlan(options));
  return model::PlanToText(plan);
}

}  // namespace

int RunPlan(const std::string& command, int argc, char** argv) {
  PlanFlags values;
  values.bandwidth_gb = values.options.bandwidth_bytes_per_s / 1e9;
  values.gflops = values.options.flops_per_s / 1e9;
  std::string presets;
  for (const std::string& name : model::PresetNames())
    presets += (presets.empty() ? "" : ", ") + name;
  FlagSet flags(command,
                "What it takes to serve a model: memory, nodes, network. Nothing is loaded.");
  flags.Add("--model", &values.model,
            "checkpoint folder, config.json, or one of " + presets + " (required)");
  flags.Add("--profile", &values.profile, "numeric profile");
  flags.AddAtLeast("--nodes", &values.options.num_expert_nodes, 0,
                   "expert nodes; 0: as few as hold the experts once");
  flags.AddBytes("--node-memory", &values.options.node_memory_bytes, "memory of each node");
  flags.AddAtLeast(
      "--context", &values.context, 1,
      absl::StrFormat("tokens of a sequence, prompt and answer; absent: %d, or the model's "
                      "limit where that is less",
                      values.options.context_tokens));
  flags.AddAtLeast("--sequences", &values.options.num_sequences, 1,
                   "sequences that run at once in the whole cluster");
  AddSpeculateFlag(&flags, &values.speculate);
  flags.AddInRange("--bandwidth", &values.bandwidth_gb, 0, 1e9,
                   "GB/s that an expert node reads memory at");
  flags.AddInRange("--gflops", &values.gflops, 0, 1e12, "GFLOP/s of an expert node");
  if (const auto code = flags.Parse(argc, argv)) return *code;
  if (values.model.empty())
    return flags.Mistake("--model is required: a folder, or one of " + presets);
  const StatusOr<std::string> text = MakePlanText(&values);
  if (!text.ok()) return Fail(command, text.status());
  std::fputs(text->c_str(), stdout);
  return kExitOk;
}

}  // namespace atl::cli
