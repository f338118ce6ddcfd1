#include "router_service/front_door/model_service.h"

namespace atl::front_door {
namespace {

namespace pb = atollpb::v1;

grpc::ServerUnaryReactor* Answer(grpc::CallbackServerContext* call, const RequestError& error) {
  grpc::ServerUnaryReactor* reactor = call->DefaultReactor();
  reactor->Finish(ToGrpc(error));
  return reactor;
}

}  // namespace

pb::GetModelResponse DescribeModel(const ServedModel& model, const ModelLimits& limits) {
  const model::ModelConfig& config = model.checkpoint->config();
  pb::GetModelResponse out;
  out.set_name(model.checkpoint->name());
  out.set_revision(model.checkpoint->revision());
  out.set_architecture(config.architecture);
  out.set_vocab_size(static_cast<uint32_t>(config.vocab_size));
  out.set_context_length(static_cast<uint32_t>(limits.context_length));
  out.set_total_params(model.checkpoint->total_params());
  out.set_active_params(model.checkpoint->active_params());
  out.set_cache_bytes_per_token(
      config.num_hidden_layers *
      model::LatentBytes(model.profile, config.kv_lora_rank, config.qk_rope_head_dim));
  out.set_numeric_profile(model.profile.name);
  return out;
}

RequestError Tokenize(const ServedModel& model, const ModelLimits& limits,
                      const pb::TokenizeRequest& request, pb::TokenizeResponse* response) {
  std::vector<rpc::FieldViolation> violations;
  if (request.has_text()) {
    CheckText("text", request.text(), limits, &violations);
  } else if (request.has_messages()) {
    CheckMessages("messages", request.messages(), limits, &violations);
  } else {
    violations.push_back({"input", "expected text or messages, found neither"});
  }
  if (!violations.empty()) return RequestError::BadFields(std::move(violations));
  if (const Status status = NeedTokenizer(limits, "Tokenize"); !status.ok())
    return RequestError::Of(status);
  std::vector<uint32_t> ids;
  if (request.has_text()) {
    ids = model.tokenizer->Encode(request.text(), request.add_special_tokens());
  } else {
    if (const Status status = NeedChatTemplate(limits); !status.ok())
      return RequestError::Of(status);
    if (RequestError error = RenderMessages(model, "messages", request.messages(), &ids);
        !error.ok())
      return error;
  }
  response->mutable_token_ids()->Add(ids.begin(), ids.end());
  return {};
}

RequestError Detokenize(const ServedModel& model, const ModelLimits& limits,
                        const pb::DetokenizeRequest& request, pb::DetokenizeResponse* response) {
  std::vector<rpc::FieldViolation> violations;
  CheckIds("token_ids", request.token_ids(), limits, &violations);
  if (!violations.empty()) return RequestError::BadFields(std::move(violations));
  if (const Status status = NeedTokenizer(limits, "Detokenize"); !status.ok())
    return RequestError::Of(status);
  const std::vector<uint32_t> ids(request.token_ids().begin(), request.token_ids().end());
  response->set_text(model.tokenizer->Decode(ids, request.skip_special_tokens()));
  return {};
}

grpc::ServerUnaryReactor* ModelService::GetModel(grpc::CallbackServerContext* call,
                                                 const pb::GetModelRequest*,
                                                 pb::GetModelResponse* response) {
  *response = DescribeModel(*model_, limits_);
  return Answer(call, {});
}

grpc::ServerUnaryReactor* ModelService::Tokenize(grpc::CallbackServerContext* call,
                                                 const pb::TokenizeRequest* request,
                                                 pb::TokenizeResponse* response) {
  return Answer(call, front_door::Tokenize(*model_, limits_, *request, response));
}

grpc::ServerUnaryReactor* ModelService::Detokenize(grpc::CallbackServerContext* call,
                                                   const pb::DetokenizeRequest* request,
                                                   pb::DetokenizeResponse* response) {
  return Answer(call, front_door::Detokenize(*model_, limits_, *request, response));
}

}  // namespace atl::front_door
