// Copies of golden checkpoints, spoilt one way each.
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>

#include "tests/support/temp_dir.h"

namespace atl::model {

// A golden preset's checkpoint in a folder of its own. Mistakes of the test itself end it with a
// message.
class CheckpointCopy {
 public:
  explicit CheckpointCopy(const std::string& preset);

  std::string path() const { return dir_.File("model"); }
  std::string File(const std::string& name) const { return path() + "/" + name; }

  // Rewrites a JSON file.
  void EditJson(const std::string& name,
                const std::function<void(nlohmann::ordered_json&)>& edit) const;
  // Rewrites the header of a safetensors file; its data stays as it is.
  void EditHeader(const std::string& name,
                  const std::function<void(nlohmann::ordered_json&)>& edit) const;
  // Overwrites bytes of a tensor, `offset` from its begin.
  void PatchTensor(const std::string& file, const std::string& tensor, int64_t offset,
                   const std::string& bytes) const;
  void Truncate(const std::string& name, int64_t fewer_bytes) const;
  void Remove(const std::string& name) const;
  void Write(const std::string& name, const std::string& text) const;
  std::string Read(const std::string& name) const;

 private:
  atl::testing::TempDir dir_;
};

}  // namespace atl::model
