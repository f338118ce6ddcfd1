#include "cluster/cluster_service.h"

#include <pthread.h>

#include <algorithm>
#include <utility>

#include "base/log.h"
#include "cluster/join_session.h"
#include "cluster/uptime.h"
#include "rpc/status.h"

namespace atl::cluster {
namespace {

constexpr absl::Duration kTick = absl::Milliseconds(100);

void Erase(std::vector<std::shared_ptr<JoinSession>>* sessions,
           const std::shared_ptr<JoinSession>& session) {
  sessions->erase(std::remove(sessions->begin(), sessions->end(), session), sessions->end());
}

}  // namespace

ClusterService::ClusterService(ClusterState* state, ClusterServiceOptions options)
    : state_(state), options_(std::move(options)) {
  state_->AddListener([this](ViewChange change) {
    absl::MutexLock lock(&mu_);
    (change == ViewChange::kStructure ? structure_changed_ : load_changed_) = true;
  });
  thread_ = std::thread([this] { Push(); });
}

ClusterService::~ClusterService() { Stop(); }

void ClusterService::Stop() {
  std::vector<std::shared_ptr<JoinSession>> sessions;
  {
    absl::MutexLock lock(&mu_);
    stopping_ = true;
    sessions = sessions_;
  }
  for (const auto& session : sessions)
    session->End(Unavailable("router '%s' is shutting down", options_.router));
  if (thread_.joinable()) thread_.join();
}

grpc::ServerBidiReactor<pb::JoinRequest, pb::JoinResponse>* ClusterService::Join(
    grpc::CallbackServerContext* context) {
  const std::shared_ptr<JoinSession> session = JoinSession::Open(this, context);
  bool stopping;
  {
    absl::MutexLock lock(&mu_);
    sessions_.push_back(session);
    stopping = stopping_;
  }
  if (stopping) session->End(Unavailable("router '%s' is shutting down", options_.router));
  return session.get();
}

Status ClusterService::CheckNode(const pb::NodeInfo& info) const {
  if (info.name().empty()) return InvalidArgument("a node without a name");
  if (info.name() == options_.router) {
    return AlreadyExists("'%s' is the name of the router itself", options_.router);
  }
  if (info.protocol_version() != options_.protocol_version) {
    return FailedPrecondition("node '%s' speaks protocol version %d, router '%s' %d", info.name(),
                              info.protocol_version(), options_.router, options_.protocol_version);
  }
  if (info.revision() != options_.revision) {
    return FailedPrecondition("node '%s' has model revision '%s', router '%s' has '%s'",
                              info.name(), info.revision(), options_.router, options_.revision);
  }
  if (info.numerics_id() != options_.numerics_id) {
    return FailedPrecondition("node '%s' has numerics id '%s', router '%s' has '%s'", info.name(),
                              info.numerics_id(), options_.router, options_.numerics_id);
  }
  return absl::OkStatus();
}

Status ClusterService::OnAnnouncement(const std::shared_ptr<JoinSession>& session,
                                      const pb::Announcement& announcement) {
  const pb::NodeInfo& info = announcement.info();
  ATL_RETURN_IF_ERROR(CheckNode(info));
  {
    absl::MutexLock lock(&mu_);
    if (!session->node.empty() &&
        (session->node != info.name() || session->incarnation != info.incarnation())) {
      return InvalidArgument("a stream of node '%s' incarnation %x announces '%s' incarnation %x",
                             session->node, session->incarnation, info.name(), info.incarnation());
    }
  }
  ATL_RETURN_IF_ERROR(state_->Announce(announcement));
  bool first = false;
  {
    absl::MutexLock lock(&mu_);
    first = session->node.empty();
    if (first) {
      session->node = info.name();
      session->incarnation = info.incarnation();
      joined_[info.name()].push_back(session);
      structure_changed_ = true;  // it has seen no view yet
    }
  }
  if (first) LogInfo("node '%s' joined (%s)", info.name(), info.grpc_address());
  if (session->ended()) OnEnded(session);  // while it was being announced
  return absl::OkStatus();
}

void ClusterService::OnEnded(const std::shared_ptr<JoinSession>& session) {
  std::string node;
  uint64_t incarnation = 0;
  {
    absl::MutexLock lock(&mu_);
    node = session->node;
    incarnation = session->incarnation;
    std::vector<std::shared_ptr<JoinSession>>& streams = joined_[node];
    Erase(&streams, session);
    const bool others =
        std::any_of(streams.begin(), streams.end(),
                    [incarnation](const auto& other) { return other->incarnation == incarnation; });
    if (streams.empty()) joined_.erase(node);
    if (node.empty() || others) return;
  }
  state_->Remove(node, incarnation);
}

void ClusterService::OnDone(const std::shared_ptr<JoinSession>& session) {
  absl::MutexLock lock(&mu_);
  Erase(&sessions_, session);
}

void ClusterService::SendCommand(const std::string& node, const pb::ExpertCommand& command) {
  std::shared_ptr<JoinSession> session;
  {
    absl::MutexLock lock(&mu_);
    const auto it = joined_.find(node);
    if (it != joined_.end() && !it->second.empty()) session = it->second.back();
  }
  if (session != nullptr) session->SendCommand(command);
}

pb::ClusterView ClusterService::MakeView(bool with_prefixes) const {
  const std::shared_ptr<const ClusterSnapshot> snapshot = state_->snapshot();
  pb::ClusterView view;
  view.set_router(options_.router);
  view.set_version(snapshot->version);
  for (const auto& node : snapshot->nodes) {
    pb::Announcement* added = view.add_nodes();
    *added = *node;
    if (!with_prefixes) added->mutable_state()->clear_cached_prefixes();
  }
  return view;
}

void ClusterService::PushView(const std::vector<std::shared_ptr<JoinSession>>& sessions) {
  auto message = std::make_shared<pb::JoinResponse>();
  *message->mutable_view() = MakeView(/*with_prefixes=*/false);
  for (const auto& session : sessions) session->SendView(message);
}

void ClusterService::Push() {
  pthread_setname_np(pthread_self(), "cluster");
  absl::Duration last_view = -absl::InfiniteDuration();
  for (;;) {
    std::vector<std::shared_ptr<JoinSession>> joined, all;
    bool push = false;
    {
      absl::MutexLock lock(&mu_);
      const auto due = [this]() ABSL_SHARED_LOCKS_REQUIRED(mu_) {
        return stopping_ || structure_changed_;
      };
      mu_.AwaitWithTimeout(absl::Condition(&due), kTick);
      // What changes together goes out together.
      mu_.AwaitWithTimeout(absl::Condition(&stopping_),
                           structure_changed_ ? options_.coalesce : absl::ZeroDuration());
      if (stopping_) return;
      push =
          structure_changed_ || (load_changed_ && Uptime() - last_view >= options_.load_interval);
      if (push) structure_changed_ = load_changed_ = false;
      for (const auto& [name, sessions] : joined_)
        joined.insert(joined.end(), sessions.begin(), sessions.end());
      all = sessions_;
    }
    if (push) {
      last_view = Uptime();
      PushView(joined);
    }
    for (const auto& session : joined) session->MaybeHeartbeat(options_.heartbeat);
    for (const auto& session : all) {
      const absl::Duration silent = Uptime() - session->last_heard();
      if (silent > options_.silence) {
        session->End(DeadlineExceeded("router '%s' has heard nothing for %s", options_.router,
                                      absl::FormatDuration(silent).c_str()));
      }
    }
  }
}

grpc::ServerUnaryReactor* ClusterService::GetSnapshot(grpc::CallbackServerContext* context,
                                                      const pb::GetSnapshotRequest*,
                                                      pb::GetSnapshotResponse* response) {
  *response->mutable_view() = MakeView(/*with_prefixes=*/true);
  const std::shared_ptr<const ClusterSnapshot> snapshot = state_->snapshot();
  response->set_planner(PlannerOf(snapshot->nodes));
  response->set_model_layers(options_.model.moe_layers.size());
  response->set_missing_experts(
      MakePlacement(snapshot->nodes, options_.model, snapshot->version)->MissingExperts());
  auto* reactor = context->DefaultReactor();
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

}  // namespace atl::cluster
