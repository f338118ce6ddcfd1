// ModelService over gRPC: what is served, and its tokenizer.
#pragma once

#include "atollpb/v1/inference.grpc.pb.h"
#include "router_service/front_door/prompt.h"

namespace atl::front_door {

// The answers, without gRPC.
atollpb::v1::GetModelResponse DescribeModel(const ServedModel& model, const ModelLimits& limits);
RequestError Tokenize(const ServedModel& model, const ModelLimits& limits,
                      const atollpb::v1::TokenizeRequest& request,
                      atollpb::v1::TokenizeResponse* response);
RequestError Detokenize(const ServedModel& model, const ModelLimits& limits,
                        const atollpb::v1::DetokenizeRequest& request,
                        atollpb::v1::DetokenizeResponse* response);

class ModelService : public atollpb::v1::ModelService::CallbackService {
 public:
  ModelService(const ServedModel* model, const ModelLimits& limits)
      : model_(model), limits_(limits) {}

  grpc::ServerUnaryReactor* GetModel(grpc::CallbackServerContext* call,
                                     const atollpb::v1::GetModelRequest* request,
                                     atollpb::v1::GetModelResponse* response) override;
  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* call,
                                     const atollpb::v1::TokenizeRequest* request,
                                     atollpb::v1::TokenizeResponse* response) override;
  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* call,
                                       const atollpb::v1::DetokenizeRequest* request,
                                       atollpb::v1::DetokenizeResponse* response) override;

 private:
  const ServedModel* const model_;
  const ModelLimits limits_;
};

}  // namespace atl::front_door
