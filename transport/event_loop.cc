#include "transport/event_loop.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <limits>
#include <map>
#include <mutex>
#include <unordered_map>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "base/check.h"

namespace atl::transport {
namespace {

constexpr int64_t kForever = std::numeric_limits<int64_t>::max();
constexpr uint64_t kWakeId = 0;  // of the eventfd
constexpr int kMaxEvents = 64;   // taken in one turn

int64_t MonotonicNs() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * int64_t{1'000'000'000} + now.tv_nsec;
}

int64_t AddSaturated(int64_t now_ns, int64_t delay_ns) {
  return delay_ns > kForever - now_ns ? kForever : now_ns + delay_ns;
}

// epoll_wait with nanoseconds where the kernel has it (Linux 5.11), else milliseconds, rounded up.
int Wait(int epoll_fd, epoll_event* events, int64_t timeout_ns) {
  static std::atomic<bool> has_pwait2{true};
  if (timeout_ns == 0) return epoll_wait(epoll_fd, events, kMaxEvents, 0);
  if (timeout_ns == kForever) return epoll_wait(epoll_fd, events, kMaxEvents, -1);
  if (has_pwait2) {
    const timespec timeout = {.tv_sec = timeout_ns / 1'000'000'000,
                              .tv_nsec = timeout_ns % 1'000'000'000};
    const int n = epoll_pwait2(epoll_fd, events, kMaxEvents, &timeout, nullptr);
    if (n >= 0 || errno != ENOSYS) return n;
    has_pwait2 = false;
  }
  const int64_t ms = (timeout_ns + 999'999) / 1'000'000;
  return epoll_wait(epoll_fd, events, kMaxEvents,
                    ms > 1'000'000 ? 1'000'000 : static_cast<int>(ms));
}

}  // namespace

struct EventLoop::State {
  struct Watcher {
    int fd = -1;
    std::function<void(uint32_t)> on_ready;
  };

  int epoll_fd = -1;
  int event_fd = -1;

  // Guarded by mu, which is a std::mutex because ThreadSanitizer does not see into Debian's absl.
  std::mutex mu;
  std::vector<std::function<void()>> posted;
  bool waiting = false;  // in epoll_wait, and no wake-up is under way

  // The loop's thread only. Watchers carry an id of their own, so that an event of a descriptor
  // that was closed and whose number was used again in the same turn finds nobody.
  std::vector<std::function<void()>> running;
  std::unordered_map<uint64_t, std::shared_ptr<Watcher>> watchers;
  std::unordered_map<int, uint64_t> watcher_of_fd;
  uint64_t next_watcher = kWakeId + 1;
  std::map<std::pair<int64_t, uint64_t>, std::function<void()>>
      timers;  // (due on the monotonic clock, id)
  std::unordered_map<uint64_t, int64_t> due_of_timer;
  uint64_t next_timer = 1;
  std::vector<Poller*> pollers;  // nullptr: removed in this turn
  int64_t spin_ns = 0;

  bool AnyReady() const;
  bool AnyPosted();
  int WaitForEvents(epoll_event* events, int64_t wait_ns);
  int Spin(epoll_event* events, int64_t until_ns);
  int Sleep(epoll_event* events, int64_t wait_ns);
  void RunPollers();
  void DispatchEvents(const epoll_event* events, int n);
  void RunTimers();
};

EventLoop::EventLoop() : state_(std::make_unique<State>()) {
  state_->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
  state_->event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  ATL_CHECK(state_->epoll_fd >= 0 &&
            state_->event_fd >= 0);  // at start: out of descriptors before anything runs
  epoll_event event = {.events = EPOLLIN, .data = {.u64 = kWakeId}};
  ATL_CHECK(epoll_ctl(state_->epoll_fd, EPOLL_CTL_ADD, state_->event_fd, &event) == 0);
}

EventLoop::~EventLoop() {
  close(state_->event_fd);
  close(state_->epoll_fd);
}

void EventLoop::Post(std::function<void()> fn) {
  State& s = *state_;
  bool wake;
  {
    std::lock_guard lock(s.mu);
    s.posted.push_back(std::move(fn));
    wake = std::exchange(s.waiting, false);
  }
  if (!wake) return;
  const uint64_t one = 1;
  while (write(s.event_fd, &one, sizeof(one)) < 0 && errno == EINTR) {
  }
}

void EventLoop::RunOnce(absl::Duration timeout) {
  State& s = *state_;
  int64_t wait_ns =
      timeout >= absl::InfiniteDuration() ? kForever : absl::ToInt64Nanoseconds(timeout);
  if (wait_ns < 0) wait_ns = 0;
  if (wait_ns > 0 && !s.timers.empty() && s.timers.begin()->first.first != kForever) {
    const int64_t until_timer = s.timers.begin()->first.first - MonotonicNs();
    wait_ns = std::min(wait_ns, std::max<int64_t>(until_timer, 0));
  }
  epoll_event events[kMaxEvents];
  const int n = s.WaitForEvents(events, wait_ns);
  // What callbacks post from here on runs in the next turn.
  {
    std::lock_guard lock(s.mu);
    s.waiting = false;
    s.running.swap(s.posted);
  }
  s.DispatchEvents(events, n);
  s.RunPollers();
  s.RunTimers();
  for (std::function<void()>& fn : s.running) std::exchange(fn, nullptr)();
  s.running.clear();
}

bool EventLoop::State::AnyReady() const {
  return std::any_of(pollers.begin(), pollers.end(),
                     [](Poller* poller) { return poller != nullptr && poller->Ready(); });
}

bool EventLoop::State::AnyPosted() {
  std::lock_guard lock(mu);
  return !posted.empty();
}

// Returns as epoll_wait does, at once if a poller is ready or something was posted.
int EventLoop::State::WaitForEvents(epoll_event* events, int64_t wait_ns) {
  if (wait_ns == 0) return Wait(epoll_fd, events, 0);
  if (spin_ns > 0) {
    const int64_t start = MonotonicNs();
    const int n = Spin(events, AddSaturated(start, std::min(spin_ns, wait_ns)));
    if (n != 0 || AnyReady() || AnyPosted()) return n;
    if (wait_ns != kForever) wait_ns = std::max<int64_t>(wait_ns - (MonotonicNs() - start), 0);
  }
  return Sleep(events, wait_ns);
}

int EventLoop::State::Spin(epoll_event* events, int64_t until_ns) {
  constexpr int kAsksPerPoll = 32;  // pollers are asked without a system call, descriptors are not
  do {
    for (int i = 0; i < kAsksPerPoll; ++i) {
      if (AnyReady()) return 0;
      __builtin_ia32_pause();
    }
    if (AnyPosted()) return 0;
    const int n = epoll_wait(epoll_fd, events, kMaxEvents, 0);
    if (n != 0) return n;
  } while (MonotonicNs() < until_ns);
  return 0;
}

int EventLoop::State::Sleep(epoll_event* events, int64_t wait_ns) {
  for (Poller* poller : pollers) {
    if (poller != nullptr) poller->SetAsleep(true);
  }
  if (AnyReady()) wait_ns = 0;
  {
    std::lock_guard lock(mu);
    if (!posted.empty()) wait_ns = 0;
    waiting = wait_ns > 0;
  }
  const int n = Wait(epoll_fd, events, wait_ns);
  for (Poller* poller : pollers) {
    if (poller != nullptr) poller->SetAsleep(false);
  }
  return n;
}

// Those added by these callbacks wait for the next turn.
void EventLoop::State::RunPollers() {
  const size_t count = pollers.size();
  for (size_t i = 0; i < count; ++i) {
    if (pollers[i] != nullptr && pollers[i]->Ready()) pollers[i]->Run();
  }
  std::erase(pollers, nullptr);
}

void EventLoop::State::DispatchEvents(const epoll_event* events, int n) {
  for (int i = 0; i < n; ++i) {
    if (events[i].data.u64 == kWakeId) {
      uint64_t count;
      while (read(event_fd, &count, sizeof(count)) < 0 && errno == EINTR) {
      }
      continue;
    }
    const auto it = watchers.find(events[i].data.u64);
    if (it == watchers.end()) continue;
    const std::shared_ptr<Watcher> watcher = it->second;  // may be unwatched by its own callback
    watcher->on_ready(events[i].events);
  }
}

void EventLoop::State::RunTimers() {
  if (timers.empty()) return;
  const int64_t now = MonotonicNs();
  const uint64_t end = next_timer;  // timers set by these callbacks wait for the next turn
  while (!timers.empty() && timers.begin()->first.first <= now &&
         timers.begin()->first.second < end) {
    const auto node = timers.extract(timers.begin());
    due_of_timer.erase(node.key().second);
    node.mapped()();
  }
}

void EventLoop::Watch(int fd, uint32_t events, std::function<void(uint32_t)> on_ready) {
  State& s = *state_;
  ATL_CHECK(!s.watcher_of_fd.contains(fd));
  const uint64_t id = s.next_watcher++;
  s.watchers.emplace(id, std::make_shared<State::Watcher>(State::Watcher{fd, std::move(on_ready)}));
  s.watcher_of_fd.emplace(fd, id);
  epoll_event event = {.events = events, .data = {.u64 = id}};
  ATL_CHECK(epoll_ctl(s.epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0);
}

void EventLoop::Rearm(int fd, uint32_t events) {
  State& s = *state_;
  const auto it = s.watcher_of_fd.find(fd);
  ATL_CHECK(it != s.watcher_of_fd.end());
  epoll_event event = {.events = events, .data = {.u64 = it->second}};
  ATL_CHECK(epoll_ctl(s.epoll_fd, EPOLL_CTL_MOD, fd, &event) == 0);
}

void EventLoop::Unwatch(int fd) {
  State& s = *state_;
  const auto it = s.watcher_of_fd.find(fd);
  if (it == s.watcher_of_fd.end()) return;
  s.watchers.erase(it->second);
  s.watcher_of_fd.erase(it);
  epoll_ctl(s.epoll_fd, EPOLL_CTL_DEL, fd, nullptr);
}

void EventLoop::AddPoller(Poller* poller) { state_->pollers.push_back(poller); }

void EventLoop::RemovePoller(Poller* poller) {
  std::replace(state_->pollers.begin(), state_->pollers.end(), poller,
               static_cast<Poller*>(nullptr));
}

void EventLoop::SetSpin(absl::Duration spin) {
  state_->spin_ns = spin >= absl::InfiniteDuration() ? kForever : absl::ToInt64Nanoseconds(spin);
}

uint64_t EventLoop::RunAt(absl::Time when, std::function<void()> fn) {
  State& s = *state_;
  const int64_t delay = std::max<int64_t>(absl::ToInt64Nanoseconds(when - absl::Now()), 0);
  const int64_t due = AddSaturated(MonotonicNs(), delay);
  const uint64_t id = s.next_timer++;
  s.timers.emplace(std::pair(due, id), std::move(fn));
  s.due_of_timer.emplace(id, due);
  return id;
}

void EventLoop::CancelTimer(uint64_t id) {
  State& s = *state_;
  const auto it = s.due_of_timer.find(id);
  if (it == s.due_of_timer.end()) return;
  s.timers.erase(std::pair(it->second, id));
  s.due_of_timer.erase(it);
}

}  // namespace atl::transport
