// One child of the supervisor: this same binary, run again with another command.
#pragma once

#include <string>
#include <vector>

#include "base/status.h"

namespace atl::cli {

struct StartedChild {
  int pid = 0;
  int report_fd =
      -1;  // non-blocking; the child writes its addresses as one line of JSON, then closes it
};

// Starts `/proc/self/exe ARGUMENTS --report-fd=N` in a process group of its own (so that the
// terminal's Ctrl-C reaches the supervisor alone), without the supervisor's ATOLL_ variables; its
// output goes to stderr. The kernel kills it when the calling thread ends: call from the thread
// that lives longest.
StatusOr<StartedChild> StartChild(const std::vector<std::string>& arguments);

}  // namespace atl::cli
