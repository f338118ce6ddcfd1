// What every program's main does.
#pragma once

#include <functional>

namespace atl::cli {

// Runs a program. What the standard library throws there (no more memory, no more threads) ends it
// with a message and kExitFailure, not with a core.
int RunProgram(const char* name, const std::function<int()>& run);

}  // namespace atl::cli
