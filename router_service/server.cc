#include "router_service/server.h"

#include <algorithm>
#include <atomic>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "base/log.h"
#include "base/thread_pool.h"
#include "cluster/cluster_service.h"
#include "cluster/drain.h"
#include "cluster/join_client.h"
#include "cluster/link_acceptor.h"
#include "cluster/link_connector.h"
#include "cluster/link_metrics.h"
#include "cluster/loop_thread.h"
#include "cluster/node_info.h"
#include "cluster/planner_thread.h"
#include "cluster/uptime.h"
#include "metrics/metrics_server.h"
#include "model/checkpoint.h"
#include "router_service/attention_nodes.h"
#include "router_service/dispatch/dispatch_server.h"
#include "router_service/dispatch/dispatcher.h"
#include "router_service/dispatch/gate_weights.h"
#include "router_service/dispatch/model_experts.h"
#include "router_service/front_door/front_door.h"
#include "router_service/readiness.h"
#include "router_service/router_metrics.h"
#include "router_service/service.h"
#include "rpc/server.h"

namespace atl::router {
namespace {

constexpr absl::Duration kReadyInterval = absl::Milliseconds(500);
constexpr absl::Duration kStopGrace = absl::Seconds(1);

class RouterServerImpl : public RouterServer {
 public:
  explicit RouterServerImpl(const RouterServerOptions& options)
      : options_(options), readiness_(options.node.coverage_timeout), loop_("dispatch") {}
  ~RouterServerImpl() override { Stop(absl::ZeroDuration()); }

  Status Begin();
  cluster::NodeAddresses addresses() const override { return addresses_; }
  void DrainAndStop() override;

 private:
  Status OpenModel();
  Status MakeDispatch();
  Status Serve();
  Status Join();

  std::vector<metrics::Family> Metrics() const;
  cluster::pb::NodeState State() const;
  void AnnounceSelf();
  // On the thread that changed the view.
  void OnViewChanged(cluster::ViewChange change);
  // On the loop.
  void FollowView();
  void UpdateReady();
  void UpdateReadyForEver();
  void Stop(absl::Duration grace);

  // Constant after Begin.
  const RouterServerOptions options_;
  std::unique_ptr<model::Checkpoint> checkpoint_;
  model::NumericProfile profile_;
  cluster::ModelExperts experts_;
  std::unique_ptr<dispatch::GateWeights> gates_;
  front_door::ServedModel served_;
  cluster::pb::NodeInfo info_;
  cluster::NodeAddresses addresses_;

  // Own synchronisation; each uses those before it.
  std::atomic<bool> draining_{false};
  std::atomic<bool> ready_{false};
  std::atomic<bool> follow_posted_{false};
  absl::Mutex announce_mu_;  // announcements of this router reach the state in order
  std::unique_ptr<ThreadPool> pool_;
  cluster::ClusterState state_;

  transport::LinkCounters expert_links_, attention_links_;

  // On the loop, made before it runs.
  Readiness readiness_;
  cluster::LoopThread loop_;
  std::unique_ptr<dispatch::Dispatcher> dispatcher_;
  std::unique_ptr<dispatch::DispatchServer> dispatch_server_;
  std::unique_ptr<cluster::LinkConnector> connector_;
  std::unique_ptr<cluster::LinkAcceptor> acceptor_;

