// Flags that one role alone has, and the whole sets of the three roles.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "attention_service/server.h"
#include "cli/node_flags.h"
#include "expert_service/server.h"
#include "router_service/server.h"

namespace atl::cli {

// --max-concurrent-requests, --max-queued-requests: of every front door.
void AddFrontDoorFlags(FlagSet* flags, int* max_concurrent_requests, int* max_queued_requests);
void AddPlannerFlags(FlagSet* flags, int* min_replicas, absl::Duration* settle);
void AddExpertFlags(FlagSet* flags, int64_t* memory_budget_bytes, bool* merge);

void AddRouterFlags(FlagSet* flags, router::RouterServerOptions* options, ProcessFlags* process);
void AddAttentionFlags(FlagSet* flags, attention::AttentionServerOptions* options,
                       ProcessFlags* process);
void AddExpertNodeFlags(FlagSet* flags, expert::ExpertServerOptions* options,
                        ProcessFlags* process);

// Arguments that give the same options when parsed.
std::vector<std::string> RouterArguments(const router::RouterServerOptions& options,
                                         const ProcessFlags& process);
std::vector<std::string> AttentionArguments(const attention::AttentionServerOptions& options,
                                            const ProcessFlags& process);
std::vector<std::string> ExpertArguments(const expert::ExpertServerOptions& options,
                                         const ProcessFlags& process);

}  // namespace atl::cli
