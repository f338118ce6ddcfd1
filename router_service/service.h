// RouterService over gRPC: what the dispatcher counts and the placement it works by.
#pragma once

#include <grpcpp/support/server_callback.h>

#include <functional>
#include <memory>

#include "atollpb/v1/router.grpc.pb.h"
#include "cluster/placement.h"
#include "router_service/dispatch/dispatcher.h"

namespace atl::router {

namespace pb = ::atollpb::v1;

// Thread-safe.
class RouterServiceAdapter final : public pb::RouterService::CallbackService {
 public:
  using GetPlacementFn = std::function<std::shared_ptr<const cluster::Placement>()>;

  // `dispatcher` outlives it; `placement` is called from any thread.
  RouterServiceAdapter(const dispatch::Dispatcher* dispatcher, GetPlacementFn placement)
      : dispatcher_(dispatcher), placement_(std::move(placement)) {}

  grpc::ServerUnaryReactor* GetDispatchStats(grpc::CallbackServerContext* context,
                                             const pb::GetDispatchStatsRequest* request,
                                             pb::GetDispatchStatsResponse* response) override;
  grpc::ServerUnaryReactor* GetPlacement(grpc::CallbackServerContext* context,
                                         const pb::GetPlacementRequest* request,
                                         pb::GetPlacementResponse* response) override;

 private:
  const dispatch::Dispatcher* const dispatcher_;
  const GetPlacementFn placement_;
};

}  // namespace atl::router
