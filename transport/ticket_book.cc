#include <sys/random.h>

#include <cerrno>
#include <chrono>
#include <deque>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "base/check.h"
#include "transport/endpoint.h"

namespace atl::transport {
namespace {

constexpr size_t kMaxOpen = 1024;

using Clock = std::chrono::steady_clock;

// Takes the same time wherever the first difference is.
bool Equal(const Ticket& a, const Ticket& b) {
  volatile uint8_t difference = 0;
  for (size_t i = 0; i < a.size(); ++i) difference = difference | static_cast<uint8_t>(a[i] ^ b[i]);
  return difference == 0;
}

}  // namespace

struct TicketBook::State {
  struct Entry {
    Ticket ticket;
    std::string peer;
    Clock::time_point expires;
  };
  Clock::duration ttl;
  absl::Mutex mu;
  std::deque<Entry> open ABSL_GUARDED_BY(mu);  // oldest first
};

TicketBook::TicketBook(absl::Duration ttl) : state_(std::make_unique<State>()) {
  state_->ttl = std::chrono::nanoseconds(absl::ToInt64Nanoseconds(ttl));
}

TicketBook::~TicketBook() = default;

Ticket TicketBook::Issue(const std::string& peer) {
  Ticket ticket;
  ssize_t n;
  do {
    n = getrandom(ticket.data(), ticket.size(), 0);
  } while (n < 0 && errno == EINTR);
  ATL_CHECK(
      n == static_cast<ssize_t>(ticket.size()));  // whole for up to 256 bytes, as getrandom(2) says
  absl::MutexLock lock(&state_->mu);
  if (state_->open.size() >= kMaxOpen) state_->open.pop_front();
  state_->open.push_back({ticket, peer, Clock::now() + state_->ttl});
  return ticket;
}

StatusOr<std::string> TicketBook::Redeem(const Ticket& ticket) {
  absl::MutexLock lock(&state_->mu);
  const Clock::time_point now = Clock::now();
  while (!state_->open.empty() && state_->open.front().expires <= now) state_->open.pop_front();
  auto found = state_->open.end();
  for (auto it = state_->open.begin(); it != state_->open.end(); ++it) {
    if (Equal(it->ticket, ticket)) found = it;
  }
  if (found == state_->open.end())
    return absl::PermissionDeniedError("the ticket is unknown, used or expired");
  std::string peer = std::move(found->peer);
  state_->open.erase(found);
  return peer;
}

}  // namespace atl::transport
