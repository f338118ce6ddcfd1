// From tokens to the deltas of a stream: the rules written over GenerateStreamResponse.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "atollpb/v1/inference.pb.h"
#include "text/stop_strings.h"
#include "text/tokenizer.h"

namespace atl::front_door {

// Tokens are let go in groups: a group ends at a token after which no character is unfinished and
// no text is withheld as the possible beginning of a stop string; its text is exactly its tokens'
// text. So a stream that breaks between two deltas can be resumed from the tokens received, and no
// text comes twice or is lost. Without a tokenizer there is no text, and each token is a group.
// Thread-compatible.
class TextStream {
 public:
  // tokenizer: null, or outlives this.
  TextStream(const text::Tokenizer* tokenizer, const std::vector<std::string>& stop);

  // Tokens that the client already has, before any Push. Their text counts as had as far as its
  // characters are complete; the bytes of an unfinished one go into the next delta. True if they
  // complete a stop string.
  bool Resume(std::span<const uint32_t> ids);

  // One token. True if it completes a stop string: it is the last.
  bool Push(uint32_t id, std::optional<atollpb::v1::TokenLogprob> logprob);

  // Generation has ended: nothing is withheld any more. True if by a stop string; what was left may
  // complete one (that holds U+FFFD, which the bytes of an unfinished character become).
  bool Finish();

  // Appends what can be let go to text, token_ids and logprobs of `out`; false if that is nothing.
  bool Take(atollpb::v1::GenerateStreamResponse* out);

 private:
  struct Held {
    uint32_t id;
    std::optional<atollpb::v1::TokenLogprob> logprob;
  };
  // A place between tokens and between characters: groups end here.
  struct Boundary {
    size_t tokens_end;  // tokens pushed up to here
    size_t text_end;    // bytes of text up to here
  };

  bool PushBytes(uint32_t id);
  bool Match(const std::string& text);

  const text::Tokenizer* const tokenizer_;
  text::Utf8Stream utf8_;
  text::StopMatcher matcher_;
  bool ended_ = false;               // by a stop string or Finish: all there is can be let go
  std::deque<Held> held_;            // tokens not let go
  std::deque<Boundary> boundaries_;  // between them, ascending
  size_t pushed_ = 0;                // tokens, without those resumed
  std::string ready_;                // the end of the text past the matcher: what was not let go
  size_t decoded_ = 0;               // bytes of text so far
  size_t passed_ = 0;                // of these, past the matcher: no part of a stop string
  size_t sent_ = 0;                  // bytes let go, or had before (then it may exceed passed_)
};

// Appends a delta to what came before it: the sum of a stream's deltas is the unary answer.
template <typename Response>
void AppendDelta(const atollpb::v1::GenerateStreamResponse& delta, Response* sum) {
  if (!delta.request_id().empty()) {  // the first
    sum->set_request_id(delta.request_id());
    sum->set_seed(delta.seed());
    sum->set_bias_version(delta.bias_version());
    *sum->mutable_prompt_logprobs() = delta.prompt_logprobs();
  }
  sum->mutable_text()->append(delta.text());
  sum->mutable_token_ids()->MergeFrom(delta.token_ids());
  sum->mutable_logprobs()->MergeFrom(delta.logprobs());
  if (delta.finish_reason() != atollpb::v1::FINISH_REASON_UNSPECIFIED) {  // the last
    sum->set_finish_reason(delta.finish_reason());
    *sum->mutable_usage() = delta.usage();
    *sum->mutable_timings() = delta.timings();
  }
}

}  // namespace atl::front_door
