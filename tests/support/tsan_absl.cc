// Linked into every program of the thread sanitizer's build, and only there. The distribution's
// Abseil is built without the sanitizer, so what its mutexes guard, in Atoll and inside gRPC, would
// be reported as races. These definitions stand before the library's (the dynamic linker takes the
// program's first), tell the sanitizer that a mutex was taken or given up, and call the library's.
#include <dlfcn.h>
#include <sanitizer/tsan_interface.h>

#include <cstdlib>
#include <string>
#include <string_view>

#include "absl/base/options.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"

#if ABSL_OPTION_USE_INLINE_NAMESPACE
#define ATL_STRING_OF(x) #x
#define ATL_STRING(x) ATL_STRING_OF(x)
#define ATL_ABSL_NAMESPACE ATL_STRING(ABSL_OPTION_INLINE_NAMESPACE_NAME)
#else
#define ATL_ABSL_NAMESPACE ""
#endif

namespace {

// The library's function of the mangled name `qualifiers` + absl's namespace + `rest`.
template <typename Function>
Function* Real(std::string_view qualifiers, std::string_view rest) {
  constexpr std::string_view kNamespace = ATL_ABSL_NAMESPACE;
  std::string name = "_ZN" + std::string(qualifiers) + "4absl";
  if (!kNamespace.empty()) name += std::to_string(kNamespace.size()) + std::string(kNamespace);
  name += rest;
  void* found = dlsym(RTLD_NEXT, name.c_str());
  if (found == nullptr) abort();
  return reinterpret_cast<Function*>(found);
}

// A condition that is looked at by whichever thread holds the mutex, perhaps while it gives it up.
struct SeenCondition {
  absl::Mutex* mu;
  const absl::Condition* condition;

  static bool Eval(SeenCondition* seen) {
    __tsan_acquire(seen->mu);
    const bool holds = seen->condition->Eval();
    __tsan_release(seen->mu);
    return holds;
  }
};

}  // namespace

namespace absl {
ABSL_NAMESPACE_BEGIN

void Mutex::Lock() {
  static const auto real = Real<void(Mutex*)>("", "5Mutex4LockEv");
  real(this);
  __tsan_acquire(this);
}

void Mutex::Unlock() {
  static const auto real = Real<void(Mutex*)>("", "5Mutex6UnlockEv");
  __tsan_release(this);
  real(this);
}

bool Mutex::TryLock() {
  static const auto real = Real<bool(Mutex*)>("", "5Mutex7TryLockEv");
  const bool locked = real(this);
  if (locked) __tsan_acquire(this);
  return locked;
}

void Mutex::ReaderLock() {
  static const auto real = Real<void(Mutex*)>("", "5Mutex10ReaderLockEv");
  real(this);
  __tsan_acquire(this);
}

void Mutex::ReaderUnlock() {
  static const auto real = Real<void(Mutex*)>("", "5Mutex12ReaderUnlockEv");
  __tsan_release(this);
  real(this);
}

void Mutex::Await(const Condition& condition) {
  static const auto real =
      Real<void(Mutex*, const Condition&)>("", "5Mutex5AwaitERKNS0_9ConditionE");
  SeenCondition seen{this, &condition};
  __tsan_release(this);
  real(this, Condition(&SeenCondition::Eval, &seen));
  __tsan_acquire(this);
}

bool Mutex::AwaitWithTimeout(const Condition& condition, Duration timeout) {
  static const auto real = Real<bool(Mutex*, const Condition&, Duration)>(
      "", "5Mutex16AwaitWithTimeoutERKNS0_9ConditionENS0_8DurationE");
  SeenCondition seen{this, &condition};
  __tsan_release(this);
  const bool holds = real(this, Condition(&SeenCondition::Eval, &seen), timeout);
  __tsan_acquire(this);
  return holds;
}

bool Mutex::AwaitWithDeadline(const Condition& condition, Time deadline) {
  static const auto real = Real<bool(Mutex*, const Condition&, Time)>(
      "", "5Mutex17AwaitWithDeadlineERKNS0_9ConditionENS0_4TimeE");
  SeenCondition seen{this, &condition};
  __tsan_release(this);
  const bool holds = real(this, Condition(&SeenCondition::Eval, &seen), deadline);
  __tsan_acquire(this);
  return holds;
}

void CondVar::Wait(Mutex* mu) {
  static const auto real = Real<void(CondVar*, Mutex*)>("", "7CondVar4WaitEPNS0_5MutexE");
  __tsan_release(mu);
  real(this, mu);
  __tsan_acquire(mu);
}

bool CondVar::WaitWithTimeout(Mutex* mu, Duration timeout) {
  static const auto real = Real<bool(CondVar*, Mutex*, Duration)>(
      "", "7CondVar15WaitWithTimeoutEPNS0_5MutexENS0_8DurationE");
  __tsan_release(mu);
  const bool timed_out = real(this, mu, timeout);
  __tsan_acquire(mu);
  return timed_out;
}

bool CondVar::WaitWithDeadline(Mutex* mu, Time deadline) {
  static const auto real =
      Real<bool(CondVar*, Mutex*, Time)>("", "7CondVar16WaitWithDeadlineEPNS0_5MutexENS0_4TimeE");
  __tsan_release(mu);
  const bool timed_out = real(this, mu, deadline);
  __tsan_acquire(mu);
  return timed_out;
}

void Notification::Notify() {
  static const auto real = Real<void(Notification*)>("", "12Notification6NotifyEv");
  __tsan_release(this);
  real(this);
}

void Notification::WaitForNotification() const {
  static const auto real =
      Real<void(const Notification*)>("K", "12Notification19WaitForNotificationEv");
  real(this);
  __tsan_acquire(const_cast<Notification*>(this));
}

bool Notification::WaitForNotificationWithTimeout(Duration timeout) const {
  static const auto real = Real<bool(const Notification*, Duration)>(
      "K", "12Notification30WaitForNotificationWithTimeoutENS0_8DurationE");
  const bool notified = real(this, timeout);
  __tsan_acquire(const_cast<Notification*>(this));
  return notified;
}

ABSL_NAMESPACE_END
}  // namespace absl
