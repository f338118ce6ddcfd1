// ExpertService over gRPC: turns messages into calls of store, loader and engine.
#pragma once

#include <grpcpp/support/server_callback.h>

#include <atomic>
#include <memory>
#include <string>

#include "atollpb/v1/expert.grpc.pb.h"
#include "cluster/loop_thread.h"
#include "expert_service/expert_engine.h"
#include "expert_service/expert_store.h"
#include "expert_service/loader.h"
#include "model/config.h"
#include "model/profile.h"

namespace atl::expert {

namespace pb = ::atollpb::v1;

// What the service works on; all outlives it. The loop runs until the server has stopped.
struct ServiceParts {
  std::string name;
  std::string revision;
  std::string numerics_id;
  model::ModelConfig config;
  model::NumericProfile profile;
  ExpertStore* store = nullptr;
  ExpertEngine* engine = nullptr;  // on `loop`
  cluster::LoopThread* loop = nullptr;
  Loader* loader = nullptr;
};

// Thread-safe. Forward runs on the loop, in turn with the data plane's work; 64 wait there at most
// (RESOURCE_EXHAUSTED).
class ExpertServiceAdapter final : public pb::ExpertService::CallbackService {
 public:
  explicit ExpertServiceAdapter(ServiceParts parts) : parts_(std::move(parts)) {}

  grpc::ServerUnaryReactor* Describe(grpc::CallbackServerContext* context,
                                     const pb::DescribeRequest* request,
                                     pb::DescribeResponse* response) override;
  grpc::ServerUnaryReactor* Load(grpc::CallbackServerContext* context,
                                 const pb::LoadRequest* request,
                                 pb::LoadResponse* response) override;
  grpc::ServerUnaryReactor* Unload(grpc::CallbackServerContext* context,
                                   const pb::UnloadRequest* request,
                                   pb::UnloadResponse* response) override;
  grpc::ServerUnaryReactor* Forward(grpc::CallbackServerContext* context,
                                    const pb::ForwardRequest* request,
                                    pb::ForwardResponse* response) override;

 private:
  const ServiceParts parts_;
  std::atomic<int> forwards_{0};
};

}  // namespace atl::expert
