#include "model/safetensors.h"

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>

namespace atl::model {
namespace {

using Json = nlohmann::json;

// Collects a header from parser events, so that no tree of a 100 MB text is ever built and nothing
// escapes notice: duplicate keys, unknown fields, wrong types. Each callback gives false to stop at
// the first mistake.
class HeaderSax : public nlohmann::json_sax<Json> {
 public:
  explicit HeaderSax(SafetensorsHeader* header) : header_(header) {}

  const std::string& problem() const { return problem_; }

  bool start_object(std::size_t) override {
    switch (state_) {
      case State::kStart:
        state_ = State::kTop;
        return true;
      case State::kTensorValue:
        header_->tensors.push_back({.name = name_});
        fields_.clear();
        state_ = State::kTensor;
        return true;
      case State::kMetadataValue:
        state_ = State::kMetadata;
        return true;
      default:
        return Unexpected("an object");
    }
  }

  bool key(std::string& text) override {
    switch (state_) {
      case State::kTop:
        if (!names_.insert(text).second) return Problem("key '%s' is given twice", text);
        name_ = text;
        state_ = text == "__metadata__" ? State::kMetadataValue : State::kTensorValue;
        return true;
      case State::kMetadata:
        if (header_->metadata.contains(text))
          return Problem("metadata key '%s' is given twice", text);
        name_ = text;
        return true;
      case State::kTensor:
        if (text != "dtype" && text != "shape" && text != "data_offsets") {
          return Problem("tensor '%s' has an unknown field '%s'", name_, text);
        }
        if (!fields_.insert(text).second) return Problem("tensor '%s' has '%s' twice", name_, text);
        field_ = text;
        return true;
      default:
        return Unexpected("a key");
    }
  }

  bool end_object() override {
    if (state_ == State::kTensor && fields_.size() != 3) {
      return Problem("tensor '%s' lacks dtype, shape or data_offsets", name_);
    }
    state_ = state_ == State::kTop ? State::kEnd : State::kTop;
    return true;
  }

  bool string(std::string& text) override {
    if (state_ == State::kMetadata) {
      header_->metadata[name_] = text;
      return true;
    }
    if (state_ != State::kTensor || field_ != "dtype") return Unexpected("a string");
    header_->tensors.back().dtype = text;
    return true;
  }

  bool start_array(std::size_t) override {
    if (state_ != State::kTensor || field_ == "dtype") return Unexpected("an array");
    numbers_.clear();
    state_ = State::kNumbers;
    return true;
  }

  bool end_array() override {
    state_ = State::kTensor;
    SafetensorsEntry& tensor = header_->tensors.back();
    if (field_ == "shape") {
      tensor.shape = numbers_;
    } else {
      if (numbers_.size() != 2)
        return Problem("tensor '%s' has %d data_offsets, expected 2", name_, numbers_.size());
      tensor.begin = numbers_[0];
      tensor.end = numbers_[1];
    }
    return true;
  }

  bool number_unsigned(uint64_t value) override {
    if (state_ != State::kNumbers) return Unexpected("a number");
    if (value > static_cast<uint64_t>(INT64_MAX))
      return Problem("tensor '%s': %d is too large", name_, value);
    numbers_.push_back(static_cast<int64_t>(value));
    return true;
  }

  bool number_integer(int64_t value) override {
    return Problem("tensor '%s': %d is negative", name_, value);
  }
  bool number_float(double, const std::string& text) override { return Unexpected(text); }
  bool null() override { return Unexpected("null"); }
  bool boolean(bool) override { return Unexpected("a boolean"); }
  bool binary(Json::binary_t&) override { return Unexpected("binary data"); }
  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception&) override {
    return Problem("not valid JSON at byte %d", position);
  }

 private:
  enum class State {
    kStart,
    kTop,
    kMetadataValue,
    kMetadata,
    kTensorValue,
    kTensor,
    kNumbers,
    kEnd
  };

  template <typename... Args>
  bool Problem(const absl::FormatSpec<Args...>& format, const Args&... args) {
    if (problem_.empty()) problem_ = absl::StrFormat(format, args...);
    return false;
  }
  bool Unexpected(const std::string& what) { return Problem("'%s': unexpected %s", name_, what); }

