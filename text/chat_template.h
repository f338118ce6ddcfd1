// A checkpoint's chat template: the subset of Jinja2 that published DeepSeek templates use.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "base/status.h"

namespace atl::text {

struct ChatMessage {
  std::string role;  // "system", "user", "assistant", "tool"
  std::string content;
};

// Constant after parsing; any thread may call.
class ChatTemplate {
 public:
  // Unimplemented names a construct outside the subset and its line; InvalidArgument a syntax
  // error.
  static StatusOr<std::unique_ptr<ChatTemplate>> Parse(const std::string& source);
  ~ChatTemplate();

  // The prompt's text. add_generation_prompt is false when the last message is the assistant's,
  // which is then continued: what the template puts after that message's content (its
  // end-of-sentence mark) is cut off. InvalidArgument if the template raises (raise_exception) or
  // an operation fails; bounded in steps and output size.
  StatusOr<std::string> Render(const std::vector<ChatMessage>& messages,
                               const std::string& bos_token, const std::string& eos_token) const;

  struct Impl;

 private:
  explicit ChatTemplate(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace atl::text
