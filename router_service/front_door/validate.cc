#include "router_service/front_door/validate.h"

#include <cmath>
#include <optional>

#include "text/utf8.h"

namespace atl::front_door {
namespace {

namespace pb = atollpb::v1;
using Violations = std::vector<rpc::FieldViolation>;

std::string Number(float value) { return absl::StrFormat("%g", value); }

struct Range {
  float low;
  float high;
  bool low_excluded = false;
  const char* words;
};

void CheckNumber(const char* field, bool present, float value, const Range& range,
                 Violations* violations) {
  if (!present) return;
  const bool above = range.low_excluded ? value > range.low : value >= range.low;
  if (std::isfinite(value) && above && value <= range.high) return;
  violations->push_back(
      {field, absl::StrFormat("expected %s, found %s", range.words, Number(value))});
}

void CheckSampling(const pb::SamplingParams& s, const ModelLimits& limits, Violations* violations) {
  constexpr float kMax = std::numeric_limits<float>::max();
  CheckNumber("sampling.temperature", s.has_temperature(), s.temperature(),
              {.low = 0, .high = kMax, .words = "a finite number >= 0"}, violations);
  CheckNumber("sampling.top_p", s.has_top_p(), s.top_p(),
              {.low = 0, .high = 1, .low_excluded = true, .words = "a number in (0, 1]"},
              violations);
  CheckNumber("sampling.min_p", s.has_min_p(), s.min_p(),
              {.low = 0, .high = 1, .words = "a number in [0, 1]"}, violations);
  CheckNumber("sampling.repetition_penalty", s.has_repetition_penalty(), s.repetition_penalty(),
              {.low = 0, .high = kMax, .low_excluded = true, .words = "a finite number > 0"},
              violations);
  CheckNumber("sampling.presence_penalty", s.has_presence_penalty(), s.presence_penalty(),
              {.low = -2, .high = 2, .words = "a number in [-2, 2]"}, violations);
  CheckNumber("sampling.frequency_penalty", s.has_frequency_penalty(), s.frequency_penalty(),
              {.low = -2, .high = 2, .words = "a number in [-2, 2]"}, violations);
  // A map's order is not the sender's: the lowest bad id is named, so that the answer is the same
  // each time.
  std::optional<uint32_t> bad;
  for (const auto& [id, bias] : s.logit_bias()) {
    if (static_cast<int64_t>(id) < limits.vocab_size && std::isfinite(bias)) continue;
    if (!bad.has_value() || id < *bad) bad = id;
  }
  if (!bad.has_value()) return;
  const std::string field = absl::StrFormat("sampling.logit_bias[%d]", *bad);
  if (static_cast<int64_t>(*bad) >= limits.vocab_size) {
    violations->push_back(
        {field, absl::StrFormat("expected an id below the vocabulary's size %d, found %d",
                                limits.vocab_size, *bad)});
  } else {
    violations->push_back(
        {field, "expected a finite number, found " + Number(s.logit_bias().at(*bad))});
  }
}

void CheckLogprobs(const char* field, bool present, uint32_t value, Violations* violations) {
  if (!present || value <= kMaxLogprobs) return;
  violations->push_back(
      {field, absl::StrFormat("expected 0 to %d, found %d", kMaxLogprobs, value)});
}

void CheckStop(const pb::GenerateRequest& request, Violations* violations) {
  if (request.stop_size() > kMaxStopStrings) {
    violations->push_back({"stop", absl::StrFormat("expected at most %d strings, found %d",
                                                   kMaxStopStrings, request.stop_size())});
    return;
  }
  for (int i = 0; i < request.stop_size(); ++i) {
    const std::string& stop = request.stop(i);
    const std::string field = absl::StrFormat("stop[%d]", i);
    if (stop.empty()) {
      violations->push_back({field, "expected some text, found an empty string"});
    } else if (stop.size() > kMaxStopBytes) {
      violations->push_back({field, absl::StrFormat("expected at most %d bytes, found %d",
                                                    kMaxStopBytes, stop.size())});
    } else if (!text::IsWellFormed(stop)) {
      violations->push_back({field, "expected UTF-8, found " + Quoted(stop)});
    }
  }
}

void CheckRequestId(const std::string& id, Violations* violations) {
  if (id.size() > kMaxRequestIdBytes) {
    violations->push_back({"request_id", absl::StrFormat("expected at most %d bytes, found %d",
                                                         kMaxRequestIdBytes, id.size())});
    return;
  }
  for (const char c : id) {
    if (c >= 0x20 && c < 0x7f) continue;
    violations->push_back({"request_id", "expected printable ASCII, found " + Quoted(id)});
    return;
  }
}

void CheckPrompt(const pb::GenerateRequest& request, const ModelLimits& limits,
                 Violations* violations) {
  switch (request.prompt_case()) {
    case pb::GenerateRequest::kText:
      if (request.text().empty())
        violations->push_back({"text", "expected some text, found an empty prompt"});
      CheckText("text", request.text(), limits, violations);
      return;
    case pb::GenerateRequest::kTokenIds:
      if (request.token_ids().ids().empty()) {
        violations->push_back({"token_ids.ids", "expected at least one id, found an empty prompt"});
      }
      CheckIds("token_ids.ids", request.token_ids().ids(), limits, violations);
      return;
    case pb::GenerateRequest::kMessages:
      CheckMessages("messages", request.messages(), limits, violations);
      return;
    case pb::GenerateRequest::PROMPT_NOT_SET:
      violations->push_back(
          {"prompt", "expected text, token_ids or messages, found an empty prompt"});
  }
}

RequestError CheckPreconditions(const pb::GenerateRequest& request, const ModelLimits& limits) {
  Status status;
  if (request.has_text()) status = NeedTokenizer(limits, "text");
  if (request.has_messages()) status = NeedTokenizer(limits, "messages");
  if (status.ok() && request.has_messages()) status = NeedChatTemplate(limits);
  if (status.ok() && request.stop_size() > 0) status = NeedTokenizer(limits, "stop");
  if (status.ok() && request.has_bias_version() && request.bias_version() != kBiasVersion) {
    status = FailedPrecondition("bias_version: expected %d, the only version held here, found %d",
                                kBiasVersion, request.bias_version());
  }
  return RequestError::Of(status);
}

}  // namespace

void CheckText(const std::string& field, std::string_view text, const ModelLimits& limits,
               Violations* violations) {
  if (limits.max_prompt_bytes > 0 && static_cast<int64_t>(text.size()) > limits.max_prompt_bytes) {
    violations->push_back(
        {field, absl::StrFormat("expected at most %d bytes, more than which cannot fit the context "
                                "of %d tokens, found %d",
                                limits.max_prompt_bytes, limits.context_length, text.size())});
  } else if (!text::IsWellFormed(text)) {
    violations->push_back({field, "expected UTF-8, found " + Quoted(text)});
  }
}

void CheckMessages(const std::string& field, const pb::Messages& messages,
                   const ModelLimits& limits, Violations* violations) {
  const std::string list = field + ".messages";
  if (messages.messages().empty()) {
    violations->push_back({list, "expected at least one message, found an empty prompt"});
    return;
  }
  if (messages.messages().size() > static_cast<int>(kMaxMessages)) {
    violations->push_back({list, absl::StrFormat("expected at most %d messages, found %d",
                                                 kMaxMessages, messages.messages().size())});
    return;
  }
  int64_t bytes = 0;
  for (int i = 0; i < messages.messages().size(); ++i) {
    const pb::Message& message = messages.messages(i);
    bytes += static_cast<int64_t>(message.content().size());
    const std::string& role = message.role();
    if (role != "system" && role != "user" && role != "assistant" && role != "tool") {
      violations->push_back({absl::StrFormat("%s[%d].role", list, i),
                             "expected system, user, assistant or tool, found " + Quoted(role)});
      return;
    }
    const size_t before = violations->size();
    CheckText(absl::StrFormat("%s[%d].content", list, i), message.content(), limits, violations);
    if (violations->size() > before) return;
  }
  if (limits.max_prompt_bytes > 0 && bytes > limits.max_prompt_bytes) {
    violations->push_back({list, absl::StrFormat("expected at most %d bytes in all, found %d",
                                                 limits.max_prompt_bytes, bytes)});
  }
}

Status NeedTokenizer(const ModelLimits& limits, const std::string& what) {
  if (limits.has_tokenizer) return absl::OkStatus();
  return FailedPrecondition(
      "%s: the checkpoint %s has no tokenizer.json; only token_ids can be served", what,
      limits.name);
}

Status NeedChatTemplate(const ModelLimits& limits) {
  if (limits.has_chat_template) return absl::OkStatus();
  if (limits.chat_template_error.empty()) {
    return FailedPrecondition(
        "messages: tokenizer_config.json of the checkpoint %s has no chat_template", limits.name);
  }
  return FailedPrecondition("messages: the chat_template of the checkpoint %s cannot be used: %s",
                            limits.name, limits.chat_template_error);
}

RequestError ValidateRequest(const pb::GenerateRequest& request, const ModelLimits& limits) {
  if (!request.model().empty() && request.model() != limits.name) {
    return RequestError::Of(
        NotFound("model: expected '%s', found %s", limits.name, Quoted(request.model())));
  }
  Violations violations;
  CheckPrompt(request, limits, &violations);
  CheckSampling(request.sampling(), limits, &violations);
  CheckStop(request, &violations);
  CheckIds("stop_token_ids", request.stop_token_ids(), limits, &violations);
  CheckLogprobs("logprobs", request.has_logprobs(), request.logprobs(), &violations);
  CheckLogprobs("prompt_logprobs", request.has_prompt_logprobs(), request.prompt_logprobs(),
                &violations);
  CheckRequestId(request.request_id(), &violations);
  CheckIds("resume_from.ids", request.resume_from().ids(), limits, &violations);
  if (!violations.empty()) return RequestError::BadFields(std::move(violations));
  return CheckPreconditions(request, limits);
}

RequestError CheckLength(const std::string& field, int64_t prompt_tokens, int64_t resumed_tokens,
                         const ModelLimits& limits) {
  if (prompt_tokens == 0)
    return RequestError::BadField(field, "expected at least one token, found an empty prompt");
  if (prompt_tokens > limits.context_length) {
    return RequestError::BadField(
        field, absl::StrFormat("expected at most the context of %d tokens, found %d",
                               limits.context_length, prompt_tokens));
  }
  if (prompt_tokens + resumed_tokens > limits.context_length) {
    return RequestError::BadField(
        "resume_from.ids",
        absl::StrFormat(
            "expected prompt and resumed tokens within the context of %d, found %d + %d",
            limits.context_length, prompt_tokens, resumed_tokens));
  }
  return {};
}

}  // namespace atl::front_door
