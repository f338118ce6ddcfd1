// What fuzz targets make of their bytes.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

namespace atl::fuzz {

// Reads an input from its beginning; at its end everything is zero and empty.
class Input {
 public:
  Input(const uint8_t* data, size_t size) : rest_(reinterpret_cast<const char*>(data), size) {}

  bool empty() const { return rest_.empty(); }
  std::string_view Bytes(size_t count) {
    const std::string_view bytes = rest_.substr(0, std::min(count, rest_.size()));
    rest_.remove_prefix(bytes.size());
    return bytes;
  }
  // Little-endian.
  template <typename T>
  T Number() {
    T value{};
    const std::string_view bytes = Bytes(sizeof(T));
    std::memcpy(&value, bytes.data(), bytes.size());
    return value;
  }
  // Up to the next zero byte, which is dropped, or the end: how targets of several texts part them.
  std::string Text() {
    const std::string text(Bytes(rest_.find('\0')));
    rest_.remove_prefix(rest_.empty() ? 0 : 1);
    return text;
  }
  std::string_view Rest() { return Bytes(rest_.size()); }

 private:
  std::string_view rest_;
};

}  // namespace atl::fuzz
