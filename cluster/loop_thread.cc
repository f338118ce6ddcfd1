#include "cluster/loop_thread.h"

#include <pthread.h>

#include <memory>
#include <utility>

namespace atl::cluster {
namespace {

constexpr absl::Duration kMaxWait = absl::Seconds(1);  // posts and sockets wake the loop

}  // namespace

void LoopThread::Start() {
  thread_ = std::thread([this] {
    pthread_setname_np(pthread_self(), name_.c_str());
    while (!stop_) loop_.RunOnce(kMaxWait);
  });
}

void LoopThread::Stop() {
  if (!thread_.joinable()) return;
  loop_.Post([this] { stop_ = true; });
  thread_.join();
}

bool LoopThread::Call(std::function<void()> fn, absl::Duration timeout) {
  auto done = std::make_shared<absl::Notification>();
  loop_.Post([fn = std::move(fn), done] {
    fn();
    done->Notify();
  });
  return done->WaitForNotificationWithTimeout(timeout);
}

}  // namespace atl::cluster
