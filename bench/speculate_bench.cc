// Decoding with and without guesses of the MTP layer, turn by turn in one process: tokens a second
// and a second of CPU time (on a machine that others use too, the steadier one), how many guesses
// are right, and what the speed-up is.
//   speculate_bench --model DIR [--depths 0,1,2] [--batches 1,4,16] [--rounds N] [--tokens N]
//                   [--temperature T] [--always] [--right] [--threads N] [--profile NAME]
// --right: the MTP layer's guesses are replaced by what comes, at the same cost; with random
// weights that shows what guesses are worth where the layer is trained. Prompts are those of the
// checkpoint's expected.json (models/demo), or random ids. Prints a table and a line of JSON a row.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <ctime>
#include <fstream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/blocking_counter.h"
#include "absl/synchronization/mutex.h"
#include "bench/flags.h"
#include "local/local_stack.h"

namespace atl::bench {
namespace {

namespace pb = atollpb::v1;

struct Flags {
  local::LocalStackOptions stack;
  std::vector<int> depths = {0, 1, 2};
  std::vector<int> batches = {1, 4, 16};
  int rounds = 5;
  int tokens = 64;
  float temperature = 0;
  bool always = false;
  bool right = false;
};

// Answers by request, as the first depth gave them: for --right.
class Answers {
 public:
  void Add(const std::string& request, const pb::RunResponse& response) {
    absl::MutexLock lock(&mu_);
    auto& ids = ids_[request];
    ids.insert(ids.end(), response.token_ids().begin(), response.token_ids().end());
  }
  // The tokens that come, where they are known.
  void Guess(const attention::Sequence& s, std::vector<uint32_t>* drafts) {
    absl::MutexLock lock(&mu_);
    const auto found = ids_.find(s.start.request_id());
    for (size_t i = 0; found != ids_.end() && i < drafts->size(); ++i) {
      const size_t place = s.num_generated() + i;
      if (place < found->second.size()) (*drafts)[i] = found->second[place];
    }
  }

