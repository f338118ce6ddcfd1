#include "cli/serve.h"

#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "attention_service/engine_metrics.h"
#include "attention_service/service.h"
#include "base/log.h"
#include "expert_service/expert_metrics.h"
#include "local/local_stack.h"
#include "metrics/metrics_server.h"
#include "router_service/front_door/front_door.h"
#include "router_service/router_metrics.h"
#include "rpc/server.h"

namespace atl::cli {
namespace {

// The one attention node there is.
class LocalDirectory : public front_door::AttentionDirectory {
 public:
  explicit LocalDirectory(attention::Engine* engine) : engine_(engine) {}

  std::vector<front_door::AttentionNode> List() const override {
    front_door::AttentionNode node;
    node.name = "attention";
    node.backend =
        std::shared_ptr<attention::AttentionBackend>(engine_, [](attention::AttentionBackend*) {});
    node.running_sequences = engine_->stats().running;
    node.waiting_sequences = engine_->stats().waiting;
    return {std::move(node)};
  }

 private:
  attention::Engine* const engine_;
};

class ServeProcessImpl : public ServeProcess {
 public:
  Status Init(const ServeOptions& options) {
    drain_timeout_ = options.node.drain_timeout;
    local::LocalStackOptions stack_options;
    stack_options.model_dir = options.node.model_dir;
    stack_options.profile = options.node.profile;
    stack_options.isa = options.node.isa;
    stack_options.threads = options.node.threads;
    stack_options.dispatch = options.dispatch;
    stack_options.engine = options.engine;
    stack_options.packed_cache = options.packed_cache;
    ATL_ASSIGN_OR_RETURN(stack_, local::LocalStack::Open(stack_options));
    LogInfo("loaded %s",
            stack_->packed_cache().Summary(absl::ToDoubleSeconds(stack_->load_time())));
    ATL_ASSIGN_OR_RETURN(model_,
                         front_door::LoadServedModel(&stack_->checkpoint(), stack_->profile()));
    directory_ = std::make_unique<LocalDirectory>(stack_->engine());
    front_door::FrontDoorOptions door;
    door.max_concurrent_requests = options.max_concurrent_requests;
    door.max_queued_requests = options.max_queued_requests;
    door.coverage_timeout = options.node.coverage_timeout;
    door.context_length = stack_->engine_options().context_length;
    front_door_ = std::make_unique<front_door::FrontDoor>(&model_, directory_.get(), door);
    attention_service_ = std::make_unique<attention::AttentionServiceImpl>(stack_->engine());
    std::vector<grpc::Service*> services = front_door_->services();
    services.push_back(attention_service_.get());
    stack_->Start();
    ATL_ASSIGN_OR_RETURN(server_, rpc::Server::Start({.listen = options.node.listen,
                                                      .health_listen = options.node.health_listen,
                                                      .insecure = options.node.insecure},
                                                     "router", services));
    if (!options.node.metrics_listen.empty()) {
      ATL_ASSIGN_OR_RETURN(metrics_, metrics::MetricsServer::Start(options.node.metrics_listen,
                                                                   [this] { return Metrics(); }));
    }
    server_->SetReady(true);
    return absl::OkStatus();
  }

  ~ServeProcessImpl() override {
    // Calls first, then who answers them.
    if (front_door_ != nullptr) front_door_->EndAll();
    if (server_ != nullptr) server_->Stop(absl::ZeroDuration());
    if (stack_ != nullptr) stack_->Stop();
  }

  cluster::NodeAddresses addresses() const override {
    return {.grpc = server_->address(),
            .health = server_->health_address(),
            .metrics = metrics_ != nullptr ? metrics_->address() : ""};
  }

  void DrainAndStop() override {
    server_->SetReady(false);
    front_door_->StopAdmitting();
    front_door_->WaitUntilIdle(drain_timeout_);
    front_door_->EndAll();
    server_->Stop(absl::Seconds(1));
    stack_->Stop();
  }

 private:
  std::vector<metrics::Family> Metrics() const {
    std::vector<metrics::Family> all = router::RouterMetrics(*front_door_, *stack_->dispatcher());
    metrics::Append(attention::EngineMetrics(stack_->engine()->stats()), &all);
    metrics::Append(expert::ExpertMetrics(stack_->store(0), stack_->expert_engine(0)->stats()),
                    &all);
    return all;
  }

  absl::Duration drain_timeout_;
  std::unique_ptr<local::LocalStack> stack_;
  front_door::ServedModel model_;
  std::unique_ptr<LocalDirectory> directory_;
  std::unique_ptr<front_door::FrontDoor> front_door_;
  std::unique_ptr<attention::AttentionServiceImpl> attention_service_;
  std::unique_ptr<rpc::Server> server_;
  std::unique_ptr<metrics::MetricsServer> metrics_;  // goes first: it reads the others
};

}  // namespace

StatusOr<std::unique_ptr<ServeProcess>> ServeProcess::Start(const ServeOptions& options) {
  auto process = std::make_unique<ServeProcessImpl>();
  ATL_RETURN_IF_ERROR(process->Init(options));
  return process;
}

}  // namespace atl::cli
