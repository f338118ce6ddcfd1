#include "bench/dispatch/dispatch_rig.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "bench/link/link_ends.h"
#include "bench/timing.h"
#include "cluster/placement.h"
#include "router_service/dispatch/inline_fabric.h"
#include "router_service/dispatch/remote_fabric.h"

namespace atl::bench {

using cluster::LoopThread;
using transport::LinkKind;

namespace {

// Nobody dies here: work is late only if it is meant to take long.
const dispatch::DispatcherOptions kOptions = {.coverage_timeout = absl::Seconds(5),
                                              .hedge_after = absl::Hours(1)};

std::string NodeName(int i) { return absl::StrFormat("expert-%d", i); }

std::shared_ptr<cluster::Placement> MakePlacement(const model::ModelConfig& config, int nodes) {
  auto placement = std::make_shared<cluster::Placement>();
  placement->version = 1;
  for (int i = 0; i < nodes; ++i) placement->nodes.push_back(NodeName(i));
  auto& holders = placement->holders.emplace_back(config.num_expert_ids());
  for (int64_t e = 0; e < config.n_routed_experts; ++e)
    holders[e] = {static_cast<int32_t>(e % nodes)};
  if (config.n_shared_experts > 0) {
    std::vector<int32_t>& all = holders[config.shared_expert_id()];
    all.resize(nodes);
    std::iota(all.begin(), all.end(), 0);
  }
  return placement;
}

}  // namespace

DispatchRig::DispatchRig(const DispatchRigOptions& options, const GateModel& model,
                         const model::NumericProfile& profile)
    : options_(options), config_(model.config), profile_(profile), pairs_before_(options.nodes) {
  near_.SetSpin(options.spin);
}

DispatchRig::~DispatchRig() {
  if (router_ != nullptr) router_->Stop();
  for (const auto& thread : node_threads_) thread->Stop();
}

StatusOr<std::unique_ptr<DispatchRig>> DispatchRig::Make(const DispatchRigOptions& options,
                                                         const kernels::KernelContext& ctx,
                                                         const GateModel& model,
                                                         const model::NumericProfile& profile) {
  if (options.mode != "inline" && options.mode != "service")
    return InvalidArgument("mode '%s': expected inline or service", options.mode);
  std::unique_ptr<DispatchRig> rig(new DispatchRig(options, model, profile));
  const bool threads = options.link != LinkKind::kInproc;
  if (threads && options.mode == "service") {
    rig->router_ = std::make_unique<LoopThread>("router");
    rig->router_->loop()->SetSpin(options.spin);
  }
  rig->dispatcher_ = std::make_unique<dispatch::Dispatcher>(rig->router_loop(), ctx, rig->config_,
                                                            profile, model.gates.get(), kOptions);
  for (int i = 0; threads && i < std::min(options.node_threads, options.nodes); ++i) {
    rig->node_threads_.push_back(std::make_unique<LoopThread>(NodeName(i)));
    rig->node_threads_.back()->loop()->SetSpin(options.spin);
  }
  ATL_RETURN_IF_ERROR(rig->AddNodes());
  ATL_RETURN_IF_ERROR(rig->MakeFabric());
  if (options.even) rig->RouteEvenly();
  if (rig->router_ != nullptr) rig->router_->Start();
  for (const auto& thread : rig->node_threads_) thread->Start();
  return rig;
}

Status DispatchRig::AddNodes() {
  const transport::PayloadShape shape = {.hidden_size = config_.hidden_size,
                                         .num_layers = config_.num_hidden_layers,
                                         .num_experts = config_.num_expert_ids(),
                                         .wire = profile_.wire};
  for (int i = 0; i < options_.nodes; ++i) {
    transport::EventLoop* const loop =
        node_threads_.empty() ? &near_ : node_threads_[i % node_threads_.size()]->loop();
    ATL_ASSIGN_OR_RETURN(LinkEnds ends, MakeLinkEnds(options_.link, router_loop(), loop));
    nodes_.push_back(
        std::make_unique<StandInNode>(loop, shape, options_.per_pair, std::move(ends.far)));
    dispatcher_->AddLink(NodeName(i), transport::CountLink(std::move(ends.near), &expert_links_));
  }
  dispatcher_->SetPlacement(MakePlacement(config_, options_.nodes));
  return absl::OkStatus();
}

Status DispatchRig::MakeFabric() {
  if (options_.mode == "inline") {
    fabric_ = dispatch::MakeInlineFabric(&near_, dispatcher_.get());
    return absl::OkStatus();
  }
  server_ = std::make_unique<dispatch::DispatchServer>(router_loop(), config_, profile_,
                                                       dispatcher_.get());
  auto remote = std::make_unique<dispatch::RemoteFabric>(&near_, config_, profile_, kOptions);
  ATL_ASSIGN_OR_RETURN(LinkEnds ends, MakeLinkEnds(options_.link, &near_, router_loop()));
  server_->AddLink("attention", std::move(ends.far));
  remote->AddLink("router", transport::CountLink(std::move(ends.near), &router_links_));
  fabric_ = std::move(remote);
  return absl::OkStatus();
}

// Row r goes to experts rK, rK + 1, ...: every expert gets as many rows as every other, give or
// take one.
void DispatchRig::RouteEvenly() {
  const int64_t k = config_.num_experts_per_tok, e = config_.n_routed_experts;
  std::vector<int32_t> ids(options_.rows * k);
  for (int64_t i = 0; i < options_.rows * k; ++i) ids[i] = static_cast<int32_t>(i % e);
  for (int64_t row = 0; row < options_.rows; ++row)
    std::sort(ids.begin() + row * k, ids.begin() + (row + 1) * k);
  dispatcher_->SetRouteHookForTest(
      [ids = std::move(ids)](int32_t, int64_t, int32_t* expert_id, float*, bool* replaced) {
        std::copy(ids.begin(), ids.end(), expert_id);
        *replaced = true;
      });
}

DispatchCost DispatchRig::Totals() const {
  const auto& routers = router_links_.of(options_.link);
  const auto& experts = expert_links_.of(options_.link);
  const dispatch::DispatchHistograms& times = dispatcher_->histograms();
  return {.gate_us = static_cast<double>(times.gate_ns.load()) * 1e-3,
          .combine_us = static_cast<double>(times.combine_ns.load()) * 1e-3,
          .to_router = static_cast<int64_t>(routers.sent_bytes.load()),
          .from_router = static_cast<int64_t>(routers.received_bytes.load()),
          .to_experts = static_cast<int64_t>(experts.sent_bytes.load()),
          .from_experts = static_cast<int64_t>(experts.received_bytes.load())};
}

StatusOr<DispatchCost> DispatchRig::Dispatch(Buffer x) {
  const DispatchCost before = Totals();
  for (int i = 0; i < options_.nodes; ++i) pairs_before_[i] = nodes_[i]->pairs();
  Buffer y;
  const double begin = WallSeconds();
  const uint64_t id = fabric_->Submit({.rows = options_.rows, .x = std::move(x)});
  ATL_RETURN_IF_ERROR(fabric_->Wait(id, &y));
  const double seconds = WallSeconds() - begin;
  DispatchCost cost = Totals();
  cost.us = seconds * 1e6;
  cost.gate_us -= before.gate_us;
  cost.combine_us -= before.combine_us;
  cost.to_router -= before.to_router;
  cost.from_router -= before.from_router;
  cost.to_experts -= before.to_experts;
  cost.from_experts -= before.from_experts;
  for (int i = 0; i < options_.nodes; ++i)
    cost.most_pairs = std::max(cost.most_pairs, nodes_[i]->pairs() - pairs_before_[i]);
  return cost;
}

}  // namespace atl::bench
