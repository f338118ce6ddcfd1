// tokenizer.json, a zero byte, tokenizer_config.json, a zero byte, a text: what a tokenizer is made
// of gives ids that it knows, the same each time.

#include <algorithm>
#include <string>
#include <vector>

#include "base/check.h"
#include "tests/fuzz/input.h"
#include "text/tokenizer.h"
#include "text/utf8.h"

namespace atl::text {
namespace {

void TryText(const Tokenizer& tokenizer, std::string_view text) {
  for (const bool special : {false, true}) {
    const std::vector<uint32_t> ids = tokenizer.Encode(text, special);
    ATL_CHECK(ids == tokenizer.Encode(text, special));
    for (const uint32_t id : ids) ATL_CHECK(id < tokenizer.vocab_size());
    const std::string decoded = tokenizer.Decode(ids, special);
    ATL_CHECK(IsWellFormed(decoded));
    Utf8Stream stream;
    std::string streamed;
    for (const uint32_t id : ids) streamed += stream.Push(tokenizer.TokenBytes(id, special));
    ATL_CHECK(streamed + stream.Flush() == decoded);
  }
}

void TryTokenizer(fuzz::Input input) {
  const std::string tokenizer_json = input.Text();
  const auto tokenizer = Tokenizer::Parse(tokenizer_json, input.Text());
  if (!tokenizer.ok()) return;
  TryText(**tokenizer, "Hello,  world: \xc3\xa9\xe2\x82\xac 1234\n\n\t'll \xff\xf0\x9f");
  TryText(**tokenizer, input.Rest());
  ATL_CHECK((*tokenizer)->TokenBytes((*tokenizer)->vocab_size(), false).empty());
}

}  // namespace
}  // namespace atl::text

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  atl::text::TryTokenizer({data, size});
  return 0;
}
