// What a whole dispatch costs an attention node: gate, pairs, work frames, expert nodes, combine.
// Expert nodes stand in: they answer with rows of the right size, after a time a pair if asked.
//   dispatch_bench [--shape v2-lite,v3] [--experts E,...] [--nodes 1,2,4,8,16,32,64]
//     [--mode inline,service] [--link inproc,shm,unix,tcp] [--rows 64] [--pair-us 0] [--even]
//     [--threads 0] [--node-threads 1] [--spin-us 0] [--rounds 3] [--seconds 0.2]
// All that is asked for takes turns, one of each in each round. Prints a table, and a line of JSON
// for each of its lines.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "bench/dispatch/dispatch_rig.h"
#include "bench/timing.h"
#include "kernels/context.h"

namespace atl::bench {
namespace {

constexpr int kInputs = 4;         // batches of rows that take turns: the gate chooses differently
constexpr int kWarmUps = 2;        // calls of each turn that do not count, at least
constexpr size_t kLeastCalls = 3;  // of each turn that do
// A shared-memory link's ring: its pages are new to both sides until it has gone round, which takes
// longer than everything else. A tenth more, for the gate does not choose all nodes equally.
constexpr double kRingBytes = 1.1 * (1 << 20);
constexpr double kMostWarmUpSeconds = 2;

struct Flags {
  std::vector<std::string> shapes = {"v2-lite", "v3"};
  std::vector<int64_t> experts = {0};
  std::vector<int> nodes = {1, 2, 4, 8, 16, 32, 64};
  std::vector<std::string> modes = {"inline", "service"};
  std::vector<std::string> links = {"inproc", "shm"};
  std::string profile = model::kDefaultProfile;
  std::string isa = "auto";
  int64_t rows = 64;
  double pair_us = 0;
  bool even = false;
  int threads = 0;
  int node_threads = 1;
  int spin_us = 0;
  int rounds = 3;
  double seconds = 0.2;
};

struct Arrangement {
  DispatchRigOptions options;
  std::vector<DispatchCost> calls;
};

std::vector<Buffer> MakeInputs(int64_t rows, int64_t d, DType wire) {
  std::mt19937 rng(1);
  std::normal_distribution<float> normal;
  std::vector<Buffer> inputs;
  for (int i = 0; i < kInputs; ++i) {
    Buffer& x = inputs.emplace_back(rows * d * DTypeBytes(wire));
    for (int64_t j = 0; j < rows * d; ++j) {
      if (wire == DType::kBf16) {
        x.as<Bf16>()[j] = F32ToBf16(normal(rng));
      } else {
        x.as<float>()[j] = normal(rng);
      }
    }
  }
  return inputs;
}

StatusOr<std::vector<Arrangement>> Arrangements(const Flags& flags) {
  std::vector<Arrangement> all;
  for (const std::string& link : flags.links) {
    ATL_ASSIGN_OR_RETURN(const transport::LinkKind kind, transport::ParseLinkKind(link));
    for (const std::string& mode : flags.modes) {
      for (const int nodes : flags.nodes) {
        all.push_back({.options = {.mode = mode,
                                   .link = kind,
                                   .nodes = nodes,
                                   .node_threads = flags.node_threads,
                                   .per_pair = absl::Microseconds(flags.pair_us),
                                   .spin = absl::Microseconds(flags.spin_us),
                                   .even = flags.even,
                                   .rows = flags.rows}});
      }
    }
  }
  return all;
}

StatusOr<DispatchCost> DispatchCopy(DispatchRig* rig, const Buffer& input) {
  Buffer x(input.size());
  std::memcpy(x.data(), input.data(), input.size());
  return rig->Dispatch(std::move(x));
}

Status WarmUp(DispatchRig* rig, const DispatchRigOptions& options,
              const std::vector<Buffer>& inputs) {
  const double enough = options.link == transport::LinkKind::kShm ? options.nodes * kRingBytes : 0;
  const double end = WallSeconds() + kMostWarmUpSeconds;
  double out = 0, back = 0;
  for (int i = 0; i < kWarmUps || (std::min(out, back) < enough && WallSeconds() < end); ++i) {
    ATL_ASSIGN_OR_RETURN(const DispatchCost cost, DispatchCopy(rig, inputs[i % inputs.size()]));
    out += static_cast<double>(cost.to_experts);
    back += static_cast<double>(cost.from_experts);
  }
  return absl::OkStatus();
}

// One turn.
Status Measure(DispatchRig* rig, const std::vector<Buffer>& inputs, double seconds,
               std::vector<DispatchCost>* calls) {
  const size_t enough = calls->size() + kLeastCalls;
  const double end = WallSeconds() + seconds;
  while (calls->size() < enough || WallSeconds() < end) {
    ATL_ASSIGN_OR_RETURN(const DispatchCost cost,
                         DispatchCopy(rig, inputs[calls->size() % inputs.size()]));
    calls->push_back(cost);
  }
  return absl::OkStatus();
}

double MedianOf(const std::vector<DispatchCost>& calls, double DispatchCost::* field) {
  std::vector<double> values;
  for (const DispatchCost& call : calls) values.push_back(call.*field);
  return Median(std::move(values));
}

double MeanOf(const std::vector<DispatchCost>& calls, int64_t DispatchCost::* field) {
  double sum = 0;
  for (const DispatchCost& call : calls) sum += static_cast<double>(call.*field);
  return sum / static_cast<double>(calls.size());
}

double P99Us(const std::vector<DispatchCost>& calls) {
  std::vector<double> us;
  for (const DispatchCost& call : calls) us.push_back(call.us);
  std::sort(us.begin(), us.end());
  return us[static_cast<size_t>(0.99 * static_cast<double>(us.size() - 1))];
}

void PrintHeading(const Flags& flags, const GateModel& model, int threads) {
  const model::ModelConfig& c = model.config;
  std::printf(
      "D %ld, %ld experts, top %ld, %s shared; %ld rows a dispatch, %g us a pair%s; profile %s, %d "
      "threads\n",
      c.hidden_size, c.n_routed_experts, c.num_experts_per_tok,
      c.n_shared_experts > 0 ? "one" : "none", flags.rows, flags.pair_us,
      flags.even ? ", spread evenly" : "", flags.profile.c_str(), threads);
  std::printf(
      "mode     link    nodes    p50 us    p99 us   us/row   gate  combine   KiB out  KiB back  "
      "most pairs\n");
}

// Shares are of p50, each of the median of its own.
void Print(const Arrangement& arrangement, const Flags& flags, const GateModel& model,
           int threads) {
  const DispatchRigOptions& o = arrangement.options;
  const std::vector<DispatchCost>& calls = arrangement.calls;
  const double p50 = MedianOf(calls, &DispatchCost::us), p99 = P99Us(calls);
  const double gate = MedianOf(calls, &DispatchCost::gate_us);
  const double combine = MedianOf(calls, &DispatchCost::combine_us);
  const double to_router = MeanOf(calls, &DispatchCost::to_router);
  const double from_router = MeanOf(calls, &DispatchCost::from_router);
  const double to_experts = MeanOf(calls, &DispatchCost::to_experts);
  const double from_experts = MeanOf(calls, &DispatchCost::from_experts);
  const double most_pairs = MeanOf(calls, &DispatchCost::most_pairs);
  const model::ModelConfig& c = model.config;
  const int64_t pairs = o.rows * (c.num_experts_per_tok + (c.n_shared_experts > 0 ? 1 : 0));
  const double rows = static_cast<double>(o.rows);
  std::printf("%-8s %-6s %6d %9.1f %9.1f %8.2f %5.1f%% %7.1f%% %9.1f %9.1f %11.1f\n",
              o.mode.c_str(), LinkKindName(o.link), o.nodes, p50, p99, p50 / rows, 100 * gate / p50,
              100 * combine / p50, (to_router + to_experts) / 1024,
              (from_router + from_experts) / 1024, most_pairs);
  std::printf(
      "{\"bench\": \"dispatch\", \"mode\": \"%s\", \"link\": \"%s\", \"hidden_size\": %ld, "
      "\"experts\": %ld, \"rows\": %ld, \"nodes\": %d, \"pair_us\": %g, \"even\": %s, \"profile\": "
      "\"%s\", \"threads\": %d, \"node_threads\": %d, \"spin_us\": %d, \"calls\": %zu, \"p50_us\": "
      "%.2f, \"p99_us\": %.2f, \"us_per_row\": %.4f, \"gate_us\": %.2f, \"combine_us\": %.2f, "
      "\"gate_share\": %.4f, \"combine_share\": %.4f, \"to_router_bytes\": %.0f, "
      "\"from_router_bytes\": %.0f, \"to_experts_bytes\": %.0f, \"from_experts_bytes\": %.0f, "
      "\"pairs\": %ld, \"most_pairs\": %.1f}\n",
      o.mode.c_str(), LinkKindName(o.link), c.hidden_size, c.n_routed_experts, o.rows, o.nodes,
      flags.pair_us, o.even ? "true" : "false", flags.profile.c_str(), threads, o.node_threads,
      flags.spin_us, calls.size(), p50, p99, p50 / rows, gate, combine, gate / p50, combine / p50,
      to_router, from_router, to_experts, from_experts, pairs, most_pairs);
}

// A shape with its experts.
struct Case {
  GateModel model;
  std::vector<Buffer> inputs;
  std::vector<Arrangement> arrangements;
};

StatusOr<std::vector<Case>> MakeCases(const Flags& flags, const model::NumericProfile& profile,
                                      ThreadPool* pool) {
  std::vector<Case> cases;
  for (const std::string& shape : flags.shapes) {
    for (const int64_t experts : flags.experts) {
      Case& added = cases.emplace_back();
      ATL_ASSIGN_OR_RETURN(added.model, MakeGateModel(shape, experts, !flags.even, pool));
      ATL_ASSIGN_OR_RETURN(added.arrangements, Arrangements(flags));
      added.inputs = MakeInputs(flags.rows, added.model.config.hidden_size, profile.wire);
    }
  }
  return cases;
}

Status Run(const Flags& flags) {
  const int cores = static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  ThreadPool pool({.num_threads = flags.threads > 0 ? flags.threads : cores});
  ATL_ASSIGN_OR_RETURN(const model::NumericProfile profile, model::FindProfile(flags.profile));
  ATL_ASSIGN_OR_RETURN(const kernels::Isa isa, kernels::ParseIsa(flags.isa));
  ATL_ASSIGN_OR_RETURN(const kernels::KernelContext ctx, kernels::MakeKernelContext(isa, &pool));
  ATL_ASSIGN_OR_RETURN(std::vector<Case> cases, MakeCases(flags, profile, &pool));
  for (int round = 0; round < flags.rounds; ++round) {
    for (Case& one : cases) {
      for (Arrangement& arrangement : one.arrangements) {
        ATL_ASSIGN_OR_RETURN(const auto rig,
                             DispatchRig::Make(arrangement.options, ctx, one.model, profile));
        ATL_RETURN_IF_ERROR(WarmUp(rig.get(), arrangement.options, one.inputs));
        ATL_RETURN_IF_ERROR(Measure(rig.get(), one.inputs, flags.seconds, &arrangement.calls));
      }
    }
  }
  for (const Case& one : cases) {
    PrintHeading(flags, one.model, pool.num_threads());
    for (const Arrangement& arrangement : one.arrangements)
      Print(arrangement, flags, one.model, pool.num_threads());
  }
  return absl::OkStatus();
}

void AddFlags(CLI::App* app, Flags* flags) {
  const auto list = [app](const char* name, auto* values, const char* help) {
    return app->add_option(name, *values, help)->delimiter(',')->capture_default_str();
  };
  const auto one = [app](const char* name, auto* value, const char* help) {
    return app->add_option(name, *value, help)->capture_default_str();
  };
  list("--shape", &flags->shapes,
       "presets: D, top-k and groups are theirs (v2-lite 2048, v3 7168)");
  list("--experts", &flags->experts, "routed experts; 0: the shape's own")
      ->check(CLI::Range(0, 4096));
  list("--nodes", &flags->nodes, "expert nodes")->check(CLI::Range(1, 256));
  list("--mode", &flags->modes, "inline, service");
  list("--link", &flags->links,
       "inproc: all on one thread; shm, unix, tcp: nodes, and the router "
       "of service, on others");
  one("--profile", &flags->profile, "numeric profile: its wire type");
  one("--isa", &flags->isa, "instruction set of the kernels");
  one("--rows", &flags->rows, "of a dispatch")->check(CLI::Range(1, 1 << 16));
  one("--pair-us", &flags->pair_us, "time that a node takes a pair, without taking the core")
      ->check(CLI::Range(0.0, 1e6));
  app->add_flag("--even", flags->even, "spread rows over the experts evenly, and no shared expert");
  one("--threads", &flags->threads, "of gate and combine; 0: one a core")
      ->check(CLI::Range(0, 1024));
  one("--node-threads", &flags->node_threads, "that the nodes share; not with inproc")
      ->check(CLI::Range(1, 256));
  one("--spin-us", &flags->spin_us, "of every loop before it sleeps")
      ->check(CLI::Range(0, 1'000'000));
  one("--rounds", &flags->rounds, "turns of each")->check(CLI::Range(1, 1000));
  one("--seconds", &flags->seconds, "of a turn")->check(CLI::PositiveNumber);
}

}  // namespace
}  // namespace atl::bench

int main(int argc, char** argv) {
  atl::bench::Flags flags;
  CLI::App app("What a dispatch costs, with expert nodes that stand in");
  atl::bench::AddFlags(&app, &flags);
  CLI11_PARSE(app, argc, argv);
  const atl::Status status = atl::bench::Run(flags);
  if (status.ok()) return 0;
  std::fprintf(stderr, "dispatch_bench: %s\n", status.ToString().c_str());
  return 1;
}
