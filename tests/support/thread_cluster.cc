#include "tests/support/thread_cluster.h"

#include <unistd.h>

#include <atomic>
#include <utility>

#include "absl/strings/str_format.h"
#include "absl/synchronization/blocking_counter.h"
#include "absl/synchronization/notification.h"
#include "router_service/dispatch/inline_fabric.h"
#include "router_service/dispatch/remote_fabric.h"

namespace atl::testing {

using transport::EventLoop;
using transport::Link;
using transport::LinkKind;

LoopThread::LoopThread()
    : thread_([this] {
        while (!stop_.load()) loop_.RunOnce(absl::Seconds(1));
      }) {}

LoopThread::~LoopThread() {
  stop_.store(true);
  loop_.Post([] {});
  thread_.join();
}

void LoopThread::Call(const std::function<void()>& fn) {
  absl::Notification done;
  loop_.Post([&] {
    fn();
    done.Notify();
  });
  done.WaitForNotification();
}

namespace {

// Takes links: in process, or at a listener on the server's loop.
class LinkHost {
 public:
  using OnLink = std::function<void(const std::string& peer, std::unique_ptr<Link>)>;

  LinkHost(LoopThread* thread, OnLink on_link) : thread_(thread), on_link_(std::move(on_link)) {}

  Status Listen(LinkKind kind) {
    if (kind == LinkKind::kInproc) return absl::OkStatus();
    static std::atomic<int> next{0};
    transport::Endpoint endpoint{.kind = kind, .address = "127.0.0.1:0"};
    if (kind != LinkKind::kTcp)
      endpoint.address = absl::StrFormat("@atoll-test-%d-%d", getpid(), next.fetch_add(1));
    Status status;
    thread_->Call([&] {
      auto listener = transport::LinkListener::Listen(thread_->loop(), endpoint, &tickets_,
                                                      transport::LinkLimits{}, on_link_);
      status = listener.status();
      if (listener.ok()) listener_ = *std::move(listener);
    });
    return status;
  }

  // Calls `done` once, on the client loop's thread, which is the caller's.
  void Connect(EventLoop* client, const std::string& peer,
               std::function<void(StatusOr<std::unique_ptr<Link>>)> done) {
    if (listener_ == nullptr) {
      auto [here, there] =
          transport::MakeInprocLinks(client, thread_->loop(), transport::LinkLimits{});
      auto moved = std::make_shared<std::unique_ptr<Link>>(std::move(there));
      thread_->loop()->Post([this, peer, moved] { on_link_(peer, std::move(*moved)); });
      done(std::move(here));
      return;
    }
    transport::ConnectLink(client, listener_->endpoint(), tickets_.Issue(peer),
                           transport::LinkLimits{}, absl::Seconds(5), std::move(done));
  }

