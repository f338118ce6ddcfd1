#include "attention_service/server.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "attention_service/engine.h"
#include "attention_service/engine_metrics.h"
#include "attention_service/model_weights.h"
#include "attention_service/service.h"
#include "base/log.h"
#include "base/thread_pool.h"
#include "cluster/announcements.h"
#include "cluster/drain.h"
#include "cluster/join_client.h"
#include "cluster/link_acceptor.h"
#include "cluster/link_connector.h"
#include "cluster/link_metrics.h"
#include "cluster/node_info.h"
#include "cluster/uptime.h"
#include "kernels/context.h"
#include "metrics/metrics_server.h"
#include "model/checkpoint.h"
#include "router_service/dispatch/dispatch_metrics.h"
#include "router_service/dispatch/dispatcher.h"
#include "router_service/dispatch/gate_weights.h"
#include "router_service/dispatch/inline_fabric.h"
#include "router_service/dispatch/model_experts.h"
#include "router_service/dispatch/remote_fabric.h"
#include "rpc/server.h"
#include "transport/event_loop.h"

namespace atl::attention {
namespace {

namespace pb = atollpb::v1;

class AttentionServerImpl : public AttentionServer {
 public:
  explicit AttentionServerImpl(const AttentionServerOptions& options) : options_(options) {}
  ~AttentionServerImpl() override { Stop(); }

  Status Begin();
  cluster::NodeAddresses addresses() const override { return addresses_; }
  void DrainAndStop() override;

 private:
  Status OpenModel();
  Status MakeFabric();
  Status Serve();
  Status Join();
  std::vector<metrics::Family> Metrics() const;
  pb::NodeState State() const;
  // On the loop: what the routers list.
  void OnView(const cluster::NodeList& nodes);
  void OnLinkClosed(const std::string& peer, const Status& why);
  void UpdateReady();
  bool inlined() const { return options_.dispatch == "inline"; }
  void Stop();

  // Constant after Begin.
  const AttentionServerOptions options_;
  EngineOptions engine_options_;
  std::unique_ptr<model::Checkpoint> checkpoint_;
  model::NumericProfile profile_;
  pb::NodeInfo info_;
  cluster::NodeAddresses addresses_;
  std::unique_ptr<ModelWeights> weights_;
  std::unique_ptr<dispatch::GateWeights> gates_;  // inline alone

  std::atomic<bool> draining_{false};
  std::unique_ptr<ThreadPool> pool_;
  kernels::KernelContext ctx_;

  transport::LinkCounters link_counters_;

  // On the loop, which the engine's thread runs.
  transport::EventLoop loop_;
  std::unique_ptr<dispatch::Dispatcher> dispatcher_;  // inline alone
  std::unique_ptr<dispatch::ExpertFabric> fabric_;
  dispatch::RemoteFabric* remote_ = nullptr;  // service alone: fabric_
  std::unique_ptr<cluster::LinkConnector> connector_;
  uint64_t placements_ = 0;
  bool covered_ = false;
  int links_ = 0;

