// How a node waits while it drains: for counters that nobody signals, seconds to minutes long.
#pragma once

#include <functional>

#include "absl/time/time.h"

namespace atl::cluster {

// Looks every 10 ms until `done` holds; false where `give_up` (an Uptime) comes first.
bool DrainUntil(const std::function<bool()>& done, absl::Duration give_up);

// Looks every 10 ms until `busy` has not held for 100 ms: by then, who sent work here knows that it
// must not. False where `give_up` (an Uptime) comes first.
bool DrainUntilQuiet(const std::function<bool()>& busy, absl::Duration give_up);

}  // namespace atl::cluster
