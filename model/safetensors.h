// The safetensors format: a u64 little-endian header size, a JSON header, the tensors' bytes.
// Source: https://github.com/huggingface/safetensors, "Format".
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/file.h"
#include "base/status.h"

namespace atl::model {

// One tensor of a header, its bytes counted from the start of the file's data.
struct SafetensorsEntry {
  std::string name;
  std::string dtype;  // as the header spells it: "BF16", "I64", ...
  std::vector<int64_t> shape;
  int64_t begin = 0;
  int64_t end = 0;
};

struct SafetensorsHeader {
  std::vector<SafetensorsEntry> tensors;  // in the order of their bytes
  std::map<std::string, std::string> metadata;
  int64_t data_offset = 0;  // of the first tensor byte, from the file's start
};

inline constexpr int64_t kMaxSafetensorsHeaderBytes = 100'000'000;

// Bits of one element; 0 for a dtype that the format does not know.
int SafetensorsDTypeBits(const std::string& dtype);

// Parses the JSON of a header whose file has `data_bytes` bytes of tensors. `where` names the file
// in errors. InvalidArgument: not JSON, no '{' first, a key twice, a field missing or unknown, an
// unknown dtype, a shape whose bytes overflow or differ from the offsets, offsets outside the data,
// tensors that overlap, bytes that no tensor owns.
StatusOr<SafetensorsHeader> ParseSafetensorsHeader(std::string_view json, int64_t data_bytes,
                                                   const std::string& where);

// Reads a file's header; `raw` (if not null) gets its bytes, size included, as they are in the
// file. DataLoss if the file is cut short, InvalidArgument as above and for a header above the
// format's limit.
StatusOr<SafetensorsHeader> ReadSafetensorsHeader(const RandomAccessFile& file,
                                                  std::string* raw = nullptr);

// The header of `tensors` laid out in their order, their bytes following each other: size, JSON,
// padded with spaces so that data begins at a multiple of 8. Fills begin and end of each entry.
std::string MakeSafetensorsHeader(std::vector<SafetensorsEntry>& tensors,
                                  const std::map<std::string, std::string>& metadata);

}  // namespace atl::model
