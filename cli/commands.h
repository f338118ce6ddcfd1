// The commands of `atoll`. Each reads its own flags and returns the process's exit code: 0, 1 for a
// failure, 2 for wrong flags, 130 where Ctrl-C ended a client.
#pragma once

#include <string>

namespace atl::cli {

// `command` is what was typed ("atoll serve", "atoll-router"), argv[0] is skipped.
int RunServe(const std::string& command, int argc, char** argv);
int RunCluster(const std::string& command, int argc, char** argv);
int RunRouter(const std::string& command, int argc, char** argv);
int RunAttention(const std::string& command, int argc, char** argv);
int RunExpert(const std::string& command, int argc, char** argv);

int RunChat(const std::string& command, int argc, char** argv);
int RunGenerate(const std::string& command, int argc, char** argv);
int RunTokenize(const std::string& command, int argc, char** argv);
int RunPlan(const std::string& command, int argc, char** argv);
int RunMakeModel(const std::string& command, int argc, char** argv);
int RunVerify(const std::string& command, int argc, char** argv);
int RunNodes(const std::string& command, int argc, char** argv);

// `atoll COMMAND ...`: chooses among the above.
int RunAtoll(int argc, char** argv);

}  // namespace atl::cli
