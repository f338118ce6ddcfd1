// Time that only goes forward: for deadlines that a step of the wall clock must not move.
#pragma once

#include <chrono>

#include "absl/time/time.h"

namespace atl::cluster {

inline absl::Duration Uptime() {
  return absl::FromChrono(std::chrono::steady_clock::now().time_since_epoch());
}

}  // namespace atl::cluster
