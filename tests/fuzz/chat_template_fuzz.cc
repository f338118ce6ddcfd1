// A template, a zero byte, a text for the messages: rendering ends, and gives the same each time.

#include <string>

#include "base/check.h"
#include "tests/fuzz/input.h"
#include "text/chat_template.h"

namespace atl::text {
namespace {

void TryTemplate(fuzz::Input input) {
  const auto parsed = ChatTemplate::Parse(input.Text());
  if (!parsed.ok()) return;
  const std::string content(input.Rest());
  const std::vector<ChatMessage> conversations[] = {{{"user", content}},
                                                    {{"system", content},
                                                     {"user", "a"},
                                                     {"assistant", content},
                                                     {"tool", "b"},
                                                     {"user", content}},
                                                    {{"user", "a"}, {"assistant", content}}};
  for (const std::vector<ChatMessage>& messages : conversations) {
    const StatusOr<std::string> rendered = (*parsed)->Render(messages, "<s>", "</s>");
    const StatusOr<std::string> again = (*parsed)->Render(messages, "<s>", "</s>");
    ATL_CHECK(rendered.ok() == again.ok());
    if (rendered.ok()) ATL_CHECK(*rendered == *again);
  }
}

}  // namespace
}  // namespace atl::text

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  atl::text::TryTemplate({data, size});
  return 0;
}
