#include "cli/node_flags.h"

#include "model/profile.h"
#include "rpc/address.h"

namespace atl::cli {
namespace {

constexpr int kMaxThreads = 1024;

std::string Join(const std::vector<std::string>& parts) {
  std::string joined;
  for (const std::string& part : parts) joined += (joined.empty() ? "" : ",") + part;
  return joined;
}

// Appends "--name=value" pairs; empty values are left out, for they are the default.
class Arguments {
 public:
  void Add(const std::string& name, const std::string& value) {
    if (!value.empty()) list_.push_back(name + "=" + value);
  }
  void Add(const std::string& name, int64_t value) {
    list_.push_back(absl::StrFormat("%s=%d", name, value));
  }
  void Add(const std::string& name, bool value) {
    Add(name, std::string(value ? "true" : "false"));
  }
  void Add(const std::string& name, absl::Duration value) {
    Add(name, absl::FormatDuration(value));
  }
  std::vector<std::string> Take() { return std::move(list_); }

 private:
  std::vector<std::string> list_;
};

Status CheckAddress(const std::string& flag, const std::string& address) {
  if (address.empty()) return absl::OkStatus();
  return Annotate(rpc::ParseHostPort(address).status(), flag);
}

Status CheckJoin(const std::string& join) {
  if (join.rfind("file:", 0) == 0) {
    return join.size() > 5 ? absl::OkStatus()
                           : InvalidArgument("--join: expected file:PATH, found \"%s\"", join);
  }
  if (join.rfind("dns:", 0) == 0)
    return Annotate(rpc::ParseHostPort(join.substr(4)).status(), "--join dns:");
  return CheckAddress("--join", join);
}

}  // namespace

void AddModelFlags(FlagSet* flags, cluster::NodeOptions* node) {
  flags->Add("--model", &node->model_dir,
             "folder of the checkpoint, HuggingFace layout (required)");
  if (node->profile.empty()) node->profile = model::kDefaultProfile;
  flags->Add("--profile", &node->profile, "numeric profile: " + Join(model::ProfileNames()));
}

void AddServerFlags(FlagSet* flags, cluster::NodeOptions* node, ProcessFlags* process) {
  flags->AddOneOf("--isa", &node->isa, {"auto", "portable", "avx2", "avx512", "avx512vnni"},
                  "instruction set of the kernels; all give the same bits");
  flags->Add("--threads", &node->threads, "compute threads a process; 0: one a core");
  flags->Add("--coverage-timeout", &node->coverage_timeout,
             "how long requests wait for missing experts or attention nodes");
  flags->Add("--drain-timeout", &node->drain_timeout,
             "how long running requests may take to end at shutdown");
  flags->AddOneOf("--log-level", &process->log_level, {"debug", "info", "warning", "error"},
                  "least level of the lines on stderr");
  flags->Add("--insecure", &node->insecure, "plaintext may leave this machine");
  flags->AddHidden("--report-fd", &process->report_fd);
}

void AddListenFlags(FlagSet* flags, cluster::NodeOptions* node) {
  flags->Add("--listen", &node->listen, "HOST:PORT of gRPC; port 0 takes a free one");
  flags->Add("--health-listen", &node->health_listen,
             "HOST:PORT with grpc.health.v1 alone; empty: none");
  flags->Add("--metrics-listen", &node->metrics_listen,
             "HOST:PORT of Prometheus metrics, at /metrics; empty: none");
}

void AddJoinFlags(FlagSet* flags, cluster::NodeOptions* node) {
  flags->Add("--name", &node->name, "name, unique in the cluster; empty: role, host and pid");
  flags->Add("--advertise", &node->advertise,
             "HOST:PORT that others reach this node at; empty: where it listens");
  flags->Add("--join", &node->join,
             "routers: HOST:PORT, dns:NAME:PORT or file:PATH with one HOST:PORT a line");
  flags->Add("--links", &node->links,
             "data-plane links allowed, best first: shm, unix, tcp; empty: all");
  flags->Add(
      "--link-spin-us", &node->link_spin_us,
      "how long threads ask their links before they sleep; -1: 50 where --threads leaves two "
      "cores free, else 0");
  flags->Add("--data-listen", &node->data_listen,
             "HOST:PORT of tcp links; empty: --listen's host, a free port");
  flags->Add("--zone", &node->zone, "failure domain that this node is in");
}

void AddEngineFlags(FlagSet* flags, attention::EngineOptions* engine) {
  flags->Add("--cache-blocks", &engine->cache_blocks,
             "latent cache in blocks of 64 positions; 0: from --cache-bytes");
  flags->AddBytes(
      "--cache-bytes", &engine->cache_bytes,
      "latent cache of an attention node; 0: 1GiB, or one whole context where that is more");
  flags->AddAtLeast("--max-running", &engine->max_running, 1, "sequences in one step at most");
  flags->AddAtLeast("--max-waiting", &engine->max_waiting, 0,
                    "sequences waiting at an attention node at most");
  flags->AddAtLeast("--max-step-tokens", &engine->max_step_tokens, 1,
                    "rows of one step at most: decodes first, then prefill");
  flags->AddAtLeast("--prefill-chunk", &engine->prefill_chunk, 1,
                    "rows of one prompt in one step at most");
  flags->Add("--prefix-cache", &engine->prefix_cache,
             "keep the cache of prompts for later ones that begin alike");
  flags->AddInRange("--micro-batches", &engine->micro_batches, 1, 2,
                    "parts of a step that overlap attention and experts");
  flags->Add("--context", &engine->context_length,
             "positions of a sequence at most; 0: as the model says");
  AddSpeculateFlag(flags, &engine->speculate);
}

void AddSpeculateFlag(FlagSet* flags, int* speculate) {
  flags->AddInRange("--speculate", speculate, 0, attention::kMaxSpeculate,
                    "tokens guessed ahead with the model's MTP layer, 0 to 4; 0: none");
}

void AddDispatchFlag(FlagSet* flags, std::string* dispatch) {
  flags->AddOneOf("--dispatch", dispatch, {"service", "inline"},
                  "gate and fan out in router processes, or inside the attention node");
}

Status CheckNodeOptions(const cluster::NodeOptions& node) {
  if (node.model_dir.empty()) return InvalidArgument("--model DIR is required (or ATOLL_MODEL)");
  ATL_RETURN_IF_ERROR(Annotate(model::FindProfile(node.profile).status(), "--profile"));
  if (node.threads < 0 || node.threads > kMaxThreads)
    return InvalidArgument("--threads: expected 0 to %d, found %d", kMaxThreads, node.threads);
  if (node.link_spin_us < -1 || node.link_spin_us > 1'000'000)
    return InvalidArgument("--link-spin-us: expected -1 to 1000000, found %d", node.link_spin_us);
  ATL_RETURN_IF_ERROR(CheckAddress("--listen", node.listen));
  ATL_RETURN_IF_ERROR(CheckAddress("--advertise", node.advertise));
  ATL_RETURN_IF_ERROR(CheckAddress("--data-listen", node.data_listen));
  ATL_RETURN_IF_ERROR(CheckAddress("--health-listen", node.health_listen));
  ATL_RETURN_IF_ERROR(CheckAddress("--metrics-listen", node.metrics_listen));
  for (const std::string& join : node.join) ATL_RETURN_IF_ERROR(CheckJoin(join));
  for (const std::string& kind : node.links) {
    if (kind != "shm" && kind != "unix" && kind != "tcp")
      return InvalidArgument("--links: expected shm, unix or tcp, found \"%s\"", kind);
  }
  return absl::OkStatus();
}

std::vector<std::string> NodeArguments(const cluster::NodeOptions& node,
                                       const ProcessFlags& process) {
  Arguments arguments;
  arguments.Add("--name", node.name);
  arguments.Add("--model", node.model_dir);
  arguments.Add("--profile", node.profile);
  arguments.Add("--listen", node.listen);
  arguments.Add("--advertise", node.advertise);
  arguments.Add("--join", Join(node.join));
  arguments.Add("--links", Join(node.links));
  arguments.Add("--data-listen", node.data_listen);
  arguments.Add("--health-listen", node.health_listen);
  arguments.Add("--metrics-listen", node.metrics_listen);
  arguments.Add("--isa", node.isa);
  arguments.Add("--threads", int64_t{node.threads});
  arguments.Add("--link-spin-us", int64_t{node.link_spin_us});
  arguments.Add("--zone", node.zone);
  arguments.Add("--coverage-timeout", node.coverage_timeout);
  arguments.Add("--drain-timeout", node.drain_timeout);
  arguments.Add("--insecure", node.insecure);
  arguments.Add("--log-level", process.log_level);
  return arguments.Take();
}

std::vector<std::string> EngineArguments(const attention::EngineOptions& engine) {
  Arguments arguments;
  arguments.Add("--cache-blocks", engine.cache_blocks);
  arguments.Add("--cache-bytes", engine.cache_bytes);
  arguments.Add("--max-running", int64_t{engine.max_running});
  arguments.Add("--max-waiting", int64_t{engine.max_waiting});
  arguments.Add("--max-step-tokens", int64_t{engine.max_step_tokens});
  arguments.Add("--prefill-chunk", int64_t{engine.prefill_chunk});
  arguments.Add("--prefix-cache", engine.prefix_cache);
  arguments.Add("--micro-batches", int64_t{engine.micro_batches});
  arguments.Add("--context", engine.context_length);
  arguments.Add("--speculate", int64_t{engine.speculate});
  return arguments.Take();
}

LogLevel ParseLogLevel(const std::string& name) {
  if (name == "debug") return LogLevel::kDebug;
  if (name == "info") return LogLevel::kInfo;
  if (name == "warning") return LogLevel::kWarning;
  return LogLevel::kError;
}

}  // namespace atl::cli