  SafetensorsHeader* const header_;
  State state_ = State::kStart;
  std::string name_;   // of the tensor or metadata entry in hand
  std::string field_;  // of the tensor in hand
  std::set<std::string> names_;
  std::set<std::string> fields_;
  std::vector<int64_t> numbers_;
  std::string problem_;
};

// Bytes of a tensor, or an error that says how its shape is wrong.
StatusOr<int64_t> TensorBytes(const SafetensorsEntry& tensor, const std::string& where) {
  const int bits = SafetensorsDTypeBits(tensor.dtype);
  if (bits == 0)
    return InvalidArgument("%s: tensor '%s' has the unknown dtype '%s'", where, tensor.name,
                           tensor.dtype);
  int64_t count = bits;
  for (const int64_t size : tensor.shape) {
    if (__builtin_mul_overflow(count, size, &count)) {
      return InvalidArgument("%s: tensor '%s': the product of its shape overflows", where,
                             tensor.name);
    }
  }
  if (count % 8 != 0)
    return InvalidArgument("%s: tensor '%s' does not end on a whole byte", where, tensor.name);
  return count / 8;
}

// Offsets must tile [0, data_bytes) exactly.
Status CheckOffsets(SafetensorsHeader& header, int64_t data_bytes, const std::string& where) {
  std::stable_sort(header.tensors.begin(), header.tensors.end(),
                   [](const SafetensorsEntry& a, const SafetensorsEntry& b) {
                     return a.begin != b.begin ? a.begin < b.begin : a.end < b.end;
                   });
  int64_t covered = 0;
  for (const SafetensorsEntry& tensor : header.tensors) {
    ATL_ASSIGN_OR_RETURN(const int64_t bytes, TensorBytes(tensor, where));
    if (tensor.begin > tensor.end || tensor.end > data_bytes) {
      return InvalidArgument(
          "%s: tensor '%s' has data_offsets [%d, %d], expected a range within %d bytes", where,
          tensor.name, tensor.begin, tensor.end, data_bytes);
    }
    if (tensor.end - tensor.begin != bytes) {
      return InvalidArgument(
          "%s: tensor '%s' has %d bytes, expected %d from its shape and dtype %s", where,
          tensor.name, tensor.end - tensor.begin, bytes, tensor.dtype);
    }
    if (tensor.begin != covered) {
      return InvalidArgument(
          "%s: tensor '%s' begins at %d, expected %d: tensors overlap or leave a hole", where,
          tensor.name, tensor.begin, covered);
    }
    covered = tensor.end;
  }
  if (covered != data_bytes) {
    return InvalidArgument("%s: the file has %d bytes of data, expected %d from its header", where,
                           data_bytes, covered);
  }
  return absl::OkStatus();
}

}  // namespace

int SafetensorsDTypeBits(const std::string& dtype) {
  static const std::map<std::string, int> kBits = {
      {"F4", 4},   {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"BOOL", 8},    {"U8", 8},
      {"I8", 8},   {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"I16", 16},
      {"U16", 16}, {"F16", 16},    {"BF16", 16},   {"I32", 32},    {"U32", 32},
      {"F32", 32}, {"C64", 64},    {"F64", 64},    {"I64", 64},    {"U64", 64}};
  const auto it = kBits.find(dtype);
  return it == kBits.end() ? 0 : it->second;
}

StatusOr<SafetensorsHeader> ParseSafetensorsHeader(std::string_view json, int64_t data_bytes,
                                                   const std::string& where) {
  if (json.empty() || json.front() != '{')
    return InvalidArgument("%s: the header does not begin with '{'", where);
  SafetensorsHeader header;
  HeaderSax sax(&header);
  if (!Json::sax_parse(json.begin(), json.end(), &sax)) {
    return InvalidArgument("%s: safetensors header: %s", where, sax.problem());
  }
  ATL_RETURN_IF_ERROR(CheckOffsets(header, data_bytes, where));
  return header;
}

StatusOr<SafetensorsHeader> ReadSafetensorsHeader(const RandomAccessFile& file, std::string* raw) {
  unsigned char size_bytes[8];
  ATL_RETURN_IF_ERROR(file.ReadAt(0, 8, size_bytes));
  uint64_t size = 0;
  for (int i = 7; i >= 0; --i) size = size << 8 | size_bytes[i];
  if (size > static_cast<uint64_t>(kMaxSafetensorsHeaderBytes)) {
    return InvalidArgument("%s: a header of %d bytes, expected at most %d", file.path(), size,
                           kMaxSafetensorsHeaderBytes);
  }
  const int64_t json_bytes = static_cast<int64_t>(size);
  if (8 + json_bytes > file.size()) {
    return DataLoss("%s ends at byte %d, expected a header of %d bytes from 8", file.path(),
                    file.size(), json_bytes);
  }
  std::string bytes(8 + json_bytes, '\0');
  ATL_RETURN_IF_ERROR(file.ReadAt(0, 8 + json_bytes, bytes.data()));
  ATL_ASSIGN_OR_RETURN(SafetensorsHeader header,
                       ParseSafetensorsHeader(std::string_view(bytes).substr(8),
                                              file.size() - 8 - json_bytes, file.path()));
  header.data_offset = 8 + json_bytes;
  if (raw != nullptr) *raw = std::move(bytes);
  return header;
}

std::string MakeSafetensorsHeader(std::vector<SafetensorsEntry>& tensors,
                                  const std::map<std::string, std::string>& metadata) {
  // Written by hand: the library's ordered object looks for every key from the start.
  const auto quoted = [](const std::string& text) {
    return Json(text).dump(-1, ' ', false, Json::error_handler_t::replace);
  };
  std::string json = "{";
  if (!metadata.empty())
    json += "\"__metadata__\":" + Json(metadata).dump() + (tensors.empty() ? "" : ",");
  int64_t offset = 0;
  for (SafetensorsEntry& tensor : tensors) {
    int64_t bytes = SafetensorsDTypeBits(tensor.dtype) / 8;
    for (const int64_t size : tensor.shape) bytes *= size;
    tensor.begin = offset;
    tensor.end = offset += bytes;
    absl::StrAppendFormat(&json, "%s%s:{\"dtype\":%s,\"shape\":%s,\"data_offsets\":[%d,%d]}",
                          &tensor == &tensors.front() ? "" : ",", quoted(tensor.name),
                          quoted(tensor.dtype), Json(tensor.shape).dump(), tensor.begin,
                          tensor.end);
  }
  json += "}";
  json.resize((json.size() + 7) / 8 * 8, ' ');
  std::string out(8, '\0');
  for (int i = 0; i < 8; ++i) out[i] = static_cast<char>(json.size() >> (8 * i));
  return out + json;
}

}  // namespace atl::model
