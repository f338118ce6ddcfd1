#include "text/chat_template.h"

#include <algorithm>
#include <string_view>

#include "text/jinja_eval.h"
#include "text/jinja_parser.h"
#include "text/utf8.h"

namespace atl::text {
namespace {

using jinja::Dict;
using jinja::List;
using jinja::Value;

// A mark that none of the messages contains. It ends in a space, which shows whether the template
// strips contents. Longer by one than the longest such mark among them.
std::string UnusedMark(const std::vector<ChatMessage>& messages) {
  constexpr std::string_view kMark =
      "\x02"
      "continue";
  size_t longest = 0;
  const auto look = [&](std::string_view text) {
    for (size_t at = text.find(kMark); at != std::string_view::npos; at = text.find(kMark, at)) {
      at += kMark.size();
      size_t end = at;
      while (end < text.size() && text[end] == '\x03') ++end;
      longest = std::max(longest, end - at + 1);
      at = end;
    }
  };
  for (const ChatMessage& message : messages) {
    look(message.content);
    look(message.role);
  }
  return std::string(kMark) + std::string(longest, '\x03');
}

}  // namespace

struct ChatTemplate::Impl {
  jinja::Body body;
};

ChatTemplate::ChatTemplate(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ChatTemplate::~ChatTemplate() = default;

StatusOr<std::unique_ptr<ChatTemplate>> ChatTemplate::Parse(const std::string& source) {
  auto impl = std::make_unique<Impl>();
  ATL_ASSIGN_OR_RETURN(impl->body, jinja::ParseTemplate(source));
  return std::unique_ptr<ChatTemplate>(new ChatTemplate(std::move(impl)));
}

StatusOr<std::string> ChatTemplate::Render(const std::vector<ChatMessage>& messages,
                                           const std::string& bos_token,
                                           const std::string& eos_token) const {
  const bool continues = !messages.empty() && messages.back().role == "assistant";
  const std::string mark = continues ? UnusedMark(messages) : "";
  List list;
  for (size_t i = 0; i < messages.size(); ++i) {
    std::string content = ReplaceIllFormed(messages[i].content);
    if (continues && i + 1 == messages.size()) content += mark + " ";
    list.emplace_back(Dict{{"role", Value(ReplaceIllFormed(messages[i].role))},
                           {"content", Value(std::move(content))}});
  }
  // The names that transformers' apply_chat_template passes; tools and documents are none there,
  // too.
  ATL_ASSIGN_OR_RETURN(std::string text,
                       jinja::Evaluate(impl_->body, {{"messages", Value(std::move(list))},
                                                     {"tools", Value()},
                                                     {"documents", Value()},
                                                     {"add_generation_prompt", Value(!continues)},
                                                     {"bos_token", Value(bos_token)},
                                                     {"eos_token", Value(eos_token)}}));
  if (!continues) return text;
  const size_t at = text.rfind(mark);
  if (at == std::string::npos)
    return InvalidArgument(
        "chat template: does not show the last message, which is to be continued");
  const bool stripped = text.compare(at + mark.size(), 1, " ") != 0;
  text.resize(at);
  if (stripped) text.resize(jinja::StripRight(text).size());
  return text;
}

}  // namespace atl::text
