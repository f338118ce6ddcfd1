// Writes one safetensors file by parts, in any order, from any thread.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/status.h"
#include "model/safetensors.h"

namespace atl::model {

// The file appears under its name when Finish returns OK; until then it is NAME.part. WriteAt is
// thread-safe, the rest is not. Destroyed before Finish, it leaves nothing behind.
class SafetensorsWriter {
 public:
  // Reserves the whole file: ResourceExhausted if the disk has no room for it.
  static StatusOr<SafetensorsWriter> Create(const std::string& path,
                                            std::vector<SafetensorsEntry> tensors,
                                            const std::map<std::string, std::string>& metadata);
  SafetensorsWriter() = default;
  ~SafetensorsWriter();
  SafetensorsWriter(SafetensorsWriter&& other) noexcept;
  SafetensorsWriter& operator=(SafetensorsWriter&& other) noexcept;

  // In the order given, with begin and end filled in.
  const std::vector<SafetensorsEntry>& tensors() const { return tensors_; }

  // Writes `bytes` at `offset` from the begin of tensor `index`. REQUIRES: they lie within it.
  Status WriteAt(size_t index, int64_t offset, const void* data, int64_t bytes) const;

  Status Finish();

 private:
  int fd_ = -1;
  int64_t data_offset_ = 0;
  std::string path_;
  std::vector<SafetensorsEntry> tensors_;
};

}  // namespace atl::model
