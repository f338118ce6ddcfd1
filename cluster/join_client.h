// A node's side of membership: one stream to every router there is, announcements there, views and
// commands back.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"
#include "cluster/announcements.h"
#include "cluster/join_sources.h"
#include "cluster/join_stream.h"

namespace atl::cluster {

struct JoinOptions {
  pb::NodeInfo self;
  std::vector<std::string> join;  // as NodeOptions::join; routers seen in views are joined too
  bool insecure = false;          // without it, routers off this machine are refused

  // All called on the client's own thread; must not block, may be null but for `state`.
  std::function<pb::NodeState()> state;  // before each announcement
  // Live nodes as the joined routers list them, after each change. A node that no router lists is
  // not there.
  std::function<void(const NodeList&)> on_view;
  // Commands of the highest term seen; of one term, only those of the planner first by name.
  std::function<void(const pb::ExpertCommand&)> on_command;

  // Shorter in tests.
  absl::Duration announce_interval = absl::Milliseconds(500);
  absl::Duration silence = absl::Seconds(3);  // a router that sends nothing for so long is dead
  absl::Duration resolve_interval = absl::Seconds(1);
};

// Connects for ever: 50 ms to 0.5 s between attempts, 2 s where a router refuses
// (FAILED_PRECONDITION: logged once as an error).
class JoinClient {
 public:
  // InvalidArgument: a bad join entry; FailedPrecondition: plaintext off this machine.
  static StatusOr<std::unique_ptr<JoinClient>> Start(JoinOptions options);
  ~JoinClient();  // leaves; no callback after it

  // Routers to be joined beside those of the entries and the views: those that joined this one. Any
  // thread.
  void AlsoJoin(std::vector<std::string> addresses);
  // Announces again at once (within 20 ms). Any thread.
  void StateChanged();
  // As last told by on_view. Any thread.
  NodeList nodes() const;
  // Routers that answer. Any thread.
  int num_routers() const;

 private:
  // What is known of one router's address.
  struct Session {
    std::string address;
    std::shared_ptr<JoinStream> stream;  // null: none now
    uint64_t stream_id = 0;
    absl::Duration next_try = absl::ZeroDuration();
    absl::Duration backoff = absl::ZeroDuration();
    absl::Duration last_message = absl::ZeroDuration();
    absl::Duration last_named = absl::ZeroDuration();  // by an entry or a view
    std::string router;                                // its name, once it has answered
    absl::Duration twin_until = absl::ZeroDuration();  // how long it is left to another address
    bool answers = false;                              // on this stream
    uint64_t view_order = 0;                           // which of the views came last
    NodeList view;
    std::string last_error;  // logged already
  };

  JoinClient(JoinOptions options, JoinSources sources);
  void Run();
  void ResolveForEver();
  void Handle(JoinInbox::Event event);
  void OnView(Session& session, const pb::ClusterView& view);
  void OnEnd(Session& session, const Status& status);
  void OnCommand(const pb::ExpertCommand& command);
  // Another address of the same router has a stream that answers.
  bool HasTwin(const Session& session) const;
  void RefreshSessions();
  absl::Duration Tick();
  void Leave();
  void OpenDueStreams();
  void CancelSilentStreams();
  void AnnounceIfDue();
  void WarnIfAlone();
  void TellViewIfChanged();
  NodeList Merge();

  const JoinOptions options_;
  const std::shared_ptr<JoinInbox> inbox_ = std::make_shared<JoinInbox>();

  // The client's thread only.
  std::map<std::string, Session> sessions_;  // by address
  uint64_t next_stream_id_ = 1;
  absl::Duration last_announced_ = -absl::InfiniteDuration();
  absl::Duration next_warning_;  // that no router answers
  bool views_changed_ = true;
  std::map<std::pair<std::string, uint64_t>, uint64_t>
      first_seen_;  // (name, incarnation) -> a count
  uint64_t next_order_ = 1;
  std::pair<uint64_t, std::string> obeyed_;  // term, planner

  JoinSources sources_;  // the resolver's thread only, once it runs
  absl::Notification stop_;
  mutable absl::Mutex mu_;
  std::vector<std::string> resolved_ ABSL_GUARDED_BY(mu_);
  std::vector<std::string> also_ ABSL_GUARDED_BY(mu_);
  bool state_changed_ ABSL_GUARDED_BY(mu_) = true;
  NodeList nodes_ ABSL_GUARDED_BY(mu_);
  int num_routers_ ABSL_GUARDED_BY(mu_) = 0;

  std::thread resolver_;  // only where join entries change
  std::thread thread_;
};

}  // namespace atl::cluster
