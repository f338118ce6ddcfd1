#include "cluster/drain.h"

#include "absl/time/clock.h"
#include "cluster/uptime.h"

namespace atl::cluster {
namespace {

constexpr absl::Duration kPoll = absl::Milliseconds(10);
constexpr absl::Duration kQuiet = absl::Milliseconds(100);

}  // namespace

bool DrainUntil(const std::function<bool()>& done, absl::Duration give_up) {
  while (!done()) {
    if (Uptime() >= give_up) return false;
    absl::SleepFor(kPoll);
  }
  return true;
}

bool DrainUntilQuiet(const std::function<bool()>& busy, absl::Duration give_up) {
  absl::Duration last_busy = Uptime();
  return DrainUntil(
      [&] {
        const absl::Duration now = Uptime();
        if (busy()) last_busy = now;
        return now - last_busy >= kQuiet;
      },
      give_up);
}

}  // namespace atl::cluster
