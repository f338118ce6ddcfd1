#include "router_service/front_door/prompt.h"

#include <algorithm>

namespace atl::front_door {
namespace {

namespace pb = atollpb::v1;

// No token adds more bytes than the longest one has. So text beyond this cannot fit, and is refused
// before time is spent on it.
int64_t MaxPromptBytes(const text::Tokenizer& tokenizer, int64_t context_length) {
  size_t longest = 1;
  for (uint32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    longest = std::max(longest, tokenizer.TokenBytes(id, /*skip_special=*/false).size());
  }
  return static_cast<int64_t>(longest) * context_length;
}

}  // namespace

ModelLimits LimitsOf(const ServedModel& model, int64_t context_length) {
  const model::ModelConfig& config = model.checkpoint->config();
  ModelLimits limits;
  limits.name = model.checkpoint->name();
  limits.vocab_size = config.vocab_size;
  limits.context_length = config.max_position_embeddings;
  if (context_length > 0) limits.context_length = std::min(limits.context_length, context_length);
  limits.has_tokenizer = model.tokenizer != nullptr;
  limits.has_chat_template = model.chat_template != nullptr;
  limits.chat_template_error = model.chat_template_error;
  if (model.tokenizer != nullptr)
    limits.max_prompt_bytes = MaxPromptBytes(*model.tokenizer, limits.context_length);
  return limits;
}

RequestError RenderMessages(const ServedModel& model, const std::string& field,
                            const pb::Messages& messages, std::vector<uint32_t>* ids) {
  std::vector<text::ChatMessage> turns;
  for (const pb::Message& message : messages.messages())
    turns.push_back({message.role(), message.content()});
  const StatusOr<std::string> rendered = model.chat_template->Render(
      turns, model.tokenizer->bos_token(), model.tokenizer->eos_token());
  if (absl::IsInvalidArgument(rendered.status())) {
    return RequestError::BadField(
        field, "the chat template refuses it: " + std::string(rendered.status().message()));
  }
  if (!rendered.ok()) return RequestError::Of(Annotate(rendered.status(), "chat template"));
  *ids = model.tokenizer->Encode(*rendered, /*add_special_tokens=*/false);
  return {};
}

RequestError PromptIds(const ServedModel& model, const ModelLimits& limits,
                       const pb::GenerateRequest& request, std::vector<uint32_t>* ids) {
  std::string field = "token_ids.ids";
  if (request.has_text()) {
    field = "text";
    *ids = model.tokenizer->Encode(request.text(), /*add_special_tokens=*/true);
  } else if (request.has_messages()) {
    field = "messages";
    if (RequestError error = RenderMessages(model, field, request.messages(), ids); !error.ok())
      return error;
  } else {
    ids->assign(request.token_ids().ids().begin(), request.token_ids().ids().end());
  }
  return CheckLength(field, static_cast<int64_t>(ids->size()), request.resume_from().ids_size(),
                     limits);
}

}  // namespace atl::front_door
