#include "model/make_model.h"

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "cli/commands.h"
#include "cli/flag_set.h"
#include "cli/server_loop.h"
#include "model/config_json.h"
#include "model/presets.h"

namespace atl::cli {
namespace {

struct MakeModelFlags {
  std::string preset = "v2-lite", out, dtype = "bf16", tokenizer_dir;
  std::optional<uint32_t> experts, layers;
  std::vector<std::string> fields;  // NAME=VALUE
  int64_t seed = 1;
  int64_t shard_bytes = int64_t{4} << 30;
  int threads = 0;
};

StatusOr<model::ModelConfig> ConfigOf(const MakeModelFlags& values) {
  ATL_ASSIGN_OR_RETURN(const model::ModelConfig preset, model::ResolveModelConfig(values.preset));
  std::vector<std::pair<std::string, std::string>> fields;
  if (values.experts) fields.emplace_back("n_routed_experts", std::to_string(*values.experts));
  if (values.layers) fields.emplace_back("num_hidden_layers", std::to_string(*values.layers));
  for (const std::string& field : values.fields) {
    const size_t equals = field.find('=');
    if (equals == std::string::npos)
      return InvalidArgument("--set: expected NAME=VALUE, found \"%s\"", field);
    fields.emplace_back(field.substr(0, equals), field.substr(equals + 1));
  }
  return model::OverrideConfig(preset, fields);
}

std::atomic<int> ended_by = 0;  // the signal that ends the work; 0: none yet

// Ctrl-C and SIGTERM let the writer take its unfinished file away.
void WatchEndSignals() {
  struct sigaction action = {};
  action.sa_handler = [](int number) { ended_by = number; };
  action.sa_flags = SA_RESTART | SA_RESETHAND;  // a second one ends the process at once
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

void TellProgress(int64_t done, int64_t total) {
  if (isatty(STDERR_FILENO) == 0) {
    if (done == 0) std::fprintf(stderr, "%.2f GB to write\n", total / 1e9);
    return;
  }
  std::fprintf(stderr, "\r%.1f of %.1f GB", done / 1e9, total / 1e9);
  if (done == total) std::fprintf(stderr, "\n");
}

StatusOr<model::MadeModel> Make(const MakeModelFlags& values) {
  model::MakeModelOptions options;
  ATL_ASSIGN_OR_RETURN(options.config, ConfigOf(values));
  options.dtype = values.dtype == "fp8"   ? DType::kF8E4M3
                  : values.dtype == "f32" ? DType::kF32
                                          : DType::kBf16;
  options.seed = values.seed;
  options.max_shard_bytes = values.shard_bytes;
  options.tokenizer_dir = values.tokenizer_dir;
  const int cores = std::max(1u, std::thread::hardware_concurrency());
  ThreadPool pool({.num_threads = values.threads > 0 ? values.threads : cores});
  options.pool = &pool;
  options.progress = TellProgress;
  options.stop = [] { return ended_by != 0; };
  return model::MakeModel(options, values.out);
}

}  // namespace

int RunMakeModel(const std::string& command, int argc, char** argv) {
  MakeModelFlags values;
  std::string presets;
  for (const std::string& name : model::PresetNames())
    presets += (presets.empty() ? "" : ", ") + name;
  FlagSet flags(command,
                "Writes a checkpoint of random weights: any published shape, smaller if asked.");
  flags.Add("--preset", &values.preset, "shape: " + presets + ", or a folder or config.json");
  flags.Add("--out", &values.out, "folder to write, with no checkpoint in it (required)");
  flags.Add("--experts", &values.experts, "routed experts a layer, instead of the preset's");
  flags.Add("--layers", &values.layers, "layers, instead of the preset's");
  flags.Add("--set", &values.fields, "NAME=VALUE: other fields of config.json");
  flags.AddOneOf("--dtype", &values.dtype, {"bf16", "fp8", "f32"}, "type of the weights");
  flags.Add("--seed", &values.seed, "the same seed gives the same bytes");
  flags.AddBytes("--shard-bytes", &values.shard_bytes, "size of one file at most");
  flags.Add("--tokenizer", &values.tokenizer_dir,
            "folder whose tokenizer is copied; absent: ids only");
  flags.Add("--threads", &values.threads, "threads; 0: one a core");
  if (const auto code = flags.Parse(argc, argv)) return *code;
  if (values.out.empty()) return flags.Mistake("--out DIR is required");
  WatchEndSignals();
  const StatusOr<model::MadeModel> made = Make(values);
  if (!made.ok() && ended_by != 0) return 128 + ended_by;  // as a shell counts signals
  if (!made.ok()) return Fail(command, made.status());
  std::printf("%s: %d tensors in %d files, %.2f GB\n", values.out.c_str(),
              static_cast<int>(made->num_tensors), static_cast<int>(made->num_files),
              made->total_bytes / 1e9);
  return kExitOk;
}

}  // namespace atl::cli
