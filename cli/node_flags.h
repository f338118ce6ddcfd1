// The flags that servers share, and the same flags back as arguments for a child process.
#pragma once

#include <string>
#include <vector>

#include "attention_service/engine_options.h"
#include "base/log.h"
#include "base/status.h"
#include "cli/flag_set.h"
#include "cluster/node_options.h"
#include "weights/packed_cache.h"

namespace atl::cli {

inline constexpr char kDefaultListen[] = "127.0.0.1:8470";
inline constexpr char kDefaultJoin[] = "127.0.0.1:8470";

// What is set once a process, whatever it serves.
struct ProcessFlags {
  std::string log_level = "info";
  int report_fd = -1;  // a supervisor's pipe: the addresses are written to it
};

// --model, --profile: of every server and of tools that compute.
void AddModelFlags(FlagSet* flags, cluster::NodeOptions* node);
// --isa, --threads, --coverage-timeout, --drain-timeout, --log-level, --insecure: of every server.
void AddServerFlags(FlagSet* flags, cluster::NodeOptions* node, ProcessFlags* process);
// --listen, --health-listen: of a server that is one process.
void AddListenFlags(FlagSet* flags, cluster::NodeOptions* node);
// --name, --advertise, --join, --links, --data-listen, --zone: of a node that joins others.
void AddJoinFlags(FlagSet* flags, cluster::NodeOptions* node);
// Sizes of the attention engine.
void AddEngineFlags(FlagSet* flags, attention::EngineOptions* engine);
// --speculate: of the engine, and of routers, which place the MTP layer's experts if it is not 0.
void AddSpeculateFlag(FlagSet* flags, int* speculate);
void AddDispatchFlag(FlagSet* flags, std::string* dispatch);
// --packed-cache, --map-weights: of what holds packed weights.
void AddPackedCacheFlags(FlagSet* flags, weights::PackedCacheOptions* packed_cache);

// REQUIRES: the flags above were parsed into them. InvalidArgument says which flag is wrong.
Status CheckNodeOptions(const cluster::NodeOptions& node);

// Arguments that give the same options when parsed.
std::vector<std::string> NodeArguments(const cluster::NodeOptions& node,
                                       const ProcessFlags& process);
std::vector<std::string> EngineArguments(const attention::EngineOptions& engine);
std::vector<std::string> PackedCacheArguments(const weights::PackedCacheOptions& packed_cache);

LogLevel ParseLogLevel(const std::string& name);  // "debug", "info", "warning", else error

}  // namespace atl::cli
