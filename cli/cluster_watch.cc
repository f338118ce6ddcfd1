#include "cli/cluster_watch.h"

#include <pthread.h>

#include <set>

#include "absl/strings/str_format.h"
#include "rpc/channel.h"

namespace atl::cli {
namespace {

using atollpb::v1::Announcement;
using atollpb::v1::GetSnapshotResponse;

constexpr absl::Duration kPeriod = absl::Milliseconds(200);
constexpr absl::Duration kCallTimeout = absl::Seconds(1);

// Empty: this router serves and sees everybody.
std::string WhyNotComplete(const GetSnapshotResponse& answer,
                           const std::vector<std::string>& expected_nodes) {
  std::set<std::string> missing(expected_nodes.begin(), expected_nodes.end());
  bool ready = false;
  for (const Announcement& node : answer.view().nodes()) {
    missing.erase(node.info().name());
    if (node.info().name() == answer.view().router()) ready = node.state().ready();
  }
  if (!missing.empty()) return *missing.begin() + " has not joined";
  if (answer.missing_experts() > 0)
    return absl::StrFormat("%d experts are being loaded", answer.missing_experts());
  return ready ? "" : "not ready yet";
}

ClusterState::Holds HoldsOf(const Announcement& node) {
  ClusterState::Holds holds;
  for (const auto& layer : node.state().holds()) holds.experts += layer.experts_size();
  holds.sequences = int64_t{node.state().running_sequences()} + node.state().waiting_sequences();
  return holds;
}

}  // namespace

ClusterState SummarizeCluster(const std::vector<std::string>& routers,
                              const std::vector<const GetSnapshotResponse*>& answers,
                              const std::vector<std::string>& expected_nodes) {
  ClusterState state;
  bool have_holds = false;
  for (size_t i = 0; i < routers.size(); ++i) {
    const std::string why =
        answers[i] == nullptr ? "does not answer" : WhyNotComplete(*answers[i], expected_nodes);
    if (!why.empty() && state.waiting_for.empty())
      state.waiting_for = "router " + routers[i] + ": " + why;
    if (answers[i] == nullptr || have_holds) continue;
    have_holds = true;
    for (const Announcement& node : answers[i]->view().nodes())
      state.holds[node.info().name()] = HoldsOf(node);
  }
  state.complete = state.waiting_for.empty();
  return state;
}

ClusterWatch::ClusterWatch(const std::vector<std::string>& router_addresses,
                           const std::vector<std::string>& expected_nodes)
    : routers_(router_addresses), expected_nodes_(expected_nodes) {
  for (const std::string& address : routers_) {
    stubs_.push_back(atollpb::v1::ClusterService::NewStub(rpc::MakeChannel(address)));
  }
  state_.waiting_for = "no router has been asked yet";
  thread_ = std::thread([this] { Loop(); });
  pthread_setname_np(thread_.native_handle(), "cluster-watch");
}

ClusterWatch::~ClusterWatch() {
  {
    absl::MutexLock lock(&mu_);
    stop_ = true;
  }
  thread_.join();
}

ClusterState ClusterWatch::Latest() const {
  absl::MutexLock lock(&mu_);
  return state_;
}

void ClusterWatch::Loop() {
  while (true) {
    std::vector<GetSnapshotResponse> responses(stubs_.size());
    std::vector<const GetSnapshotResponse*> answers;
    for (size_t i = 0; i < stubs_.size(); ++i) {
      grpc::ClientContext context;
      rpc::SetDeadline(&context, kCallTimeout);
      const grpc::Status status = stubs_[i]->GetSnapshot(&context, {}, &responses[i]);
      answers.push_back(status.ok() ? &responses[i] : nullptr);
    }
    ClusterState state = SummarizeCluster(routers_, answers, expected_nodes_);
    absl::MutexLock lock(&mu_);
    state_ = std::move(state);
    if (mu_.AwaitWithTimeout(absl::Condition(&stop_), kPeriod)) return;
  }
}

}  // namespace atl::cli