  std::unique_ptr<AttentionNodes> attention_nodes_;
  std::unique_ptr<front_door::FrontDoor> front_door_;
  std::unique_ptr<cluster::ClusterService> cluster_service_;
  std::unique_ptr<RouterServiceAdapter> router_service_;
  std::unique_ptr<rpc::Server> server_;
  std::unique_ptr<metrics::MetricsServer> metrics_;
  std::unique_ptr<cluster::JoinClient> join_;
  std::unique_ptr<cluster::PlannerThread> planner_;
  // What the loop and the planner's thread may reach of what comes and goes while they run.
  mutable absl::Mutex mu_;
  rpc::Server* health_ ABSL_GUARDED_BY(mu_) = nullptr;
  cluster::JoinClient* joined_ ABSL_GUARDED_BY(mu_) = nullptr;
  cluster::PlannerThread* planning_ ABSL_GUARDED_BY(mu_) = nullptr;
};

Status RouterServerImpl::Begin() {
  ATL_RETURN_IF_ERROR(OpenModel());
  ATL_RETURN_IF_ERROR(MakeDispatch());
  ATL_RETURN_IF_ERROR(Serve());
  return Join();
}

Status RouterServerImpl::OpenModel() {
  ATL_ASSIGN_OR_RETURN(checkpoint_, model::Checkpoint::Open(options_.node.model_dir));
  ATL_RETURN_IF_ERROR(model::CheckServable(checkpoint_->config()));
  ATL_ASSIGN_OR_RETURN(profile_,
                       model::FindProfile(options_.node.profile.empty() ? model::kDefaultProfile
                                                                        : options_.node.profile));
  experts_ = dispatch::ModelExpertsOf(checkpoint_->config(), options_.speculate > 0);
  const int cores = std::max(1u, std::thread::hardware_concurrency());
  pool_ = std::make_unique<ThreadPool>(
      ThreadPoolOptions{.num_threads = options_.node.threads > 0 ? options_.node.threads : cores});
  ATL_ASSIGN_OR_RETURN(gates_, dispatch::GateWeights::Load(*checkpoint_, pool_.get()));
  ATL_ASSIGN_OR_RETURN(served_, front_door::LoadServedModel(checkpoint_.get(), profile_));
  info_ = cluster::MakeNodeInfo(options_.node, cluster::pb::NODE_ROLE_ROUTER,
                                checkpoint_->revision(), model::NumericsId(profile_));
  info_.set_rank(options_.rank);
  return absl::OkStatus();
}

Status RouterServerImpl::MakeDispatch() {
  ATL_ASSIGN_OR_RETURN(const kernels::Isa isa, kernels::ParseIsa(options_.node.isa));
  ATL_ASSIGN_OR_RETURN(const kernels::KernelContext context,
                       kernels::MakeKernelContext(isa, pool_.get()));
  transport::EventLoop* const loop = loop_.loop();
  loop->SetSpin(cluster::LinkSpin(
      options_.node, static_cast<int>(std::max(1u, std::thread::hardware_concurrency()))));
  dispatcher_ = std::make_unique<dispatch::Dispatcher>(
      loop, context, checkpoint_->config(), profile_, gates_.get(),
      dispatch::DispatcherOptions{.coverage_timeout = options_.node.coverage_timeout});
  dispatch_server_ = std::make_unique<dispatch::DispatchServer>(loop, checkpoint_->config(),
                                                                profile_, dispatcher_.get());
  const cluster::LinkIdentity self = cluster::IdentityOf(info_);
  ATL_ASSIGN_OR_RETURN(std::vector<transport::LinkKind> kinds,
                       cluster::AllowedLinks(options_.node));
  connector_ = std::make_unique<cluster::LinkConnector>(
      loop, cluster::LinkConnectorOptions{.self = self, .offered = std::move(kinds)},
      cluster::LinkConnector::Callbacks{
          .on_link =
              [this](const std::string& node, std::unique_ptr<transport::Link> link) {
                dispatcher_->AddLink(node, transport::CountLink(std::move(link), &expert_links_));
              },
          .on_gone = [this](const std::string& node) { dispatcher_->RemoveLink(node); }});
  dispatcher_->OnLinkClosed([this](const cluster::NodeName& node, const Status& why) {
    LogWarning("lost the link to '%s': %s", node, why.ToString());
    connector_->LinkClosed(node);
  });
  ATL_ASSIGN_OR_RETURN(acceptor_,
                       cluster::LinkAcceptor::Listen(
                           loop, options_.node, self,
                           [this](const std::string& peer, std::unique_ptr<transport::Link> link) {
                             dispatch_server_->AddLink(
                                 peer, transport::CountLink(std::move(link), &attention_links_));
                           }));
  return absl::OkStatus();
}

Status RouterServerImpl::Serve() {
  state_.AddListener([this](cluster::ViewChange change) { OnViewChanged(change); });
  attention_nodes_ = std::make_unique<AttentionNodes>(&state_, &attention::MakeRemoteAttention);
  front_door_ = std::make_unique<front_door::FrontDoor>(
      &served_, attention_nodes_.get(),
      front_door::FrontDoorOptions{.max_concurrent_requests = options_.max_concurrent_requests,
                                   .max_queued_requests = options_.max_queued_requests,
                                   .coverage_timeout = options_.node.coverage_timeout,
                                   .context_length = options_.context_length});
  cluster_service_ = std::make_unique<cluster::ClusterService>(
      &state_, cluster::ClusterServiceOptions{.router = info_.name(),
                                              .revision = info_.revision(),
                                              .numerics_id = info_.numerics_id(),
                                              .protocol_version = info_.protocol_version(),
                                              .model = experts_});
  router_service_ = std::make_unique<RouterServiceAdapter>(dispatcher_.get(), [this] {
    const auto snapshot = state_.snapshot();
    return cluster::MakePlacement(snapshot->nodes, experts_, snapshot->version);
  });
  std::vector<grpc::Service*> services = front_door_->services();
  services.insert(services.end(),
                  {cluster_service_.get(), router_service_.get(), acceptor_->service()});
  ATL_ASSIGN_OR_RETURN(server_, rpc::Server::Start({.listen = options_.node.listen,
                                                    .health_listen = options_.node.health_listen,
                                                    .insecure = options_.node.insecure},
                                                   "router", services));
  ATL_ASSIGN_OR_RETURN(const std::string address,
                       cluster::AdvertisedAddress(options_.node, server_->address()));
  info_.set_grpc_address(address);
  addresses_ = {.grpc = server_->address(),
                .data = acceptor_->data_address(),
                .health = server_->health_address()};
  if (!options_.node.metrics_listen.empty()) {
    ATL_ASSIGN_OR_RETURN(metrics_, metrics::MetricsServer::Start(options_.node.metrics_listen,
                                                                 [this] { return Metrics(); }));
    addresses_.metrics = metrics_->address();
  }
  return absl::OkStatus();
}

Status RouterServerImpl::Join() {
  {
    absl::MutexLock lock(&mu_);
    health_ = server_.get();
  }
  loop_.Start();
  loop_.loop()->Post([this] { UpdateReadyForEver(); });
  ATL_ASSIGN_OR_RETURN(join_, cluster::JoinClient::Start({.self = info_,
                                                          .join = options_.node.join,
                                                          .insecure = options_.node.insecure,
                                                          .state = [this] { return State(); }}));
  {
    absl::MutexLock lock(&mu_);
    joined_ = join_.get();
  }
  AnnounceSelf();
  planner_ = std::make_unique<cluster::PlannerThread>(
      &state_,
      cluster::PlannerOptions{.router = info_.name(),
                              .model = experts_,
                              .min_replicas = options_.min_replicas,
                              .settle = options_.settle},
      [this](const std::string& node, const cluster::pb::ExpertCommand& command) {
        cluster_service_->SendCommand(node, command);
      },
      [this] { AnnounceSelf(); });
  {
    absl::MutexLock lock(&mu_);
    planning_ = planner_.get();
  }
  LogInfo("router '%s' serves %s on %s", info_.name(), checkpoint_->name(), addresses_.grpc);
  return absl::OkStatus();
}

std::vector<metrics::Family> RouterServerImpl::Metrics() const {
  std::vector<metrics::Family> all = RouterMetrics(*front_door_, *dispatcher_);
  metrics::Append(
      cluster::LinkMetrics({{"expert", &expert_links_}, {"attention", &attention_links_}}), &all);
  return all;
}

cluster::pb::NodeState RouterServerImpl::State() const {
  cluster::pb::NodeState state;
  state.set_draining(draining_);
  state.set_ready(ready_);
  absl::MutexLock lock(&mu_);
  if (planning_ != nullptr) state.set_term(planning_->term());
  return state;
}

void RouterServerImpl::AnnounceSelf() {
  {
    absl::MutexLock lock(&announce_mu_);
    cluster::pb::Announcement announcement;
    *announcement.mutable_info() = info_;
    *announcement.mutable_state() = State();
    const Status announced = state_.Announce(announcement);
    if (!announced.ok()) LogError("announcing this router to itself: %s", announced.ToString());
  }
  absl::MutexLock lock(&mu_);
  if (joined_ != nullptr) joined_->StateChanged();
}

void RouterServerImpl::OnViewChanged(cluster::ViewChange change) {
  front_door_->OnDirectoryChanged();
  if (change == cluster::ViewChange::kLoad || follow_posted_.exchange(true)) return;
  loop_.loop()->Post([this] {
    follow_posted_ = false;
    FollowView();
  });
}

void RouterServerImpl::FollowView() {
  const std::shared_ptr<const cluster::ClusterSnapshot> snapshot = state_.snapshot();
  const auto placement = cluster::MakePlacement(snapshot->nodes, experts_, snapshot->version);
  std::vector<cluster::LinkPeer> peers;
  std::vector<std::string> routers;
  bool has_attention = false;
  for (const auto& node : snapshot->nodes) {
    const cluster::pb::NodeInfo& info = node->info();
    if (info.role() == cluster::pb::NODE_ROLE_EXPERT) {
      peers.push_back({.name = info.name(),
                       .grpc_address = info.grpc_address(),
                       .incarnation = info.incarnation()});
    }
    if (info.role() == cluster::pb::NODE_ROLE_ROUTER && info.name() != info_.name()) {
      routers.push_back(info.grpc_address());
    }
    has_attention |= info.role() == cluster::pb::NODE_ROLE_ATTENTION && !node->state().draining();
  }
  dispatcher_->SetPlacement(placement);
  connector_->SetPeers(peers);
  readiness_.Saw(placement->MissingExperts() == 0, has_attention);
  UpdateReady();
  absl::MutexLock lock(&mu_);
  if (joined_ != nullptr) joined_->AlsoJoin(std::move(routers));
}

void RouterServerImpl::UpdateReady() {
  const bool ready = !draining_ && readiness_.ready();
  if (ready_.exchange(ready) == ready) return;
  LogInfo("router '%s' is %s", info_.name(), ready ? "ready" : "not ready");
  {
    absl::MutexLock lock(&mu_);
    if (health_ != nullptr) health_->SetReady(ready);
  }
  AnnounceSelf();
}

void RouterServerImpl::UpdateReadyForEver() {
  UpdateReady();
  loop_.loop()->RunAt(absl::Now() + kReadyInterval, [this] { UpdateReadyForEver(); });
}

void RouterServerImpl::DrainAndStop() {
  const absl::Duration give_up = cluster::Uptime() + options_.node.drain_timeout;
  draining_ = true;
  front_door_->StopAdmitting();
  loop_.loop()->Post([this] { UpdateReady(); });
  AnnounceSelf();
  front_door_->WaitUntilIdle(give_up - cluster::Uptime());
  front_door_->EndAll();
  // Other routers' sequences may still be dispatched here: what is under way is finished, new calls
  // are told to go elsewhere.
  acceptor_->service()->SetAccepting(false);
  loop_.loop()->Post([this] { dispatch_server_->StartDrain(); });
  cluster::DrainUntilQuiet([this] { return dispatcher_->outstanding() > 0; }, give_up);
  Stop(kStopGrace);
}

void RouterServerImpl::Stop(absl::Duration grace) {
  {
    absl::MutexLock lock(&mu_);
    health_ = nullptr;
    joined_ = nullptr;
    planning_ = nullptr;
  }
  metrics_.reset();
  planner_.reset();
  join_.reset();
  if (front_door_ != nullptr) front_door_->EndAll();
  if (cluster_service_ != nullptr) cluster_service_->Stop();
  if (server_ != nullptr) server_->Stop(grace);
  server_.reset();
  loop_.Stop();
}

}  // namespace

StatusOr<std::unique_ptr<RouterServer>> RouterServer::Start(const RouterServerOptions& options) {
  auto server = std::make_unique<RouterServerImpl>(options);
  ATL_RETURN_IF_ERROR(server->Begin());
  return server;
}

}  // namespace atl::router
