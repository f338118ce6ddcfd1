#include <cstdio>
#include <memory>
#include <random>
#include <sstream>
#include <vector>

#include "base/file.h"
#include "cli/commands.h"
#include "cli/flag_set.h"
#include "cli/logits_distance.h"
#include "cli/node_flags.h"
#include "cli/server_loop.h"
#include "local/local_stack.h"
#include "local/offline_forward.h"
#include "text/tokenizer.h"

namespace atl::cli {
namespace {

constexpr char kReference[] = "reference";
constexpr int64_t kChunk = 64;
constexpr int kRandomTexts = 4;

struct VerifyFlags {
  cluster::NodeOptions node;
  std::string texts;
  int64_t max_tokens = 256;
  int64_t seed = 1;
  double max_kl = 0, min_top1 = 0;
};

using TokenTexts = std::vector<std::vector<uint32_t>>;

// One text a line of the file, cut to `max_tokens`; lines of one token predict nothing and are left
// out.
StatusOr<TokenTexts> ReadTexts(const VerifyFlags& values) {
  ATL_ASSIGN_OR_RETURN(const auto tokenizer, text::Tokenizer::Load(values.node.model_dir));
  ATL_ASSIGN_OR_RETURN(const std::string file, ReadFile(values.texts));
  TokenTexts texts;
  std::istringstream lines(file);
  for (std::string line; std::getline(lines, line);) {
    std::vector<uint32_t> ids = tokenizer->Encode(line, /*add_special_tokens=*/true);
    if (static_cast<int64_t>(ids.size()) > values.max_tokens) ids.resize(values.max_tokens);
    if (ids.size() > 1) texts.push_back(std::move(ids));
  }
  if (texts.empty()) return InvalidArgument("--texts: %s has no text", values.texts);
  return texts;
}

TokenTexts RandomTexts(const VerifyFlags& values, int64_t vocab_size) {
  std::mt19937_64 random(values.seed);
  TokenTexts texts(kRandomTexts, std::vector<uint32_t>(values.max_tokens));
  for (auto& text : texts) {
    for (uint32_t& id : text) id = random() % vocab_size;
  }
  return texts;
}

StatusOr<std::unique_ptr<local::LocalStack>> OpenStack(const VerifyFlags& values,
                                                       const std::string& profile) {
  local::LocalStackOptions options;
  options.model_dir = values.node.model_dir;
  options.profile = profile;
  options.isa = values.node.isa;
  options.threads = values.node.threads;
  options.dispatch = "inline";
  return local::LocalStack::Open(options);
}

StatusOr<LogitsDistance> Measure(const VerifyFlags& values) {
  ATL_ASSIGN_OR_RETURN(const auto reference, OpenStack(values, kReference));
  ATL_ASSIGN_OR_RETURN(const auto profile, OpenStack(values, values.node.profile));
  const int64_t vocab_size = reference->checkpoint().config().vocab_size;
  const int64_t context = reference->checkpoint().config().max_position_embeddings;
  if (values.max_tokens > context) {
    return InvalidArgument("--max-tokens %d: the model has %d positions", values.max_tokens,
                           context);
  }
  TokenTexts texts;
  if (values.texts.empty()) {
    texts = RandomTexts(values, vocab_size);
  } else {
    ATL_ASSIGN_OR_RETURN(texts, ReadTexts(values));
  }
  local::OfflineForward reference_forward(reference.get(), values.max_tokens);
  local::OfflineForward profile_forward(profile.get(), values.max_tokens);
  LogitsDistance distance;
  std::vector<float> expected, found;
  for (const std::vector<uint32_t>& text : texts) {
    ATL_RETURN_IF_ERROR(reference_forward.Logits(text, kChunk, &expected));
    ATL_RETURN_IF_ERROR(profile_forward.Logits(text, kChunk, &found));
    distance.Add(expected, found, vocab_size);
  }
  return distance;
}

}  // namespace

int RunVerify(const std::string& command, int argc, char** argv) {
  VerifyFlags values;
  ProcessFlags process;
  FlagSet flags(
      command,
      "Measures how far a numeric profile is from the profile reference. Both are loaded at once.");
  AddModelFlags(&flags, &values.node);
  flags.Add("--texts", &values.texts,
            "file with one text a line; absent: random ids, which are harder");
  flags.AddAtLeast("--max-tokens", &values.max_tokens, 2, "tokens of each text at most");
  flags.Add("--seed", &values.seed, "of the random ids");
  flags.AddOneOf("--isa", &values.node.isa, {"auto", "portable", "avx2", "avx512", "avx512vnni"},
                 "instruction set of the kernels");
  flags.Add("--threads", &values.node.threads, "compute threads; 0: one a core");
  flags.AddInRange("--max-kl", &values.max_kl, 0, 1e9,
                   "fail if the mean divergence is larger, in nats; 0: never");
  flags.AddInRange("--min-top1", &values.min_top1, 0, 1,
                   "fail if the largest logits agree at a smaller share of positions");
  if (const auto code = flags.Parse(argc, argv)) return *code;
  const Status checked = CheckNodeOptions(values.node);
  if (!checked.ok()) return flags.Mistake(std::string(checked.message()));

  InitLog("verify", LogLevel::kWarning);
  const StatusOr<LogitsDistance> distance = Measure(values);
  if (!distance.ok()) return Fail(command, distance.status());
  std::printf("%s against %s at %d positions\n", values.node.profile.c_str(), kReference,
              static_cast<int>(distance->num_positions()));
  std::printf("  mean KL divergence        %.3g nats (largest %.3g)\n", distance->mean_kl(),
              distance->max_kl());
  std::printf("  same most likely token    %.3f %%\n", 100 * distance->top1_agreement());
  std::printf("  largest logit difference  %.3g\n", distance->max_logit_difference());
  if (values.max_kl > 0 && !(distance->mean_kl() <= values.max_kl)) {
    return Fail(command, OutOfRange("mean KL divergence: expected at most %g", values.max_kl));
  }
  if (!(distance->top1_agreement() >= values.min_top1)) {
    return Fail(command,
                OutOfRange("same most likely token: expected at least %g", values.min_top1));
  }
  return kExitOk;
}

}  // namespace atl::cli
