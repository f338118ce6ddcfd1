// Keeps the status file up to date from a thread of its own: a disk that hangs holds up nobody, and
// no restart.
#pragma once

#include <optional>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/status.h"
#include "cli/status_file.h"

namespace atl::cli {

// Thread-safe.
class StatusWriter {
 public:
  explicit StatusWriter(StatusFile file);
  // Returns when what was told last has been written, or has failed.
  ~StatusWriter();

  // What the file shall hold: written next, in place of what was told before and is not written.
  void Tell(std::vector<ProcessEntry> processes);
  // Waits until what was told last has been tried: how that went. DeadlineExceeded after `timeout`.
  Status Flush(absl::Duration timeout);
  // How the last write went.
  Status last_write() const;

 private:
  void Run();

  StatusFile file_;  // the thread's
  mutable absl::Mutex mu_;
  std::optional<std::vector<ProcessEntry>> next_ ABSL_GUARDED_BY(mu_);
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
  bool stop_ ABSL_GUARDED_BY(mu_) = false;
  Status last_write_ ABSL_GUARDED_BY(mu_);
  std::thread thread_;
};

}  // namespace atl::cli
