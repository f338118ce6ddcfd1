// When a router takes clients' calls: from its first coverage with an attention node on, until
// either has been missing for longer than the coverage timeout (one lost expert must not empty the
// Service and refuse requests that could wait).
#pragma once

#include "absl/time/time.h"
#include "cluster/uptime.h"

namespace atl::router {

// Thread-compatible.
class Readiness {
 public:
  explicit Readiness(absl::Duration coverage_timeout) : timeout_(coverage_timeout) {}

  // What the cluster looks like from `now` on.
  void Saw(bool covered, bool has_attention, absl::Duration now = cluster::Uptime()) {
    if (good_) last_good_ = now;
    good_ = covered && has_attention;
    if (good_) last_good_ = now;
  }
  bool ready(absl::Duration now = cluster::Uptime()) const {
    return good_ || now - last_good_ <= timeout_;
  }

 private:
  const absl::Duration timeout_;
  bool good_ = false;
  absl::Duration last_good_ = -absl::InfiniteDuration();
};

}  // namespace atl::router
