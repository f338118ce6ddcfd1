// Token ids of a prompt: text by the tokenizer, messages by the chat template first.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "atollpb/v1/inference.pb.h"
#include "router_service/front_door/front_door.h"
#include "router_service/front_door/request_error.h"
#include "router_service/front_door/validate.h"

namespace atl::front_door {

// context_length 0: the model's.
ModelLimits LimitsOf(const ServedModel& model, int64_t context_length);

// INVALID_ARGUMENT on `field` if the template refuses the conversation. REQUIRES: tokenizer and
// template.
RequestError RenderMessages(const ServedModel& model, const std::string& field,
                            const atollpb::v1::Messages& messages, std::vector<uint32_t>* ids);

// The prompt of a request that ValidateRequest has passed, checked for length too.
RequestError PromptIds(const ServedModel& model, const ModelLimits& limits,
                       const atollpb::v1::GenerateRequest& request, std::vector<uint32_t>* ids);

}  // namespace atl::front_door