  std::unique_ptr<Engine> engine_;
  std::thread engine_thread_;
  std::unique_ptr<AttentionServiceImpl> service_;
  std::unique_ptr<rpc::Server> server_;
  std::unique_ptr<metrics::MetricsServer> metrics_;
  std::unique_ptr<cluster::JoinClient> join_;
};

Status AttentionServerImpl::Begin() {
  if (options_.dispatch != "service" && !inlined()) {
    return InvalidArgument("dispatch '%s': expected service or inline", options_.dispatch);
  }
  ATL_RETURN_IF_ERROR(OpenModel());
  ATL_RETURN_IF_ERROR(MakeFabric());
  engine_ = std::make_unique<Engine>(&loop_, ctx_, weights_.get(), fabric_.get(), engine_options_,
                                     checkpoint_->revision());
  ATL_RETURN_IF_ERROR(Serve());
  engine_thread_ = std::thread([this] { engine_->RunUntilStopped(); });
  pthread_setname_np(engine_thread_.native_handle(), "engine");
  return Join();
}

Status AttentionServerImpl::OpenModel() {
  ATL_ASSIGN_OR_RETURN(checkpoint_, model::Checkpoint::Open(options_.node.model_dir));
  const model::ModelConfig& config = checkpoint_->config();
  ATL_RETURN_IF_ERROR(model::CheckServable(config));
  ATL_ASSIGN_OR_RETURN(profile_,
                       model::FindProfile(options_.node.profile.empty() ? model::kDefaultProfile
                                                                        : options_.node.profile));
  ATL_ASSIGN_OR_RETURN(engine_options_, ResolveEngineOptions(options_.engine, config, profile_));
  info_ = cluster::MakeNodeInfo(options_.node, pb::NODE_ROLE_ATTENTION, checkpoint_->revision(),
                                model::NumericsId(profile_));
  const int cores = std::max(1u, std::thread::hardware_concurrency());
  loop_.SetSpin(cluster::LinkSpin(options_.node, cores));
  pool_ = std::make_unique<ThreadPool>(
      ThreadPoolOptions{.num_threads = options_.node.threads > 0 ? options_.node.threads : cores});
  ATL_ASSIGN_OR_RETURN(const kernels::Isa isa, kernels::ParseIsa(options_.node.isa));
  ATL_ASSIGN_OR_RETURN(ctx_, kernels::MakeKernelContext(isa, pool_.get()));
  weights::PackedCache cache(options_.packed_cache, checkpoint_->revision(), profile_);
  const absl::Duration begin = cluster::Uptime();
  ATL_ASSIGN_OR_RETURN(
      weights_, LoadModelWeights(*checkpoint_, profile_, engine_options_.context_length,
                                 /*with_mtp=*/engine_options_.speculate > 0, pool_.get(), &cache));
  LogInfo("loaded %s", cache.Summary(absl::ToDoubleSeconds(cluster::Uptime() - begin)));
  return absl::OkStatus();
}

Status AttentionServerImpl::MakeFabric() {
  const dispatch::DispatcherOptions dispatch_options{.coverage_timeout =
                                                         options_.node.coverage_timeout};
  const auto closed = [this](const std::string& peer, const Status& why) {
    OnLinkClosed(peer, why);
  };
  cluster::LinkConnector::Callbacks callbacks;
  if (inlined()) {
    ATL_ASSIGN_OR_RETURN(gates_, dispatch::GateWeights::Load(*checkpoint_, pool_.get()));
    dispatcher_ = std::make_unique<dispatch::Dispatcher>(&loop_, ctx_, checkpoint_->config(),
                                                         profile_, gates_.get(), dispatch_options);
    dispatcher_->OnLinkClosed(closed);
    fabric_ = dispatch::MakeInlineFabric(&loop_, dispatcher_.get());
    callbacks.on_link = [this](const std::string& peer, std::unique_ptr<transport::Link> link) {
      dispatcher_->AddLink(peer, transport::CountLink(std::move(link), &link_counters_));
      ++links_;
      UpdateReady();
    };
    callbacks.on_gone = [this](const std::string& peer) {
      dispatcher_->RemoveLink(peer);
      --links_;
    };
  } else {
    auto remote = std::make_unique<dispatch::RemoteFabric>(&loop_, checkpoint_->config(), profile_,
                                                           dispatch_options);
    remote_ = remote.get();
    remote_->OnLinkClosed(closed);
    fabric_ = std::move(remote);
    callbacks.on_link = [this](const std::string& peer, std::unique_ptr<transport::Link> link) {
      remote_->AddLink(peer, transport::CountLink(std::move(link), &link_counters_));
      ++links_;
      UpdateReady();
    };
    callbacks.on_gone = [this](const std::string& peer) {
      remote_->RemoveLink(peer);
      --links_;
    };
  }
  cluster::LinkConnectorOptions connector_options;
  connector_options.self = cluster::IdentityOf(info_);
  ATL_ASSIGN_OR_RETURN(connector_options.offered, cluster::AllowedLinks(options_.node));
  connector_ = std::make_unique<cluster::LinkConnector>(&loop_, std::move(connector_options),
                                                        std::move(callbacks));
  return absl::OkStatus();
}

void AttentionServerImpl::OnLinkClosed(const std::string& peer, const Status& why) {
  --links_;
  if (!draining_) LogWarning("link to %s closed: %s", peer, std::string(why.message()));
  connector_->LinkClosed(peer);
  UpdateReady();
}

Status AttentionServerImpl::Serve() {
  service_ = std::make_unique<AttentionServiceImpl>(engine_.get());
  ATL_ASSIGN_OR_RETURN(server_, rpc::Server::Start({.listen = options_.node.listen,
                                                    .health_listen = options_.node.health_listen,
                                                    .insecure = options_.node.insecure},
                                                   "attention", {service_.get()}));
  ATL_ASSIGN_OR_RETURN(const std::string address,
                       cluster::AdvertisedAddress(options_.node, server_->address()));
  info_.set_grpc_address(address);
  addresses_ = {.grpc = server_->address(), .health = server_->health_address()};
  if (!options_.node.metrics_listen.empty()) {
    ATL_ASSIGN_OR_RETURN(metrics_, metrics::MetricsServer::Start(options_.node.metrics_listen,
                                                                 [this] { return Metrics(); }));
    addresses_.metrics = metrics_->address();
  }
  return absl::OkStatus();
}

Status AttentionServerImpl::Join() {
  ATL_ASSIGN_OR_RETURN(join_, cluster::JoinClient::Start({
                                  .self = info_,
                                  .join = options_.node.join,
                                  .insecure = options_.node.insecure,
                                  .state = [this] { return State(); },
                                  .on_view =
                                      [this](const cluster::NodeList& nodes) {
                                        loop_.Post([this, nodes] { OnView(nodes); });
                                      },
                              }));
  return absl::OkStatus();
}

std::vector<metrics::Family> AttentionServerImpl::Metrics() const {
  std::vector<metrics::Family> all = EngineMetrics(engine_->stats());
  if (inlined()) metrics::Append(dispatch::DispatchMetrics(*dispatcher_), &all);
  metrics::Append(cluster::LinkMetrics({{inlined() ? "expert" : "router", &link_counters_}}), &all);
  return all;
}

pb::NodeState AttentionServerImpl::State() const {
  const EngineStats& stats = engine_->stats();
  pb::NodeState state;
  state.set_draining(draining_);
  state.set_running_sequences(stats.running);
  state.set_waiting_sequences(stats.waiting);
  state.set_free_blocks(stats.blocks_total - stats.blocks_used);
  for (uint64_t hash : engine_->KeptPrefixes()) state.add_cached_prefixes(hash);
  return state;
}

void AttentionServerImpl::OnView(const cluster::NodeList& nodes) {
  const pb::NodeRole wanted = inlined() ? pb::NODE_ROLE_EXPERT : pb::NODE_ROLE_ROUTER;
  std::vector<cluster::LinkPeer> peers;
  for (const auto& node : nodes) {
    if (node->info().role() != wanted) continue;
    peers.push_back({.name = node->info().name(),
                     .grpc_address = node->info().grpc_address(),
                     .incarnation = node->info().incarnation()});
  }
  connector_->SetPeers(peers);
  if (inlined()) {
    const model::ModelConfig& config = checkpoint_->config();
    auto placement = cluster::MakePlacement(
        nodes, dispatch::ModelExpertsOf(config, engine_options_.speculate > 0), ++placements_);
    // Routers that do not speculate do not place the MTP layer: guessing pauses, serving need not.
    covered_ = placement->MissingExperts(config.num_hidden_layers) == 0;
    dispatcher_->SetPlacement(std::move(placement));
  }
  UpdateReady();
}

// Ready: the way to the experts is there.
void AttentionServerImpl::UpdateReady() {
  server_->SetReady(!draining_ && links_ > 0 && (!inlined() || covered_));
}

void AttentionServerImpl::DrainAndStop() {
  draining_ = true;
  server_->SetReady(false);
  engine_->StopAdmitting();
  join_->StateChanged();
  cluster::DrainUntil([this] { return engine_->num_sequences() == 0; },
                      cluster::Uptime() + options_.node.drain_timeout);
  Stop();
}

void AttentionServerImpl::Stop() {
  draining_ = true;
  metrics_.reset();
  join_.reset();
  if (engine_thread_.joinable()) {
    engine_->Stop();  // what still runs ends with UNAVAILABLE: routers replay it elsewhere
    engine_thread_.join();
  }
  if (server_ != nullptr) server_->Stop(absl::Seconds(1));
  server_.reset();
  connector_.reset();
}

}  // namespace

StatusOr<std::unique_ptr<AttentionServer>> AttentionServer::Start(
    const AttentionServerOptions& options) {
  auto server = std::make_unique<AttentionServerImpl>(options);
  ATL_RETURN_IF_ERROR(server->Begin());
  return server;
}

}  // namespace atl::attention
