#include "cli/commands.h"
#include "cli/role_flags.h"
#include "cli/server_loop.h"

namespace atl::cli {
namespace {

// Says in the log who speaks.
void NameLog(const std::string& role, const std::string& name, const ProcessFlags& process) {
  InitLog(name.empty() ? role : name, ParseLogLevel(process.log_level));
}

}  // namespace

int RunRouter(const std::string& command, int argc, char** argv) {
  router::RouterServerOptions options;
  ProcessFlags process;
  FlagSet flags(command, "A router: the clients' API, choice of experts, placement.");
  AddRouterFlags(&flags, &options, &process);
  if (const auto code = flags.Parse(argc, argv)) return *code;
  const Status checked = CheckNodeOptions(options.node);
  if (!checked.ok()) return flags.Mistake(std::string(checked.message()));

  BlockEndSignals();
  NameLog("router", options.node.name, process);
  const auto server = router::RouterServer::Start(options);
  return RunServer(command, AsStarted(server), process);
}

int RunAttention(const std::string& command, int argc, char** argv) {
  attention::AttentionServerOptions options;
  ProcessFlags process;
  FlagSet flags(command, "An attention node: attention layers, latent cache, sampling.");
  AddAttentionFlags(&flags, &options, &process);
  if (const auto code = flags.Parse(argc, argv)) return *code;
  Status checked = CheckNodeOptions(options.node);
  if (checked.ok()) checked = weights::CheckPackedCacheOptions(options.packed_cache);
  if (!checked.ok()) return flags.Mistake(std::string(checked.message()));

  BlockEndSignals();
  NameLog("attention", options.node.name, process);
  const auto server = attention::AttentionServer::Start(options);
  return RunServer(command, AsStarted(server), process);
}

int RunExpert(const std::string& command, int argc, char** argv) {
  expert::ExpertServerOptions options;
  ProcessFlags process;
  FlagSet flags(command, "An expert node: holds some experts' weights and computes rows for them.");
  AddExpertNodeFlags(&flags, &options, &process);
  if (const auto code = flags.Parse(argc, argv)) return *code;
  Status checked = CheckNodeOptions(options.node);
  if (checked.ok()) checked = weights::CheckPackedCacheOptions(options.packed_cache);
  if (!checked.ok()) return flags.Mistake(std::string(checked.message()));

  BlockEndSignals();
  NameLog("expert", options.node.name, process);
  const auto server = expert::ExpertServer::Start(options);
  return RunServer(command, AsStarted(server), process);
}

}  // namespace atl::cli
