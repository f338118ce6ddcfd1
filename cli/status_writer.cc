#include "cli/status_writer.h"

#include <pthread.h>

#include <utility>

namespace atl::cli {

StatusWriter::StatusWriter(StatusFile file) : file_(std::move(file)), thread_([this] { Run(); }) {}

StatusWriter::~StatusWriter() {
  {
    absl::MutexLock lock(&mu_);
    stop_ = true;
  }
  thread_.join();
}

void StatusWriter::Tell(std::vector<ProcessEntry> processes) {
  absl::MutexLock lock(&mu_);
  next_ = std::move(processes);
}

Status StatusWriter::Flush(absl::Duration timeout) {
  absl::MutexLock lock(&mu_);
  const auto tried = [this]() ABSL_SHARED_LOCKS_REQUIRED(mu_) {
    return !next_.has_value() && !writing_;
  };
  if (mu_.AwaitWithTimeout(absl::Condition(&tried), timeout)) return last_write_;
  return DeadlineExceeded("the status file was not written within %s",
                          absl::FormatDuration(timeout));
}

Status StatusWriter::last_write() const {
  absl::MutexLock lock(&mu_);
  return last_write_;
}

void StatusWriter::Run() {
  pthread_setname_np(pthread_self(), "status-file");
  absl::MutexLock lock(&mu_);
  const auto due = [this]() ABSL_SHARED_LOCKS_REQUIRED(mu_) { return stop_ || next_.has_value(); };
  for (;;) {
    mu_.Await(absl::Condition(&due));
    if (!next_.has_value()) return;
    const std::vector<ProcessEntry> processes = *std::exchange(next_, std::nullopt);
    writing_ = true;
    mu_.Unlock();
    const Status written = file_.Update(processes);
    mu_.Lock();
    writing_ = false;
    last_write_ = written;
  }
}

}  // namespace atl::cli
