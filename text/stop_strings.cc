#include "text/stop_strings.h"

#include <algorithm>

namespace atl::text {
namespace {

// One step of Knuth-Morris-Pratt: how much of `text` is matched after `c`, when `matched` of it was
// before.
size_t Advance(const std::string& text, const std::vector<size_t>& fallback, size_t matched,
               char c) {
  while (matched > 0 && (matched == text.size() || text[matched] != c))
    matched = fallback[matched - 1];
  return text[matched] == c ? matched + 1 : 0;
}

}  // namespace

StopMatcher::StopMatcher(const std::vector<std::string>& stops) {
  for (const std::string& text : stops) {
    if (text.empty()) continue;
    Stop stop{text, std::vector<size_t>(text.size(), 0)};
    for (size_t i = 1; i < text.size(); ++i) {
      stop.fallback[i] = Advance(text, stop.fallback, stop.fallback[i - 1], text[i]);
    }
    stops_.push_back(std::move(stop));
  }
}

StopMatcher::Result StopMatcher::Push(std::string_view text) {
  if (stopped_) return {"", true};
  const size_t before = held_.size();
  held_ += text;
  size_t cut = std::string::npos;
  for (size_t i = before; i < held_.size(); ++i) {
    for (Stop& stop : stops_) {
      stop.matched = Advance(stop.text, stop.fallback, stop.matched, held_[i]);
      if (stop.matched == stop.text.size()) cut = std::min(cut, i + 1 - stop.text.size());
    }
  }
  Result result;
  if (cut != std::string::npos) {
    stopped_ = result.stopped = true;
    result.emit = held_.substr(0, cut);
    held_.clear();
    return result;
  }
  size_t keep = 0;
  for (const Stop& stop : stops_) keep = std::max(keep, stop.matched);
  result.emit = held_.substr(0, held_.size() - keep);
  held_.erase(0, held_.size() - keep);
  return result;
}

std::string StopMatcher::Flush() {
  std::string rest = std::move(held_);
  held_.clear();
  for (Stop& stop : stops_) stop.matched = 0;
  return rest;
}

}  // namespace atl::text
