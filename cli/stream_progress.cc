#include "cli/api_client.h"

namespace atl::cli {

using atollpb::v1::GenerateRequest;
using atollpb::v1::GenerateStreamResponse;

StreamProgress::StreamProgress(const GenerateRequest& request) : request_(request) {}

void StreamProgress::Add(GenerateStreamResponse* message) {
  if (num_messages_++ == 0) {
    answer_.set_request_id(message->request_id());
    answer_.set_seed(message->seed());
    answer_.set_bias_version(message->bias_version());
  }
  if (answer_.prompt_logprobs_size() > 0) message->clear_prompt_logprobs();
  answer_.mutable_text()->append(message->text());
  answer_.mutable_token_ids()->MergeFrom(message->token_ids());
  answer_.mutable_logprobs()->MergeFrom(message->logprobs());
  answer_.mutable_prompt_logprobs()->MergeFrom(message->prompt_logprobs());
  if (message->finish_reason() == atollpb::v1::FINISH_REASON_UNSPECIFIED) return;
  answer_.set_finish_reason(message->finish_reason());
  *answer_.mutable_usage() = message->usage();
  *answer_.mutable_timings() = message->timings();
}

bool StreamProgress::finished() const {
  return answer_.finish_reason() != atollpb::v1::FINISH_REASON_UNSPECIFIED;
}

GenerateRequest StreamProgress::NextRequest() const {
  GenerateRequest next = request_;
  if (num_messages_ == 0) return next;
  next.mutable_resume_from()->mutable_ids()->MergeFrom(answer_.token_ids());
  next.mutable_sampling()->set_seed(answer_.seed());
  next.set_bias_version(answer_.bias_version());
  next.set_request_id(answer_.request_id());
  return next;
}

}  // namespace atl::cli
