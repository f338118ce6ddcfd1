#include "text/chat_template.h"

#include "text/jinja_eval.h"
#include "text/jinja_parser.h"
#include "text/utf8.h"

namespace atl::text {
namespace {

using jinja::Dict;
using jinja::List;
using jinja::Value;

// A mark that none of the messages contains. It ends in a space, which shows whether the template
// strips contents.
std::string UnusedMark(const std::vector<ChatMessage>& messages) {
  std::string mark =
      "\x02"
      "continue";
  const auto is_used = [&] {
    for (const ChatMessage& message : messages) {
      if (message.content.find(mark) != std::string::npos ||
          message.role.find(mark) != std::string::npos)
        return true;
    }
    return false;
  };
  while (is_used()) mark += '\x03';
  return mark;
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
