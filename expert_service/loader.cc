#include "expert_service/loader.h"

#include <pthread.h>

#include <algorithm>
#include <utility>

#include "base/log.h"
#include "cluster/uptime.h"

namespace atl::expert {
namespace {

constexpr size_t kMaxJobs = 16;
constexpr absl::Duration kTryAgain = absl::Seconds(5);
constexpr absl::Duration kMaxWait = absl::Seconds(1);

}  // namespace

Loader::Loader(ExpertStore* store, ThreadPool* pool, std::function<void()> on_change,
               absl::Duration unreadable_for)
    : store_(store),
      pool_(pool),
      on_change_(std::move(on_change)),
      unreadable_for_(unreadable_for),
      thread_([this] { Run(); }) {}

Loader::~Loader() { Stop(); }

void Loader::Stop() {
  {
    absl::MutexLock lock(&mu_);
    stop_ = true;
  }
  if (thread_.joinable()) thread_.join();
}

void Loader::Obey(LoadCommand command) {
  absl::MutexLock lock(&mu_);
  if (command.term < term_) return;
  term_ = command.term;
  command_ = std::move(command);
}

void Loader::Load(uint64_t term, std::vector<ExpertKey> keys, std::function<void(Status)> done) {
  Add({.term = term, .keys = std::move(keys), .load = true, .done = std::move(done)});
}

void Loader::Unload(uint64_t term, std::vector<ExpertKey> keys, std::function<void(Status)> done) {
  Add({.term = term, .keys = std::move(keys), .load = false, .done = std::move(done)});
}

void Loader::Add(Job job) {
  Status refusal = ResourceExhausted("%d loads and unloads wait already", kMaxJobs);
  {
    absl::MutexLock lock(&mu_);
    if (stop_) {
      refusal = Unavailable("the node is stopping");
    } else if (jobs_.size() < kMaxJobs) {
      jobs_.push_back(std::move(job));
      return;
    }
  }
  job.done(refusal);
}

uint64_t Loader::term() const {
  absl::MutexLock lock(&mu_);
  return term_;
}

std::vector<ExpertKey> Loader::Unreadable() const {
  absl::MutexLock lock(&mu_);
  std::vector<ExpertKey> keys;
  for (const auto& [key, failed] : failed_) {
    if (IsUnreadable(failed)) keys.push_back(key);
  }
  return keys;
}

bool Loader::IsUnreadable(absl::Duration failed) const {
  return cluster::Uptime() - failed < unreadable_for_;
}

bool Loader::MayTry(ExpertKey key) const {
  absl::MutexLock lock(&mu_);
  const auto failed = failed_.find(key);
  return failed == failed_.end() || cluster::Uptime() - failed->second >= kTryAgain;
}

void Loader::NoteFailure(ExpertKey key, const Status& status) {
  {
    absl::MutexLock lock(&mu_);
    const auto before = failed_.find(key);
    const bool known = before != failed_.end() && IsUnreadable(before->second);
    failed_[key] = cluster::Uptime();
    if (known) return;
  }
  LogError("expert %d of layer %d: %s", key.expert, key.layer, status.ToString());
  on_change_();
}

bool Loader::busy() const {
  absl::MutexLock lock(&mu_);
  return busy_ || command_.has_value() || !jobs_.empty();
}

bool Loader::Superseded() const {
  absl::MutexLock lock(&mu_);
  return stop_ || command_.has_value();
}

void Loader::Run() {
  pthread_setname_np(pthread_self(), "loader");
  for (;;) {
    std::optional<LoadCommand> command;
    std::deque<Job> jobs;
    {
      absl::MutexLock lock(&mu_);
      busy_ = false;
      const auto due = [this]() ABSL_SHARED_LOCKS_REQUIRED(mu_) {
        return stop_ || command_.has_value() || !jobs_.empty();
      };
      if (!mu_.AwaitWithTimeout(absl::Condition(&due), kMaxWait)) continue;
      command = std::exchange(command_, std::nullopt);
      jobs = std::exchange(jobs_, {});
      if (stop_) command.reset();
      busy_ = true;
    }
    for (const Job& job : jobs) job.done(Execute(job));
    if (command.has_value()) Execute(*command);
    absl::MutexLock lock(&mu_);
    if (stop_ && jobs_.empty()) return;
  }
}

Status Loader::CheckTerm(uint64_t term) const {
  absl::MutexLock lock(&mu_);
  if (stop_) return Unavailable("the node is stopping");
  if (term >= term_) return absl::OkStatus();
  return FailedPrecondition("term %d is over: a planner's term %d has been obeyed", term, term_);
}

Status Loader::Execute(const Job& job) {
  ATL_RETURN_IF_ERROR(CheckTerm(job.term));
  for (const ExpertKey key : job.keys) {
    ATL_RETURN_IF_ERROR(CheckTerm(job.term));  // once more: it may have been stopped
    ATL_RETURN_IF_ERROR(job.load ? store_->Load(key, nullptr) : store_->Unload(key));
    on_change_();
  }
  return absl::OkStatus();
}

void Loader::Execute(const LoadCommand& command) {
  on_change_();  // the term
  std::vector<ExpertKey> no_room;
  if (!LoadAll(command.target, &no_room)) return;
  bool gave_up = false;
  for (const ExpertKey key : command.may_unload) {
    if (std::find(command.target.begin(), command.target.end(), key) != command.target.end())
      continue;
    if (!store_->Unload(key).ok()) continue;  // given up already
    gave_up = true;
    on_change_();
  }
  std::vector<ExpertKey> still_no_room;
  if (gave_up) LoadAll(no_room, &still_no_room);
}

bool Loader::LoadAll(const std::vector<ExpertKey>& keys, std::vector<ExpertKey>* no_room) {
  ThreadPool* const pool = store_->List().empty() ? pool_ : nullptr;
  int loaded = 0;
  for (const ExpertKey key : keys) {
    if (Superseded()) return false;
    if (store_->Find(key) != nullptr) continue;
    if (!MayTry(key)) continue;
    const Status status = store_->Load(key, pool);
    if (status.ok()) {
      {
        absl::MutexLock lock(&mu_);
        failed_.erase(key);
      }
      ++loaded;
      on_change_();
    } else if (absl::IsResourceExhausted(status)) {
      no_room->push_back(key);
    } else {
      NoteFailure(key, status);
    }
  }
  if (loaded > 0) LogInfo("loaded %d experts, %d bytes held", loaded, store_->bytes_held());
  return true;
}

}  // namespace atl::expert
