#include "local/local_stack.h"

#include <pthread.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "router_service/dispatch/inline_fabric.h"
#include "router_service/dispatch/remote_fabric.h"
#include "transport/link.h"

namespace atl::local {

StatusOr<std::unique_ptr<LocalStack>> LocalStack::Open(const LocalStackOptions& options) {
  if (options.dispatch != "service" && options.dispatch != "inline") {
    return InvalidArgument("dispatch '%s': expected service or inline", options.dispatch);
  }
  std::unique_ptr<LocalStack> stack(new LocalStack());
  ATL_ASSIGN_OR_RETURN(
      stack->profile_,
      model::FindProfile(options.profile.empty() ? model::kDefaultProfile : options.profile));
  ATL_ASSIGN_OR_RETURN(stack->checkpoint_, model::Checkpoint::Open(options.model_dir));
  const model::Checkpoint& checkpoint = *stack->checkpoint_;
  ATL_RETURN_IF_ERROR(model::CheckServable(checkpoint.config()));
  ATL_ASSIGN_OR_RETURN(
      stack->engine_options_,
      attention::ResolveEngineOptions(options.engine, checkpoint.config(), stack->profile_));
  const bool with_mtp = options.with_mtp || stack->engine_options_.speculate > 0;
  const int cores = std::max(1u, std::thread::hardware_concurrency());
  const int threads = options.threads > 0 ? options.threads : cores;
  // All of a step's work is this pool's: between two loops of a step its threads have nothing to
  // leave a core to, and to wake one takes longer than most of what lies between.
  const absl::Duration spin = threads <= cores ? absl::Microseconds(200) : ThreadPoolOptions().spin;
  stack->pool_ =
      std::make_unique<ThreadPool>(ThreadPoolOptions{.num_threads = threads, .spin = spin});
  ATL_ASSIGN_OR_RETURN(const kernels::Isa isa, kernels::ParseIsa(options.isa));
  ATL_ASSIGN_OR_RETURN(stack->ctx_, kernels::MakeKernelContext(isa, stack->pool_.get()));
  const absl::Time begin = absl::Now();
  stack->packed_cache_ = std::make_unique<weights::PackedCache>(
      options.packed_cache, checkpoint.revision(), stack->profile_);
  ATL_ASSIGN_OR_RETURN(stack->weights_,
                       attention::LoadModelWeights(checkpoint, stack->profile_,
                                                   stack->engine_options_.context_length, with_mtp,
                                                   stack->pool_.get(), stack->packed_cache_.get()));
  ATL_ASSIGN_OR_RETURN(stack->gates_, dispatch::GateWeights::Load(checkpoint, stack->pool_.get()));
  ATL_RETURN_IF_ERROR(stack->LoadExperts(options));
  stack->load_time_ = absl::Now() - begin;
  stack->Connect(options);
  stack->engine_ = std::make_unique<attention::Engine>(
      &stack->loop_, stack->ctx_, stack->weights_.get(), stack->fabric_.get(),
      stack->engine_options_, checkpoint.revision());
  return stack;
}

Status LocalStack::LoadExperts(const LocalStackOptions& options) {
  const model::ModelConfig& c = checkpoint_->config();
  const int num_nodes = std::max(1, options.num_expert_nodes);
  for (int i = 0; i < num_nodes; ++i) {
    nodes_.push_back({.store = std::make_unique<expert::ExpertStore>(checkpoint_.get(), profile_, 0,
                                                                     packed_cache_.get())});
  }
  for (int32_t layer = 0; layer < static_cast<int32_t>(weights_->layers.size()); ++layer) {
    if (!c.is_moe_layer(layer)) continue;
    for (int32_t e = 0; e < c.num_expert_ids(); ++e) {
      const int node = options.shard ? options.shard(layer, e) : e % num_nodes;
      ATL_RETURN_IF_ERROR(nodes_[node].store->Load({.layer = layer, .expert = e}, pool_.get()));
    }
  }
  return absl::OkStatus();
}

void LocalStack::Connect(const LocalStackOptions& options) {
  const model::ModelConfig& c = checkpoint_->config();
  dispatcher_ = std::make_unique<dispatch::Dispatcher>(&loop_, ctx_, c, profile_, gates_.get(),
                                                       dispatch::DispatcherOptions{});
  auto placement = std::make_shared<cluster::Placement>();
  placement->version = 1;
  placement->holders.resize(weights_->layers.size());
  for (size_t i = 0; i < nodes_.size(); ++i) {
    const std::string name = absl::StrFormat("expert-%d", i);
    placement->nodes.push_back(name);
    for (const auto& [key, held] : nodes_[i].store->List()) {
      auto& layer = placement->holders[key.layer];
      layer.resize(c.num_expert_ids());
      layer[key.expert].push_back(static_cast<int32_t>(i));
    }
    nodes_[i].engine = std::make_unique<expert::ExpertEngine>(
        &loop_, ctx_, c, profile_, nodes_[i].store.get(), expert::EngineOptions{});
    auto [to_expert, to_router] =
        transport::MakeInprocLinks(&loop_, &loop_, transport::LinkLimits{});
    nodes_[i].engine->AddLink("dispatcher", std::move(to_router));
    dispatcher_->AddLink(name, std::move(to_expert));
  }
  dispatcher_->SetPlacement(std::move(placement));
  if (options.dispatch == "inline") {
    fabric_ = dispatch::MakeInlineFabric(&loop_, dispatcher_.get());
    return;
  }
  dispatch_server_ =
      std::make_unique<dispatch::DispatchServer>(&loop_, c, profile_, dispatcher_.get());
  auto remote =
      std::make_unique<dispatch::RemoteFabric>(&loop_, c, profile_, dispatch::DispatcherOptions{});
  auto [to_router, to_attention] =
      transport::MakeInprocLinks(&loop_, &loop_, transport::LinkLimits{});
  dispatch_server_->AddLink("attention", std::move(to_attention));
  remote->AddLink("router", std::move(to_router));
  fabric_ = std::move(remote);
}

void LocalStack::Start() {
  thread_ = std::thread([this] { engine_->RunUntilStopped(); });
  pthread_setname_np(thread_.native_handle(), "engine");
}

void LocalStack::Stop() {
  if (!thread_.joinable()) return;
  engine_->Stop();
  thread_.join();
}

LocalStack::~LocalStack() { Stop(); }

}  // namespace atl::local
