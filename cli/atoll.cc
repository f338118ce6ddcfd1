#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "cli/commands.h"
#include "cli/flag_set.h"

namespace atl::cli {
namespace {

struct Command {
  const char* name;
  int (*run)(const std::string& command, int argc, char** argv);
  const char* summary;
};

constexpr Command kCommands[] = {
    {"serve", RunServe, "serve a checkpoint from one process"},
    {"cluster", RunCluster, "serve it from many processes on this machine"},
    {"router", RunRouter, "one router (also atoll-router)"},
    {"attention", RunAttention, "one attention node (also atoll-attention)"},
    {"expert", RunExpert, "one expert node (also atoll-expert)"},
    {"chat", RunChat, "talk with the model"},
    {"generate", RunGenerate, "one prompt, one answer"},
    {"tokenize", RunTokenize, "text to token ids and back"},
    {"plan", RunPlan, "what it takes to serve a model"},
    {"verify", RunVerify, "how far a numeric profile is from the reference"},
    {"make-model", RunMakeModel, "a checkpoint of random weights"},
    {"nodes", RunNodes, "who is in the cluster and holds what"},
};

void PrintHelp() {
  std::printf(
      "Atoll serves DeepSeek-V2/V3-architecture models from separate attention, router and expert "
      "services.\n\n");
  std::printf(
      "Usage: atoll COMMAND [flags]     (atoll COMMAND --help lists them; atoll --version)\n\n");
  for (const Command& command : kCommands)
    std::printf("  %-12s %s\n", command.name, command.summary);
}

}  // namespace

int RunAtoll(int argc, char** argv) {
  const std::string name = argc > 1 ? argv[1] : "";
  if (name == "--version") {
    std::printf("atoll %s\n", ATL_VERSION);
    return kExitOk;
  }
  if (name == "help" && argc > 2) {  // as atoll COMMAND --help
    std::string flag = "--help";
    char* arguments[] = {argv[0], argv[2], flag.data(), nullptr};
    return RunAtoll(3, arguments);
  }
  if (name == "--help" || name == "-h" || name == "help") {
    PrintHelp();
    return kExitOk;
  }
  std::vector<std::string> names;
  for (const Command& command : kCommands) {
    if (name == command.name) return command.run("atoll " + name, argc - 1, argv + 1);
    names.push_back(command.name);
  }
  if (name.empty()) {
    PrintHelp();
    return kExitUsage;
  }
  const std::string nearest = NearestWord(name, names);
  std::fprintf(stderr, "atoll: unknown command \"%s\"%s\natoll --help lists them.\n", name.c_str(),
               nearest.empty() ? "" : ("; did you mean " + nearest + "?").c_str());
  return kExitUsage;
}

}  // namespace atl::cli
