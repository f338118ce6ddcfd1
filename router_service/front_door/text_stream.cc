#include "router_service/front_door/text_stream.h"

#include <utility>

namespace atl::front_door {

namespace pb = atollpb::v1;

TextStream::TextStream(const text::Tokenizer* tokenizer, const std::vector<std::string>& stop)
    : tokenizer_(tokenizer), matcher_(stop) {}

bool TextStream::Match(const std::string& text) {
  decoded_ += text.size();
  text::StopMatcher::Result result = matcher_.Push(text);
  passed_ += result.emit.size();
  ready_ += result.emit;
  if (result.stopped) ended_ = true;
  return result.stopped;
}

bool TextStream::PushBytes(uint32_t id) {
  if (tokenizer_ == nullptr) return false;
  return Match(utf8_.Push(tokenizer_->TokenBytes(id, /*skip_special=*/true)));
}

bool TextStream::Resume(std::span<const uint32_t> ids) {
  for (const uint32_t id : ids) {
    if (PushBytes(id)) return true;
  }
  sent_ = decoded_;
  ready_.clear();
  return false;
}

bool TextStream::Push(uint32_t id, std::optional<pb::TokenLogprob> logprob) {
  const bool stopped = PushBytes(id);
  held_.push_back({id, std::move(logprob)});
  ++pushed_;
  if (utf8_.empty()) boundaries_.push_back({pushed_, decoded_});
  return stopped;
}

bool TextStream::Finish() {
  if (ended_) return true;
  const bool stopped = Match(utf8_.Flush());
  if (!stopped) {
    const std::string rest = matcher_.Flush();
    passed_ += rest.size();
    ready_ += rest;
  }
  ended_ = true;
  return stopped;
}

bool TextStream::Take(pb::GenerateStreamResponse* out) {
  size_t num_tokens = ended_ ? held_.size() : 0;
  size_t text_end = ended_ ? passed_ : sent_;
  while (!ended_ && !boundaries_.empty() && boundaries_.front().text_end <= passed_) {
    num_tokens = boundaries_.front().tokens_end - (pushed_ - held_.size());
    text_end = boundaries_.front().text_end;
    boundaries_.pop_front();
  }
  const bool any = num_tokens > 0 || text_end > sent_;
  if (text_end > sent_) {
    const size_t ready_begin = passed_ - ready_.size();
    out->mutable_text()->append(ready_, sent_ - ready_begin, text_end - sent_);
    ready_.erase(0, text_end - ready_begin);
    sent_ = text_end;
  }
  for (; num_tokens > 0; --num_tokens) {
    Held& token = held_.front();
    out->add_token_ids(token.id);
    if (token.logprob.has_value()) *out->add_logprobs() = std::move(*token.logprob);
    held_.pop_front();
  }
  return any;
}

}  // namespace atl::front_door
