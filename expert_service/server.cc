#include "expert_service/server.h"

#include <algorithm>
#include <atomic>
#include <string>
#include <thread>
#include <utility>

#include "absl/time/time.h"
#include "base/log.h"
#include "cluster/drain.h"
#include "cluster/join_client.h"
#include "cluster/link_acceptor.h"
#include "cluster/link_metrics.h"
#include "cluster/loop_thread.h"
#include "cluster/node_info.h"
#include "cluster/uptime.h"
#include "expert_service/expert_metrics.h"
#include "expert_service/loader.h"
#include "expert_service/service.h"
#include "metrics/metrics_server.h"
#include "model/checkpoint.h"
#include "rpc/server.h"

namespace atl::expert {
namespace {

std::vector<ExpertKey> ToKeys(const cluster::LayerExpertsProto& layers) {
  std::vector<ExpertKey> keys;
  for (const cluster::LayerExpert id : cluster::FromProto(layers))
    keys.push_back({id.layer, id.expert});
  return keys;
}

class ExpertServerImpl : public ExpertServer {
 public:
  explicit ExpertServerImpl(const ExpertServerOptions& options)
      : options_(options), loop_("experts") {}
  ~ExpertServerImpl() override { Stop(); }

  Status Begin();
  cluster::NodeAddresses addresses() const override { return addresses_; }
  void DrainAndStop() override;

 private:
  Status OpenModel();
  Status ListenForLinks();
  Status Serve();
  Status Join();
  std::vector<metrics::Family> Metrics() const;
  cluster::pb::NodeState State() const;
  bool Ready() const { return !draining_ && store_->bytes_held() > 0; }
  void OnStoreChanged();
  bool MayLeave() const;
  void Stop();

  // Constant after Begin.
  const ExpertServerOptions options_;
  std::unique_ptr<model::Checkpoint> checkpoint_;
  model::NumericProfile profile_;
  cluster::pb::NodeInfo info_;
  cluster::NodeAddresses addresses_;

