#include "cli/commands.h"
#include "cli/role_flags.h"
#include "cli/serve.h"
#include "cli/server_loop.h"

namespace atl::cli {

int RunServe(const std::string& command, int argc, char** argv) {
  ServeOptions options;
  options.node.listen = kDefaultListen;
  ProcessFlags process;
  FlagSet flags(
      command,
      "Serves a checkpoint from this one process: router, attention and experts together.");
  AddModelFlags(&flags, &options.node);
  AddListenFlags(&flags, &options.node);
  AddDispatchFlag(&flags, &options.dispatch);
  AddPackedCacheFlags(&flags, &options.packed_cache);
  AddEngineFlags(&flags, &options.engine);
  AddFrontDoorFlags(&flags, &options.max_concurrent_requests, &options.max_queued_requests);
  AddServerFlags(&flags, &options.node, &process);
  if (const auto code = flags.Parse(argc, argv)) return *code;
  Status checked = CheckNodeOptions(options.node);
  if (checked.ok()) checked = weights::CheckPackedCacheOptions(options.packed_cache);
  if (!checked.ok()) return flags.Mistake(std::string(checked.message()));

  BlockEndSignals();
  InitLog("atoll", ParseLogLevel(process.log_level));
  const auto server = ServeProcess::Start(options);
  return RunServer(command, AsStarted(server), process);
}

}  // namespace atl::cli
