#include "bench/flags.h"

#include <cstdio>

namespace atl::bench {

void AddStackFlags(CLI::App* app, local::LocalStackOptions* stack) {
  stack->dispatch = "inline";
  app->add_option("--model", stack->model_dir, "checkpoint folder")->required();
  app->add_option("--profile", stack->profile, "numeric profile");
  app->add_option("--threads", stack->threads, "compute threads; 0: one a core");
  app->add_option("--isa", stack->isa, "instruction set of the kernels");
}

int ExitCode(const std::string& program, const Status& status) {
  if (status.ok()) return 0;
  std::fprintf(stderr, "%s: %s\n", program.c_str(), std::string(status.message()).c_str());
  return 1;
}

}  // namespace atl::bench
