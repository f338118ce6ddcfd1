#include "cli/work_report.h"

#include "absl/strings/str_format.h"
#include "atollpb/v1/attention.grpc.pb.h"
#include "atollpb/v1/cluster.grpc.pb.h"
#include "atollpb/v1/expert.grpc.pb.h"
#include "atollpb/v1/router.grpc.pb.h"
#include "rpc/channel.h"

namespace atl::cli {
namespace {

namespace pb = atollpb::v1;

constexpr absl::Duration kTimeout = absl::Seconds(2);

void AskAttention(const std::shared_ptr<grpc::Channel>& channel, const std::string& name,
                  WorkSnapshot* snapshot) {
  grpc::ClientContext context;
  rpc::SetDeadline(&context, kTimeout);
  pb::GetAttentionStatsResponse stats;
  if (!pb::AttentionService::NewStub(channel)->GetAttentionStats(&context, {}, &stats).ok()) return;
  snapshot->attention[name] = {stats.prefill_tokens(), stats.cached_tokens(),
                               stats.decode_tokens()};
}

void AskRouter(const std::shared_ptr<grpc::Channel>& channel, const std::string& name,
               WorkSnapshot* snapshot) {
  grpc::ClientContext context;
  rpc::SetDeadline(&context, kTimeout);
  pb::GetDispatchStatsResponse stats;
  if (!pb::RouterService::NewStub(channel)->GetDispatchStats(&context, {}, &stats).ok()) return;
  snapshot->dispatch_calls[name] = stats.calls();
}

void AskExpert(const std::shared_ptr<grpc::Channel>& channel, const std::string& name,
               WorkSnapshot* snapshot) {
  grpc::ClientContext context;
  rpc::SetDeadline(&context, kTimeout);
  pb::DescribeResponse description;
  if (!pb::ExpertService::NewStub(channel)->Describe(&context, {}, &description).ok()) return;
  uint64_t rows = 0;
  for (const auto& expert : description.experts()) rows += expert.rows();
  snapshot->expert_rows[name] = rows;
}

// What `after` has more than `before`; counters of a restarted process begin again.
uint64_t Since(uint64_t before, uint64_t after) { return before > after ? after : after - before; }

template <typename Map>
uint64_t Growth(const Map& before, const std::string& name, uint64_t after) {
  const auto found = before.find(name);
  return found == before.end() ? after : Since(found->second, after);
}

void Append(std::string* list, const std::string& item) {
  *list += (list->empty() ? "" : ", ") + item;
}

}  // namespace

WorkSnapshot TakeWorkSnapshot(const std::shared_ptr<grpc::Channel>& router) {
  WorkSnapshot snapshot;
  grpc::ClientContext context;
  rpc::SetDeadline(&context, kTimeout);
  pb::GetSnapshotResponse cluster;
  if (!pb::ClusterService::NewStub(router)->GetSnapshot(&context, {}, &cluster).ok())
    return snapshot;
  snapshot.front_door = cluster.view().router();
  for (const pb::Announcement& node : cluster.view().nodes()) {
    const auto channel = rpc::MakeChannel(node.info().grpc_address());
    const std::string& name = node.info().name();
    if (node.info().role() == pb::NODE_ROLE_ATTENTION) AskAttention(channel, name, &snapshot);
    if (node.info().role() == pb::NODE_ROLE_ROUTER) AskRouter(channel, name, &snapshot);
    if (node.info().role() == pb::NODE_ROLE_EXPERT) AskExpert(channel, name, &snapshot);
  }
  return snapshot;
}

std::string DescribeWork(const WorkSnapshot& before, const WorkSnapshot& after) {
  if (after.front_door.empty()) return "one process computed everything";
  std::string attention, routers, experts;
  for (const auto& [name, work] : after.attention) {
    const auto found = before.attention.find(name);
    const WorkSnapshot::AttentionWork old =
        found == before.attention.end() ? WorkSnapshot::AttentionWork() : found->second;
    const uint64_t prefill = Since(old.prefill_tokens, work.prefill_tokens);
    const uint64_t decode = Since(old.decode_tokens, work.decode_tokens);
    if (prefill + decode == 0) continue;
    Append(&attention, absl::StrFormat("%s %d prompt and %d answer tokens", name, prefill, decode));
  }
  for (const auto& [name, calls] : after.dispatch_calls) {
    const uint64_t growth = Growth(before.dispatch_calls, name, calls);
    if (growth > 0) Append(&routers, absl::StrFormat("%s %d times", name, growth));
  }
  for (const auto& [name, rows] : after.expert_rows) {
    Append(&experts, absl::StrFormat("%s %d", name, Growth(before.expert_rows, name, rows)));
  }
  std::string line =
      after.front_door + " answered; attention: " + (attention.empty() ? "none" : attention);
  if (!routers.empty()) line += "; dispatched by " + routers;
  return line + "; rows at the experts: " + experts;
}

std::string DescribeSpeed(const pb::GenerateResponse& answer) {
  const pb::Timings& timings = answer.timings();
  const std::string speed = timings.tpot_s() > 0
                                ? absl::StrFormat(", %.1f tokens/s", 1 / timings.tpot_s())
                                : std::string();
  return absl::StrFormat("%d tokens%s, first after %.3f s", answer.usage().generated_tokens(),
                         speed, timings.ttft_s());
}

}  // namespace atl::cli