 private:
  LoopThread* const thread_;
  const OnLink on_link_;
  transport::TicketBook tickets_;
  std::unique_ptr<transport::LinkListener> listener_;
};

}  // namespace

struct ThreadCluster::ExpertNode {
  std::string name;
  LoopThread thread;
  std::unique_ptr<expert::ExpertStore> store;
  std::unique_ptr<expert::ExpertEngine> engine;
  std::unique_ptr<LinkHost> host;
};

struct ThreadCluster::RouterNode {
  LoopThread thread;
  std::unique_ptr<dispatch::Dispatcher> dispatcher;
  std::unique_ptr<dispatch::DispatchServer> server;
  std::unique_ptr<LinkHost> host;
};

struct ThreadCluster::AttentionNode {
  EventLoop loop;
  std::unique_ptr<dispatch::Dispatcher> dispatcher;  // inline
  std::unique_ptr<dispatch::ExpertFabric> fabric;
  std::unique_ptr<attention::Engine> engine;
  std::thread thread;
};

StatusOr<std::unique_ptr<ThreadCluster>> ThreadCluster::Start(const ThreadClusterOptions& options) {
  std::unique_ptr<ThreadCluster> cluster(new ThreadCluster());
  ATL_ASSIGN_OR_RETURN(cluster->profile_, model::FindProfile(options.profile));
  ATL_ASSIGN_OR_RETURN(cluster->checkpoint_, model::Checkpoint::Open(options.model_dir));
  cluster->pool_ = std::make_unique<ThreadPool>(ThreadPoolOptions{.num_threads = options.threads});
  ATL_ASSIGN_OR_RETURN(const kernels::Isa isa, kernels::ParseIsa(options.isa));
  ATL_ASSIGN_OR_RETURN(cluster->ctx_, kernels::MakeKernelContext(isa, cluster->pool_.get()));
  ATL_ASSIGN_OR_RETURN(const attention::EngineOptions engine,
                       attention::ResolveEngineOptions(
                           options.engine, cluster->checkpoint_->config(), cluster->profile_));
  ThreadClusterOptions resolved = options;
  resolved.engine = engine;
  ATL_ASSIGN_OR_RETURN(
      cluster->weights_,
      attention::LoadModelWeights(*cluster->checkpoint_, cluster->profile_, engine.context_length,
                                  engine.speculate > 0, cluster->pool_.get()));
  ATL_ASSIGN_OR_RETURN(cluster->gates_,
                       dispatch::GateWeights::Load(*cluster->checkpoint_, cluster->pool_.get()));
  ATL_RETURN_IF_ERROR(cluster->StartExperts(resolved));
  if (resolved.dispatch == "service") ATL_RETURN_IF_ERROR(cluster->StartRouter(resolved));
  for (int i = 0; i < resolved.num_attention; ++i)
    ATL_RETURN_IF_ERROR(cluster->StartAttention(resolved, i));
  return cluster;
}

Status ThreadCluster::StartExperts(const ThreadClusterOptions& options) {
  const model::ModelConfig& c = checkpoint_->config();
  auto placement = std::make_shared<cluster::Placement>();
  placement->version = 1;
  placement->holders.resize(c.num_hidden_layers + c.num_nextn_predict_layers);
  for (int i = 0; i < options.num_experts; ++i) {
    auto node = std::make_unique<ExpertNode>();
    node->name = absl::StrFormat("expert-%d", i);
    node->store = std::make_unique<expert::ExpertStore>(checkpoint_.get(), profile_, 0);
    placement->nodes.push_back(node->name);
    experts_.push_back(std::move(node));
  }
  const int32_t num_layers = static_cast<int32_t>(weights_->layers.size());
  for (int32_t layer = 0; layer < num_layers; ++layer) {
    if (!c.is_moe_layer(layer)) continue;
    placement->holders[layer].resize(c.num_expert_ids());
    for (int32_t e = 0; e < c.num_expert_ids(); ++e) {
      const std::vector<int> holders =
          options.holders ? options.holders(layer, e) : std::vector<int>{e % options.num_experts};
      for (int node : holders) {
        ATL_RETURN_IF_ERROR(
            experts_[node]->store->Load({.layer = layer, .expert = e}, pool_.get()));
        placement->holders[layer][e].push_back(node);
      }
    }
  }
  placement_ = std::move(placement);
  for (auto& node : experts_) {
    node->thread.Call([&] {
      node->engine = std::make_unique<expert::ExpertEngine>(
          node->thread.loop(), ctx_, c, profile_, node->store.get(), expert::EngineOptions{});
    });
    node->host = std::make_unique<LinkHost>(&node->thread,
                                            [n = node.get()](const std::string& peer, auto link) {
                                              n->engine->AddLink(peer, std::move(link));
                                            });
    ATL_RETURN_IF_ERROR(node->host->Listen(options.links));
  }
  return absl::OkStatus();
}

std::unique_ptr<dispatch::Dispatcher> ThreadCluster::MakeDispatcher(EventLoop* loop) {
  auto dispatcher = std::make_unique<dispatch::Dispatcher>(
      loop, ctx_, checkpoint_->config(), profile_, gates_.get(), dispatch::DispatcherOptions{});
  dispatcher->SetPlacement(placement_);
  return dispatcher;
}

void ThreadCluster::ConnectExperts(EventLoop* loop, dispatch::Dispatcher* dispatcher,
                                   const std::function<void(Status)>& done) {
  for (auto& node : experts_) {
    node->host->Connect(loop, "dispatcher", [dispatcher, done, name = node->name](auto link) {
      if (link.ok()) dispatcher->AddLink(name, *std::move(link));
      done(link.status());
    });
  }
}

Status ThreadCluster::StartRouter(const ThreadClusterOptions& options) {
  router_ = std::make_unique<RouterNode>();
  RouterNode* router = router_.get();
  absl::BlockingCounter connected(options.num_experts);
  Status status;
  router->thread.Call([&] {
    router->dispatcher = MakeDispatcher(router->thread.loop());
    router->server = std::make_unique<dispatch::DispatchServer>(
        router->thread.loop(), checkpoint_->config(), profile_, router->dispatcher.get());
    ConnectExperts(router->thread.loop(), router->dispatcher.get(), [&](const Status& s) {
      status.Update(s);
      connected.DecrementCount();
    });
  });
  connected.Wait();
  ATL_RETURN_IF_ERROR(status);
  router->host =
      std::make_unique<LinkHost>(&router->thread, [router](const std::string& peer, auto link) {
        router->server->AddLink(peer, std::move(link));
      });
  return router->host->Listen(options.links);
}

Status ThreadCluster::StartAttention(const ThreadClusterOptions& options, int i) {
  auto node = std::make_unique<AttentionNode>();
  AttentionNode* a = node.get();
  Status status;
  int connected = 0;
  const int wanted = options.dispatch == "service" ? 1 : options.num_experts;
  if (options.dispatch == "service") {
    auto remote = std::make_unique<dispatch::RemoteFabric>(&a->loop, checkpoint_->config(),
                                                           profile_, dispatch::DispatcherOptions{});
    router_->host->Connect(&a->loop, absl::StrFormat("attention-%d", i),
                           [&, fabric = remote.get()](auto link) {
                             if (link.ok()) fabric->AddLink("router", *std::move(link));
                             status.Update(link.status());
                             ++connected;
                           });
    a->fabric = std::move(remote);
  } else {
    a->dispatcher = MakeDispatcher(&a->loop);
    a->fabric = dispatch::MakeInlineFabric(&a->loop, a->dispatcher.get());
    ConnectExperts(&a->loop, a->dispatcher.get(), [&](const Status& s) {
      status.Update(s);
      ++connected;
    });
  }
  while (connected < wanted) a->loop.RunOnce(absl::Seconds(1));
  ATL_RETURN_IF_ERROR(status);
  a->engine = std::make_unique<attention::Engine>(&a->loop, ctx_, weights_.get(), a->fabric.get(),
                                                  options.engine, checkpoint_->revision());
  a->thread = std::thread([a] { a->engine->RunUntilStopped(); });
  attention_.push_back(std::move(node));
  return absl::OkStatus();
}

ThreadCluster::~ThreadCluster() {
  for (auto& node : attention_) {
    node->engine->Stop();
    node->thread.join();
  }
  // Callers before callees; what lives on a loop goes on that loop.
  attention_.clear();
  if (router_ != nullptr) {
    router_->thread.Call([&] {
      router_->host.reset();
      router_->server.reset();
      router_->dispatcher.reset();
    });
  }
  for (auto& node : experts_) {
    node->thread.Call([&] {
      node->host.reset();
      node->engine.reset();
    });
  }
}

attention::Engine* ThreadCluster::attention(int i) { return attention_[i]->engine.get(); }

const expert::ExpertStore& ThreadCluster::store(int i) const { return *experts_[i]->store; }

void ThreadCluster::CutExpert(int i) {
  ExpertNode* node = experts_[i].get();
  node->thread.Call([&] { node->engine.reset(); });
}

uint64_t ThreadCluster::RoutedRows(int32_t layer, int32_t expert) const {
  uint64_t rows = 0;
  if (router_ != nullptr) rows += router_->dispatcher->counters().Get(layer, expert);
  for (const auto& node : attention_) {
    if (node->dispatcher != nullptr) rows += node->dispatcher->counters().Get(layer, expert);
  }
  return rows;
}

}  // namespace atl::testing