 private:
  absl::Mutex mu_;
  std::map<std::string, std::vector<uint32_t>> ids_ ABSL_GUARDED_BY(mu_);
};

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Of all threads of this process.
double CpuNow() {
  timespec time{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

std::vector<std::vector<uint32_t>> Prompts(const std::string& model_dir, uint32_t vocab) {
  std::vector<std::vector<uint32_t>> prompts;
  std::ifstream in(model_dir + "/expected.json");
  const auto expected = nlohmann::json::parse(in, nullptr, /*allow_exceptions=*/false);
  if (expected.is_object() && expected.contains("cases")) {
    for (const auto& one : expected["cases"]) prompts.push_back(one["prompt_ids"]);
    return prompts;
  }
  for (uint32_t i = 0; i < 16; ++i) {
    std::vector<uint32_t>& prompt = prompts.emplace_back();
    for (uint32_t j = 0; j < 16; ++j) prompt.push_back((i * 7919 + j * 104729 + 3) % vocab);
  }
  return prompts;
}

// Counts the tokens of one run, and tells when it has ended.
struct Observer : attention::RunObserver {
  void OnResponse(pb::RunResponse response) override {
    *tokens += response.token_ids_size();
    if (answers != nullptr) answers->Add(request, response);
  }
  void OnDone(const Status& with) override {
    status = with;
    ended->DecrementCount();
  }

  std::string request;
  std::atomic<int64_t>* tokens = nullptr;
  absl::BlockingCounter* ended = nullptr;
  Answers* answers = nullptr;  // null: known already
  Status status;               // once it has ended
  std::unique_ptr<attention::Run> run;
};

// Tokens a second.
struct Rate {
  double wall = 0, cpu = 0;
};

// Every prompt once, as many at a time as the engine runs. The first error if one fails.
StatusOr<Rate> RunPrompts(local::LocalStack* stack, const Flags& flags, Answers* answers) {
  const model::ModelConfig& c = stack->checkpoint().config();
  const auto prompts = Prompts(flags.stack.model_dir, static_cast<uint32_t>(c.vocab_size));
  std::atomic<int64_t> tokens{0};
  absl::BlockingCounter ended(static_cast<int>(prompts.size()));
  std::vector<std::unique_ptr<Observer>> observers;
  const double begin = Now(), cpu_begin = CpuNow();
  for (const auto& prompt : prompts) {
    pb::RunStart start;
    start.set_request_id(absl::StrCat(observers.size()));
    start.set_revision(stack->checkpoint().revision());
    start.set_numerics_id(model::NumericsId(stack->profile()));
    start.mutable_prompt_ids()->Add(prompt.begin(), prompt.end());
    start.set_max_tokens(flags.tokens);
    for (const auto id : c.eos_token_ids) start.add_stop_token_ids(static_cast<uint32_t>(id));
    start.set_logprobs(-1);
    start.set_prompt_logprobs(-1);
    auto* sampling = start.mutable_sampling();
    sampling->set_temperature(flags.temperature);
    sampling->set_top_p(1);
    sampling->set_repetition_penalty(1);
    sampling->set_seed(observers.size());
    observers.push_back(std::make_unique<Observer>());
    observers.back()->request = start.request_id();
    observers.back()->tokens = &tokens;
    observers.back()->ended = &ended;
    observers.back()->answers = answers;
    observers.back()->run = stack->engine()->Start(start, observers.back().get());
  }
  ended.Wait();
  const double count = static_cast<double>(tokens.load());
  const Rate rate = {count / (Now() - begin), count / (CpuNow() - cpu_begin)};
  for (const auto& observer : observers) ATL_RETURN_IF_ERROR(observer->status);
  return rate;
}

struct Case {
  int batch = 0, depth = 0;
  std::unique_ptr<local::LocalStack> stack;
  Rate best;
};

void Print(const Flags& flags, const Case& one, const Rate& without) {
  const attention::EngineStats& stats = one.stack->engine()->stats();
  const double drafted = static_cast<double>(stats.drafted_tokens),
               accepted = static_cast<double>(stats.accepted_tokens);
  std::printf("%6d %6d %12.1f %9.2f %14.1f %9.2f %11.1f %% %10.0f %16.2f\n", one.batch, one.depth,
              one.best.wall, one.best.wall / without.wall, one.best.cpu, one.best.cpu / without.cpu,
              drafted > 0 ? 100 * accepted / drafted : 0, drafted,
              static_cast<double>(stats.decode_tokens) / static_cast<double>(stats.steps));
  std::printf(
      "{\"bench\": \"speculate\", \"batch\": %d, \"depth\": %d, \"temperature\": %g, "
      "\"tokens_per_s\": %.2f, \"tokens_per_cpu_s\": %.2f, \"drafted\": %.0f, "
      "\"accepted\": %.0f}\n",
      one.batch, one.depth, flags.temperature, one.best.wall, one.best.cpu, drafted, accepted);
}

Status Run(const Flags& flags) {
  std::printf("%6s %6s %12s %9s %14s %9s %13s %10s %16s\n", "batch", "depth", "tokens/s", "ratio",
              "tokens/CPU s", "ratio", "accepted", "guesses", "tokens a step");
  for (const int batch : flags.batches) {
    std::vector<Case> cases;
    Answers answers;
    for (const int depth : flags.depths) {
      local::LocalStackOptions options = flags.stack;
      options.engine.speculate = depth;
      options.engine.speculate_always = flags.always;
      options.engine.max_running = batch;
      options.engine.prefix_cache = false;
      Case& one = cases.emplace_back(Case{.batch = batch, .depth = depth});
      ATL_ASSIGN_OR_RETURN(one.stack, local::LocalStack::Open(options));
      if (flags.right && depth > 0) {
        one.stack->engine()->SetDraftHookForTest(
            [&answers](const attention::Sequence& s, std::vector<uint32_t>* drafts) {
              answers.Guess(s, drafts);
            });
      }
      one.stack->Start();
    }
    // Turn by turn: what disturbs the machine disturbs all depths alike. The first is to warm up.
    for (int round = 0; round <= flags.rounds; ++round) {
      for (Case& one : cases) {
        Answers* const unknown = round == 0 && &one == &cases.front() ? &answers : nullptr;
        ATL_ASSIGN_OR_RETURN(const Rate rate, RunPrompts(one.stack.get(), flags, unknown));
        if (round == 0) continue;
        one.best.wall = std::max(one.best.wall, rate.wall);
        one.best.cpu = std::max(one.best.cpu, rate.cpu);
      }
    }
    for (const Case& one : cases) Print(flags, one, cases.front().best);
  }
  return absl::OkStatus();
}

}  // namespace
}  // namespace atl::bench

int main(int argc, char** argv) {
  atl::bench::Flags flags;
  CLI::App app("Decoding with and without guesses of the MTP layer");
  atl::bench::AddStackFlags(&app, &flags.stack);
  app.add_option("--depths", flags.depths, "guesses at most; ratios are to the first")
      ->delimiter(',')
      ->check(CLI::Range(0, atl::attention::kMaxSpeculate));
  app.add_option("--batches", flags.batches, "sequences at a time")
      ->delimiter(',')
      ->check(CLI::Range(1, 256));
  app.add_option("--rounds", flags.rounds, "turns; the best of them counts")
      ->check(CLI::Range(1, 1000));
  app.add_option("--tokens", flags.tokens, "tokens of an answer at most")
      ->check(CLI::Range(1, 1000));
  app.add_option("--temperature", flags.temperature, "0: greedy")->check(CLI::Range(0.0, 10.0));
  app.add_flag("--always", flags.always, "as deep as allowed, whether it pays or not");
  app.add_flag("--right", flags.right,
               "take guesses from the first depth's answers: all are right");
  CLI11_PARSE(app, argc, argv);
  return atl::bench::ExitCode("speculate_bench", atl::bench::Run(flags));
}
