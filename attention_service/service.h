// gRPC adapter of an engine: AttentionService. No logic.
#pragma once

#include "atollpb/v1/attention.grpc.pb.h"
#include "attention_service/engine.h"

namespace atl::attention {

class AttentionServiceImpl : public atollpb::v1::AttentionService::CallbackService {
 public:
  // `engine` must outlive the server that runs this.
  explicit AttentionServiceImpl(Engine* engine) : engine_(engine) {}

  grpc::ServerBidiReactor<atollpb::v1::RunRequest, atollpb::v1::RunResponse>* Run(
      grpc::CallbackServerContext* context) override;

  grpc::ServerUnaryReactor* GetAttentionStats(
      grpc::CallbackServerContext* context, const atollpb::v1::GetAttentionStatsRequest* request,
      atollpb::v1::GetAttentionStatsResponse* response) override;

 private:
  Engine* const engine_;
};

}  // namespace atl::attention
