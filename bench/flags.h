// What the benchmarks that open a checkpoint have in common on their command lines.
#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "base/status.h"
#include "local/local_stack.h"

namespace atl::bench {

// --model, --profile, --threads and --isa; dispatch is inline.
void AddStackFlags(CLI::App* app, local::LocalStackOptions* stack);

// The process's exit code; says what went wrong.
int ExitCode(const std::string& program, const Status& status);

}  // namespace atl::bench
