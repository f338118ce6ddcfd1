// Makes an expert node hold what the planner, or a person, asks for: one thread, so that serving
// goes on meanwhile.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <optional>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "base/status.h"
#include "base/thread_pool.h"
#include "expert_service/expert_store.h"

namespace atl::expert {

// The whole target of a node, and what of the rest it may give up.
struct LoadCommand {
  uint64_t term = 0;
  std::vector<ExpertKey> target;
  std::vector<ExpertKey> may_unload;
};

// Thread-safe.
class Loader {
 public:
  // `pool` packs as long as the store is empty, that is while nobody waits for the pool; later the
  // loader's thread does it alone. on_change: the store or the term has changed; on the loader's
  // thread. unreadable_for: so long after a failure an expert counts as `Unreadable`.
  Loader(ExpertStore* store, ThreadPool* pool, std::function<void()> on_change,
         absl::Duration unreadable_for = absl::Minutes(5));
  ~Loader();  // Stop

  // Ends after the expert in hand; what waits, and comes later, is answered with Unavailable.
  void Stop();

  // In place of the command before, which ends after the expert in hand. Loads first; then gives up
  // what it may; then loads what had no room before. Commands of a lower term than one obeyed are
  // passed over. An expert that could not be read is tried again after 5 s, as long as
  // commands ask for it.
  void Obey(LoadCommand command);

  // By hand, in turn with the planner's commands; `done` is called once, on the loader's thread or
  // here.
  //   FailedPrecondition: a lower term than one obeyed;  ResourceExhausted: 16 wait already;  else
  //   as ExpertStore.
  void Load(uint64_t term, std::vector<ExpertKey> keys, std::function<void(Status)> done);
  void Unload(uint64_t term, std::vector<ExpertKey> keys, std::function<void(Status)> done);

  uint64_t term() const;
  // What a command asked for and could not be read lately, ascending: a disk that recovers is used
  // again.
  std::vector<ExpertKey> Unreadable() const;
  // A command is being executed or waits.
  bool busy() const;

 private:
  struct Job {
    uint64_t term = 0;
    std::vector<ExpertKey> keys;
    bool load = true;
    std::function<void(Status)> done;
  };

  void Add(Job job);
  void Run();
  void Execute(const LoadCommand& command);
  Status Execute(const Job& job);
  // True if all of `keys` were tried; false: a newer command is there.
  bool LoadAll(const std::vector<ExpertKey>& keys, std::vector<ExpertKey>* no_room);
  bool Superseded() const;
  bool MayTry(ExpertKey key) const;
  bool IsUnreadable(absl::Duration failed) const;
  void NoteFailure(ExpertKey key, const Status& status);
  Status CheckTerm(uint64_t term) const;

  ExpertStore* const store_;
  ThreadPool* const pool_;
  const std::function<void()> on_change_;
  const absl::Duration unreadable_for_;

  mutable absl::Mutex mu_;
  std::map<ExpertKey, absl::Duration> failed_ ABSL_GUARDED_BY(mu_);  // when
  std::optional<LoadCommand> command_ ABSL_GUARDED_BY(mu_);
  std::deque<Job> jobs_ ABSL_GUARDED_BY(mu_);
  uint64_t term_ ABSL_GUARDED_BY(mu_) = 0;
  bool busy_ ABSL_GUARDED_BY(mu_) = false;
  bool stop_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_;
};

}  // namespace atl::expert
