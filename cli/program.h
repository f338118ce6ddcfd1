// What every program's main does.
#pragma once

#include <functional>

namespace atl::cli {

// Runs a program: its exit code. What the standard library throws there (no more memory, no more
// threads) ends it with a message and kExitFailure, not with a core. Standard output counts too
// (output.h).
int RunProgram(const char* name, const std::function<int()>& run);

}  // namespace atl::cli
