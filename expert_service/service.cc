#include "expert_service/service.h"

#include <utility>
#include <vector>

#include "cluster/announcements.h"
#include "expert_service/forward_job.h"
#include "rpc/status.h"

namespace atl::expert {
namespace {

constexpr int kMaxForwards = 64;

std::vector<ExpertKey> Keys(const cluster::LayerExpertsProto& layers) {
  std::vector<ExpertKey> keys;
  for (const cluster::LayerExpert id : cluster::FromProto(layers))
    keys.push_back({id.layer, id.expert});
  return keys;
}

}  // namespace

grpc::ServerUnaryReactor* ExpertServiceAdapter::Describe(grpc::CallbackServerContext* context,
                                                         const pb::DescribeRequest*,
                                                         pb::DescribeResponse* response) {
  response->set_name(parts_.name);
  response->set_revision(parts_.revision);
  response->set_numerics_id(parts_.numerics_id);
  response->set_hidden_size(parts_.config.hidden_size);
  response->set_memory_budget_bytes(parts_.store->budget_bytes());
  response->set_memory_held_bytes(parts_.store->bytes_held());
  response->set_term(parts_.loader->term());
  for (const auto& [key, expert] : parts_.store->List()) {
    pb::HeldExpertInfo* info = response->add_experts();
    info->set_layer(key.layer);
    info->set_expert(key.expert);
    info->set_bytes(expert->bytes);
    info->set_rows(expert->rows);
    info->set_busy_s(static_cast<double>(expert->time_ns) * 1e-9);
  }
  auto* reactor = context->DefaultReactor();
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

grpc::ServerUnaryReactor* ExpertServiceAdapter::Load(grpc::CallbackServerContext* context,
                                                     const pb::LoadRequest* request,
                                                     pb::LoadResponse* response) {
  auto* reactor = context->DefaultReactor();
  parts_.loader->Load(request->term(), Keys(request->experts()),
                      [this, reactor, response](const Status& status) {
                        response->set_memory_held_bytes(parts_.store->bytes_held());
                        reactor->Finish(rpc::ToGrpc(status));
                      });
  return reactor;
}

grpc::ServerUnaryReactor* ExpertServiceAdapter::Unload(grpc::CallbackServerContext* context,
                                                       const pb::UnloadRequest* request,
                                                       pb::UnloadResponse* response) {
  auto* reactor = context->DefaultReactor();
  parts_.loader->Unload(request->term(), Keys(request->experts()),
                        [this, reactor, response](const Status& status) {
                          response->set_memory_held_bytes(parts_.store->bytes_held());
                          reactor->Finish(rpc::ToGrpc(status));
                        });
  return reactor;
}

grpc::ServerUnaryReactor* ExpertServiceAdapter::Forward(grpc::CallbackServerContext* context,
                                                        const pb::ForwardRequest* request,
                                                        pb::ForwardResponse* response) {
  auto* reactor = context->DefaultReactor();
  StatusOr<ForwardJob> made = ForwardJob::Make(*request, parts_.config, parts_.profile);
  if (!made.ok()) {
    reactor->Finish(rpc::ToGrpc(made.status()));
    return reactor;
  }
  if (forwards_.fetch_add(1) >= kMaxForwards) {
    --forwards_;
    reactor->Finish(rpc::ToGrpc(ResourceExhausted("%d calls wait already", kMaxForwards)));
    return reactor;
  }
  auto job = std::make_shared<const ForwardJob>(*std::move(made));
  parts_.loop->loop()->Post([this, context, reactor, response, job] {
    --forwards_;
    if (context->IsCancelled())
      return reactor->Finish(grpc::Status::CANCELLED);  // or its deadline is over
    StatusOr<std::string> out = job->Run(parts_.engine);
    if (out.ok()) response->set_out(*std::move(out));
    reactor->Finish(rpc::ToGrpc(out.status()));
  });
  return reactor;
}

}  // namespace atl::expert
