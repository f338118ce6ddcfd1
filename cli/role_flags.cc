#include "cli/role_flags.h"

namespace atl::cli {
namespace {

void AddNodeFlags(FlagSet* flags, cluster::NodeOptions* node, ProcessFlags* process) {
  AddModelFlags(flags, node);
  AddListenFlags(flags, node);
  AddJoinFlags(flags, node);
  AddServerFlags(flags, node, process);
}

}  // namespace

void AddFrontDoorFlags(FlagSet* flags, int* max_concurrent_requests, int* max_queued_requests) {
  flags->AddAtLeast("--max-concurrent-requests", max_concurrent_requests, 1,
                    "requests of one router that run at a time");
  flags->AddAtLeast("--max-queued-requests", max_queued_requests, 0,
                    "requests waiting at one router at most");
}

void AddPlannerFlags(FlagSet* flags, int* min_replicas, absl::Duration* settle) {
  flags->AddAtLeast("--min-replicas", min_replicas, 1,
                    "holders of every expert, where memory allows");
  flags->Add("--settle", settle, "quiet time of the membership before experts are placed");
}

void AddExpertFlags(FlagSet* flags, int64_t* memory_budget_bytes, bool* merge) {
  flags->AddBytes("--memory-budget", memory_budget_bytes,
                  "packed weights of an expert node at most; 0: no bound");
  flags->Add("--merge", merge, "compute rows of different callers for one expert together");
}

void AddRouterFlags(FlagSet* flags, router::RouterServerOptions* options, ProcessFlags* process) {
  options->node.listen = kDefaultListen;
  AddNodeFlags(flags, &options->node, process);
  flags->Add("--rank", &options->rank, "the live router of lowest rank plans");
  AddFrontDoorFlags(flags, &options->max_concurrent_requests, &options->max_queued_requests);
  flags->Add("--context", &options->context_length,
             "positions of a sequence at most, as at the attention nodes; 0: as the model says");
  AddSpeculateFlag(flags, &options->speculate);
  AddPlannerFlags(flags, &options->min_replicas, &options->settle);
}

void AddAttentionFlags(FlagSet* flags, attention::AttentionServerOptions* options,
                       ProcessFlags* process) {
  options->node.join = {kDefaultJoin};
  AddNodeFlags(flags, &options->node, process);
  AddDispatchFlag(flags, &options->dispatch);
  AddEngineFlags(flags, &options->engine);
}

void AddExpertNodeFlags(FlagSet* flags, expert::ExpertServerOptions* options,
                        ProcessFlags* process) {
  options->node.join = {kDefaultJoin};
  AddNodeFlags(flags, &options->node, process);
  AddExpertFlags(flags, &options->memory_budget_bytes, &options->merge);
}

std::vector<std::string> RouterArguments(const router::RouterServerOptions& options,
                                         const ProcessFlags& process) {
  std::vector<std::string> arguments = NodeArguments(options.node, process);
  arguments.push_back(absl::StrFormat("--rank=%d", options.rank));
  arguments.push_back(
      absl::StrFormat("--max-concurrent-requests=%d", options.max_concurrent_requests));
  arguments.push_back(absl::StrFormat("--max-queued-requests=%d", options.max_queued_requests));
  arguments.push_back(absl::StrFormat("--context=%d", options.context_length));
  arguments.push_back(absl::StrFormat("--speculate=%d", options.speculate));
  arguments.push_back(absl::StrFormat("--min-replicas=%d", options.min_replicas));
  arguments.push_back("--settle=" + absl::FormatDuration(options.settle));
  return arguments;
}

std::vector<std::string> AttentionArguments(const attention::AttentionServerOptions& options,
                                            const ProcessFlags& process) {
  std::vector<std::string> arguments = NodeArguments(options.node, process);
  arguments.push_back("--dispatch=" + options.dispatch);
  for (std::string& argument : EngineArguments(options.engine))
    arguments.push_back(std::move(argument));
  return arguments;
}

std::vector<std::string> ExpertArguments(const expert::ExpertServerOptions& options,
                                         const ProcessFlags& process) {
  std::vector<std::string> arguments = NodeArguments(options.node, process);
  arguments.push_back(absl::StrFormat("--memory-budget=%d", options.memory_budget_bytes));
  arguments.push_back(options.merge ? "--merge=true" : "--merge=false");
  return arguments;
}

}  // namespace atl::cli
