// The three servers in one process, over real gRPC and links on loopback, serving a golden
// checkpoint.
#pragma once

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "atollpb/v1/cluster.grpc.pb.h"
#include "atollpb/v1/expert.grpc.pb.h"
#include "atollpb/v1/inference.grpc.pb.h"
#include "atollpb/v1/router.grpc.pb.h"
#include "attention_service/server.h"
#include "cluster/announcements.h"
#include "expert_service/server.h"
#include "router_service/server.h"
#include "rpc/channel.h"
#include "tests/support/eventually.h"
#include "tests/support/golden.h"

namespace atl {

namespace pb = ::atollpb::v1;

using testing::Eventually;

inline cluster::NodeOptions TestNodeOptions(const std::string& name,
                                            std::vector<std::string> join) {
  return {.name = name,
          .model_dir = testing::GoldenCheckpointDir("v2_lite"),
          .profile = "reference",
          .join = std::move(join),
          .threads = 1,
          .coverage_timeout = absl::Seconds(30),
          .drain_timeout = absl::Seconds(20)};
}

template <typename T>
T Started(StatusOr<T> server) {
  EXPECT_TRUE(server.ok()) << server.status();
  return server.ok() ? *std::move(server) : nullptr;
}

inline std::unique_ptr<router::RouterServer> StartRouter(int rank,
                                                         std::vector<std::string> join = {},
                                                         const std::string& listen = "127.0.0.1:0",
                                                         int min_replicas = 1) {
  router::RouterServerOptions options{
      .node = TestNodeOptions("router-" + std::to_string(rank), std::move(join)),
      .rank = rank,
      .min_replicas = min_replicas,
      .settle = absl::Milliseconds(100)};
  options.node.listen = listen;
  return Started(router::RouterServer::Start(options));
}

inline std::unique_ptr<expert::ExpertServer> StartExpert(int i, std::vector<std::string> join,
                                                         int64_t budget_bytes = 0) {
  return Started(expert::ExpertServer::Start(
      {.node = TestNodeOptions("expert-" + std::to_string(i), std::move(join)),
       .memory_budget_bytes = budget_bytes}));
}

inline std::unique_ptr<attention::AttentionServer> StartAttention(int i,
                                                                  std::vector<std::string> join) {
  return Started(attention::AttentionServer::Start(
      {.node = TestNodeOptions("attention-" + std::to_string(i), std::move(join)),
       .engine = {.cache_blocks = 64, .max_step_tokens = 64, .prefill_chunk = 64}}));
}

inline pb::GetSnapshotResponse Snapshot(const std::string& router) {
  auto stub = pb::ClusterService::NewStub(rpc::MakeChannel(router));
  grpc::ClientContext context;
  rpc::SetDeadline(&context, absl::Seconds(10));
  pb::GetSnapshotResponse response;
  const grpc::Status status = stub->GetSnapshot(&context, {}, &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
  return response;
}

inline bool Covered(const std::string& router) { return Snapshot(router).missing_experts() == 0; }

// Nothing more is to be loaded or given up: each of `experts` nodes holds its even share.
inline bool Balanced(const std::string& router, int experts) {
  const pb::GetSnapshotResponse snapshot = Snapshot(router);
  size_t least = SIZE_MAX, most = 0;
  int nodes = 0;
  for (const pb::Announcement& node : snapshot.view().nodes()) {
    if (node.info().role() != pb::NODE_ROLE_EXPERT) continue;
    const size_t holds = cluster::FromProto(node.state().holds()).size();
    least = std::min(least, holds);
    most = std::max(most, holds);
    ++nodes;
  }
  return snapshot.missing_experts() == 0 && nodes == experts && most - least <= 1;
}

// "SERVING", "NOT_SERVING", or what went wrong.
std::string Health(const std::string& address, const std::string& service);

struct Answer {
  grpc::Status status;
  std::vector<uint32_t> ids;
};

// Greedy tokens after `prompt`.
inline Answer Generate(const std::string& router, const std::vector<uint32_t>& prompt,
                       uint32_t max_tokens) {
  auto stub = pb::InferenceService::NewStub(rpc::MakeChannel(router));
  grpc::ClientContext context;
  rpc::SetDeadline(&context, absl::Seconds(120));
  pb::GenerateRequest request;
  for (const uint32_t id : prompt) request.mutable_token_ids()->add_ids(id);
  request.mutable_sampling()->set_temperature(0);
  request.set_max_tokens(max_tokens);
  request.set_ignore_eos(true);
  auto stream = stub->GenerateStream(&context, request);
  Answer answer;
  pb::GenerateStreamResponse response;
  while (stream->Read(&response)) {
    answer.ids.insert(answer.ids.end(), response.token_ids().begin(), response.token_ids().end());
  }
  answer.status = stream->Finish();
  return answer;
}

// A prompt of the golden file and the first tokens that must follow it.
struct GoldenPrompt {
  std::vector<uint32_t> prompt, greedy;
};
inline GoldenPrompt LoadGoldenPrompt(const std::string& name, size_t tokens) {
  const auto golden = testing::LoadGolden("v2_lite");
  EXPECT_TRUE(golden.ok()) << golden.status();
  GoldenPrompt result;
  for (const int64_t id : golden->I64(name + ".input_ids")) result.prompt.push_back(id);
  for (const int64_t id : golden->I64(name + ".greedy_ids")) result.greedy.push_back(id);
  result.greedy.resize(tokens);
  return result;
}

}  // namespace atl
