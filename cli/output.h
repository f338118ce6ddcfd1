// Standard output of the commands: what was printed has arrived, or the command has failed.
#pragma once

#include <string>

#include "base/status.h"

namespace atl::cli {

// First in main: a descriptor 0, 1 or 2 that is closed is filled with one that nothing can be read
// from or written to, so that no file or socket opened later takes its place.
void HoldStandardDescriptors();

// Writes out what stdout holds. The error of this or an earlier write, "writing to stdout: ...":
// once there is one, it stays. One thread at a time.
Status FlushOutput();
// Last in main: the process's exit code. `code`, but kExitFailure where stdout could not be
// written; stderr says why, unless the reader just went away (EPIPE).
int EndOutput(const std::string& command, int code);

}  // namespace atl::cli
