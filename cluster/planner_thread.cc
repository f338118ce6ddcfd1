#include "cluster/planner_thread.h"

#include <pthread.h>

#include <algorithm>
#include <utility>

#include "base/log.h"
#include "cluster/uptime.h"

namespace atl::cluster {
namespace {

constexpr absl::Duration kTick = absl::Milliseconds(50);
constexpr absl::Duration kTermGap =
    absl::Seconds(1);  // two planners must not outbid each other at full speed

NodeList ExpertsOf(const NodeList& nodes) {
  NodeList experts;
  for (const auto& node : nodes) {
    if (node->info().role() == pb::NODE_ROLE_EXPERT) experts.push_back(node);
  }
  return experts;
}

// Whatever makes a new plan necessary.
std::string Members(const NodeList& experts) {
  std::string members;
  for (const auto& node : experts) {
    members += absl::StrFormat("%s/%x/%d/%d/%s\n", node->info().name(), node->info().incarnation(),
                               node->state().draining(), node->info().memory_budget_bytes(),
                               node->info().zone());
    for (const LayerExpert id : FromProto(node->state().unreadable()))
      members += absl::StrFormat("cannot read %d/%d\n", id.layer, id.expert);
  }
  return members;
}

}  // namespace

PlannerThread::PlannerThread(ClusterState* state, PlannerOptions options, SendCommand send,
                             std::function<void()> on_term)
    : state_(state),
      options_(std::move(options)),
      send_(std::move(send)),
      on_term_(std::move(on_term)),
      started_(Uptime()) {
  thread_ = std::thread([this] { Run(); });
}

PlannerThread::~PlannerThread() {
  {
    absl::MutexLock lock(&mu_);
    stop_ = true;
  }
  thread_.join();
}

uint64_t PlannerThread::term() const {
  absl::MutexLock lock(&mu_);
  return term_;
}

void PlannerThread::Run() {
  pthread_setname_np(pthread_self(), "planner");
  for (;;) {
    {
      absl::MutexLock lock(&mu_);
      if (mu_.AwaitWithTimeout(absl::Condition(&stop_), kTick)) return;
    }
    Step();
  }
}

void PlannerThread::Step() {
  const std::shared_ptr<const ClusterSnapshot> snapshot = state_->snapshot();
  const NodeList experts = ExpertsOf(snapshot->nodes);
  std::string members = Members(experts);
  if (members != members_) {
    members_ = std::move(members);
    changed_at_ = Uptime();
    if (!first_change_) first_change_ = Uptime();
  }
  if (PlannerOf(snapshot->nodes) != options_.router) {
    if (std::exchange(planning_, false)) LogInfo("another router plans now");
    targets_.reset();
    sent_.clear();
    changed_at_ = first_change_ = Uptime();  // should it be this one's turn again
    return;
  }
  if (experts.empty() || (!planning_ && !PlanIsDue()) || !TakeTerm(snapshot->nodes)) return;
  if (PlanIsDue()) Plan(experts);
  if (targets_ && (!all_done_ || experts != experts_)) Command(experts);
}

bool PlannerThread::PlanIsDue() const {
  if (!changed_at_) return false;
  return Uptime() - *changed_at_ >= options_.settle ||
         Uptime() - *first_change_ >= 10 * options_.settle;
}

bool PlannerThread::TakeTerm(const NodeList& nodes) {
  uint64_t highest = 0;
  for (const auto& node : nodes) highest = std::max<uint64_t>(highest, node->state().term());
  if (!planning_ && highest > 0 && Uptime() - started_ < options_.restart_wait) return false;
  {
    absl::MutexLock lock(&mu_);
    const bool outbid = highest > term_ && Uptime() - term_taken_ >= kTermGap;
    if (planning_ && !outbid) return true;
    term_ = std::max(highest, term_) + 1;
  }
  planning_ = true;
  all_done_ = false;  // every command is said again, with the new term
  term_taken_ = Uptime();
  LogInfo("planning, term %d", term());
  on_term_();
  return true;
}

void PlannerThread::Plan(const NodeList& experts) {
  changed_at_.reset();
  first_change_.reset();
  StatusOr<Targets> targets = PlanTargets(MakeInput(experts));
  if (!targets.ok()) {
    targets_.reset();
    if (last_error_ != targets.status().message())
      LogWarning("no plan: %s", targets.status().ToString());
    last_error_ = std::string(targets.status().message());
    return;
  }
  last_error_.clear();
  targets_ = *std::move(targets);
  all_done_ = false;
  LogInfo("plan for %d expert nodes: %d experts to load, %d replicas, shared experts %s",
          experts.size(), targets_->loads, targets_->replicas,
          targets_->shared_everywhere ? "everywhere" : "spread");
}

PlanInput PlannerThread::MakeInput(const NodeList& experts) const {
  PlanInput input{.model = options_.model, .min_replicas = options_.min_replicas};
  for (const auto& node : experts) {
    input.model.routed_bytes = static_cast<int64_t>(node->info().routed_expert_bytes());
    input.model.shared_bytes = static_cast<int64_t>(node->info().shared_expert_bytes());
    input.nodes.push_back({.name = node->info().name(),
                           .zone = node->info().zone(),
                           .budget_bytes = static_cast<int64_t>(node->info().memory_budget_bytes()),
                           .draining = node->state().draining(),
                           .holds = FromProto(node->state().holds()),
                           .unreadable = FromProto(node->state().unreadable())});
  }
  return input;
}

void PlannerThread::Command(const NodeList& experts) {
  const std::vector<PlanNode> nodes = MakeInput(experts).nodes;
  const auto may_unload = MayUnload(nodes, *targets_);
  all_done_ = true;
  experts_ = experts;
  for (size_t i = 0; i < nodes.size(); ++i) {
    const auto target = targets_->of_node.find(nodes[i].name);
    if (target == targets_->of_node.end()) continue;  // it came after the plan
    const std::vector<LayerExpert>& give_up = may_unload.at(nodes[i].name);
    pb::ExpertCommand command;
    command.set_term(term());
    command.set_planner(options_.router);
    *command.mutable_target() = ToProto(target->second);
    *command.mutable_may_unload() = ToProto(give_up);
    const bool done =
        give_up.empty() && std::includes(nodes[i].holds.begin(), nodes[i].holds.end(),
                                         target->second.begin(), target->second.end());
    all_done_ = all_done_ && done;
    MaybeSend(experts[i]->info(), done, command);
  }
}

void PlannerThread::MaybeSend(const pb::NodeInfo& to, bool done, const pb::ExpertCommand& command) {
  Sent& sent = sent_[to.name()];
  std::string bytes = command.SerializeAsString();
  const bool same = sent.incarnation == to.incarnation() && sent.bytes == bytes;
  if (same && (done || Uptime() - sent.at < options_.repeat)) return;
  sent = {to.incarnation(), std::move(bytes), Uptime()};
  send_(to.name(), command);
}

}  // namespace atl::cluster
