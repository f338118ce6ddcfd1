// Ends a growing text before the first of its stop strings. Thread-compatible.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace atl::text {

class StopMatcher {
 public:
  // Empty strings among `stops` never match (a server refuses them at its door).
  explicit StopMatcher(const std::vector<std::string>& stops);

  struct Result {
    std::string emit;      // text that is certain to come before any stop string
    bool stopped = false;  // a stop string is complete: the text ends with what was emitted
  };
  // Takes the text of the next token. The generation ends as soon as one stop string is complete;
  // if several are by the same push, the one that begins earliest cuts. What may still become a
  // stop string is held back. With whole characters pushed, whole characters are emitted. Time:
  // bytes x stops. After a stop, nothing is emitted any more.
  Result Push(std::string_view text);

  // The generation ended otherwise: what was held back. Empty after a stop.
  std::string Flush();

 private:
  struct Stop {
    std::string text;
    std::vector<size_t>
        fallback;        // [i]: length of the longest proper prefix of text that ends text[0..i]
    size_t matched = 0;  // length of the longest prefix of text that ends what was pushed
  };
  std::vector<Stop> stops_;
  std::string held_;
  bool stopped_ = false;
};

}  // namespace atl::text
