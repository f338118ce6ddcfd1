// InferenceService over gRPC: adapters between calls and sessions, with no rule of their own.
#pragma once

#include <memory>

#include "atollpb/v1/inference.grpc.pb.h"
#include "router_service/front_door/prompt.h"
#include "router_service/front_door/resolve.h"
#include "router_service/front_door/sessions.h"

namespace atl::front_door {

// What both calls share.
struct InferenceContext {
  const ServedModel* model;
  ModelLimits limits;
  ResolveContext resolve;
  Sessions* sessions;
  Scheduler* scheduler;
};

// A slow client holds up nobody: what it has not read waits in memory (bounded by its max_tokens),
// put together into larger deltas. Headers go out with the first delta, so that a client may retry
// what fails before.
class InferenceService : public atollpb::v1::InferenceService::CallbackService {
 public:
  explicit InferenceService(const InferenceContext* context) : context_(context) {}

  grpc::ServerUnaryReactor* Generate(grpc::CallbackServerContext* call,
                                     const atollpb::v1::GenerateRequest* request,
                                     atollpb::v1::GenerateResponse* response) override;
  grpc::ServerWriteReactor<atollpb::v1::GenerateStreamResponse>* GenerateStream(
      grpc::CallbackServerContext* call, const atollpb::v1::GenerateRequest* request) override;

 private:
  const InferenceContext* const context_;
};

}  // namespace atl::front_door