  // Own synchronisation, in the order they are made; each uses those before it.
  std::atomic<bool> draining_{false};
  std::unique_ptr<ThreadPool> pool_;
  std::unique_ptr<weights::PackedCache> packed_cache_;
  std::unique_ptr<ExpertStore> store_;
  transport::LinkCounters link_counters_;
  cluster::LoopThread loop_;
  std::unique_ptr<ExpertEngine> engine_;             // on loop_
  std::unique_ptr<cluster::LinkAcceptor> acceptor_;  // on loop_
  std::unique_ptr<Loader> loader_;
  std::unique_ptr<ExpertServiceAdapter> service_;
  std::unique_ptr<rpc::Server> server_;
  std::unique_ptr<metrics::MetricsServer> metrics_;
  std::unique_ptr<cluster::JoinClient> join_;
  // The loader's way to server_ and join_, which come and go while it runs.
  absl::Mutex mu_;
  bool serving_ ABSL_GUARDED_BY(mu_) = false;
};

Status ExpertServerImpl::Begin() {
  ATL_RETURN_IF_ERROR(OpenModel());
  ATL_RETURN_IF_ERROR(ListenForLinks());
  loop_.Start();
  ATL_RETURN_IF_ERROR(Serve());
  return Join();
}

Status ExpertServerImpl::OpenModel() {
  ATL_ASSIGN_OR_RETURN(checkpoint_, model::Checkpoint::Open(options_.node.model_dir));
  ATL_RETURN_IF_ERROR(model::CheckServable(checkpoint_->config()));
  if (checkpoint_->config().n_routed_experts == 0) {
    return FailedPrecondition("%s has no experts: it is a dense model", options_.node.model_dir);
  }
  ATL_ASSIGN_OR_RETURN(profile_,
                       model::FindProfile(options_.node.profile.empty() ? model::kDefaultProfile
                                                                        : options_.node.profile));
  info_ = cluster::MakeNodeInfo(options_.node, cluster::pb::NODE_ROLE_EXPERT,
                                checkpoint_->revision(), model::NumericsId(profile_));
  packed_cache_ = std::make_unique<weights::PackedCache>(options_.packed_cache,
                                                         checkpoint_->revision(), profile_);
  store_ = std::make_unique<ExpertStore>(checkpoint_.get(), profile_, options_.memory_budget_bytes,
                                         packed_cache_.get());
  info_.set_memory_budget_bytes(options_.memory_budget_bytes);
  info_.set_routed_expert_bytes(store_->ExpertBytes(/*shared=*/false));
  info_.set_shared_expert_bytes(store_->ExpertBytes(/*shared=*/true));
  return absl::OkStatus();
}

Status ExpertServerImpl::ListenForLinks() {
  const int cores = std::max(1u, std::thread::hardware_concurrency());
  loop_.loop()->SetSpin(cluster::LinkSpin(options_.node, cores));
  pool_ = std::make_unique<ThreadPool>(
      ThreadPoolOptions{.num_threads = options_.node.threads > 0 ? options_.node.threads : cores});
  ATL_ASSIGN_OR_RETURN(const kernels::Isa isa, kernels::ParseIsa(options_.node.isa));
  ATL_ASSIGN_OR_RETURN(const kernels::KernelContext context,
                       kernels::MakeKernelContext(isa, pool_.get()));
  engine_ = std::make_unique<ExpertEngine>(loop_.loop(), context, checkpoint_->config(), profile_,
                                           store_.get(), EngineOptions{.merge = options_.merge});
  ATL_ASSIGN_OR_RETURN(acceptor_,
                       cluster::LinkAcceptor::Listen(
                           loop_.loop(), options_.node, cluster::IdentityOf(info_),
                           [this](const std::string& peer, std::unique_ptr<transport::Link> link) {
                             engine_->AddLink(
                                 peer, transport::CountLink(std::move(link), &link_counters_));
                           }));
  return absl::OkStatus();
}

Status ExpertServerImpl::Serve() {
  loader_ = std::make_unique<Loader>(store_.get(), pool_.get(), [this] { OnStoreChanged(); });
  service_ = std::make_unique<ExpertServiceAdapter>(ServiceParts{.name = info_.name(),
                                                                 .revision = info_.revision(),
                                                                 .numerics_id = info_.numerics_id(),
                                                                 .config = checkpoint_->config(),
                                                                 .profile = profile_,
                                                                 .store = store_.get(),
                                                                 .engine = engine_.get(),
                                                                 .loop = &loop_,
                                                                 .loader = loader_.get()});
  ATL_ASSIGN_OR_RETURN(server_,
                       rpc::Server::Start({.listen = options_.node.listen,
                                           .health_listen = options_.node.health_listen,
                                           .insecure = options_.node.insecure},
                                          "expert", {service_.get(), acceptor_->service()}));
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

Status ExpertServerImpl::Join() {
  ATL_ASSIGN_OR_RETURN(
      join_,
      cluster::JoinClient::Start({.self = info_,
                                  .join = options_.node.join,
                                  .insecure = options_.node.insecure,
                                  .state = [this] { return State(); },
                                  .on_command =
                                      [this](const cluster::pb::ExpertCommand& command) {
                                        loader_->Obey({.term = command.term(),
                                                       .target = ToKeys(command.target()),
                                                       .may_unload = ToKeys(command.may_unload())});
                                      }}));
  {
    absl::MutexLock lock(&mu_);
    serving_ = true;
  }
  OnStoreChanged();  // what was loaded before `serving_` was seen
  LogInfo("expert node '%s' serves %s on %s", info_.name(), checkpoint_->name(), addresses_.grpc);
  return absl::OkStatus();
}

std::vector<metrics::Family> ExpertServerImpl::Metrics() const {
  std::vector<metrics::Family> all = ExpertMetrics(*store_, engine_->stats());
  metrics::Append(cluster::LinkMetrics({{"caller", &link_counters_}}), &all);
  return all;
}

cluster::pb::NodeState ExpertServerImpl::State() const {
  cluster::pb::NodeState state;
  state.set_draining(draining_);
  std::vector<cluster::LayerExpert> holds;
  for (const auto& [key, expert] : store_->List()) holds.push_back({key.layer, key.expert});
  *state.mutable_holds() = cluster::ToProto(holds);
  std::vector<cluster::LayerExpert> unreadable;
  for (const ExpertKey key : loader_->Unreadable()) unreadable.push_back({key.layer, key.expert});
  *state.mutable_unreadable() = cluster::ToProto(unreadable);
  state.set_term(loader_->term());
  state.set_queued_rows(static_cast<uint32_t>(engine_->stats().queued_rows));
  state.set_ready(Ready());
  return state;
}

void ExpertServerImpl::OnStoreChanged() {
  absl::MutexLock lock(&mu_);
  if (!serving_) return;
  server_->SetReady(Ready());
  join_->StateChanged();
}

// What it holds has been taken over, or there is nobody to take it over.
bool ExpertServerImpl::MayLeave() const {
  if (store_->bytes_held() == 0 || join_->num_routers() == 0) return true;
  const cluster::NodeList nodes = join_->nodes();
  return std::none_of(nodes.begin(), nodes.end(), [this](const auto& node) {
    return node->info().role() == cluster::pb::NODE_ROLE_EXPERT && !node->state().draining() &&
           node->info().name() != info_.name();
  });
}

void ExpertServerImpl::DrainAndStop() {
  const absl::Duration give_up = cluster::Uptime() + options_.node.drain_timeout;
  draining_ = true;
  OnStoreChanged();
  cluster::DrainUntil([this] { return MayLeave(); }, give_up);
  cluster::DrainUntilQuiet([this] { return engine_->stats().queued_rows > 0; }, give_up);
  LogInfo("drained, %d bytes still held", store_->bytes_held());
  Stop();
}

void ExpertServerImpl::Stop() {
  {
    absl::MutexLock lock(&mu_);
    serving_ = false;
  }
  metrics_.reset();
  join_.reset();
  if (loader_ != nullptr)
    loader_->Stop();  // what waits for it is answered before the server waits for the answers
  server_.reset();
  loop_.Stop();
}

}  // namespace

StatusOr<std::unique_ptr<ExpertServer>> ExpertServer::Start(const ExpertServerOptions& options) {
  auto server = std::make_unique<ExpertServerImpl>(options);
  ATL_RETURN_IF_ERROR(server->Begin());
  return server;
}

}  // namespace atl::expert
