#include "tests/support/mixed_checkpoint.h"

#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/check.h"
#include "base/file.h"
#include "model/checkpoint.h"
#include "model/layout.h"
#include "model/safetensors_writer.h"
#include "tests/support/golden.h"

namespace atl::testing {

void WriteMixedCheckpoint(const std::string& preset, const std::vector<std::string>& tensors,
                          const std::string& dir) {
  const std::string from = GoldenCheckpointDir(preset), old_file = "model.safetensors",
                    new_file = "float32.safetensors";
  for (const std::string& name : {std::string("config.json"), old_file})
    std::filesystem::copy(from + "/" + name, dir);
  const auto checkpoint = model::Checkpoint::Open(from);
  ATL_CHECK(checkpoint.ok());
  nlohmann::json file_of;
  model::ForEachTensor((*checkpoint)->config(),
                       [&](const model::TensorSpec& spec) { file_of[spec.name] = old_file; });
  std::vector<model::SafetensorsEntry> entries;
  for (const std::string& name : tensors) {
    ATL_CHECK(file_of.contains(name));
    file_of[name] = new_file;
    entries.push_back({.name = name, .dtype = "F32", .shape = (*checkpoint)->Find(name)->shape});
  }
  auto writer = model::SafetensorsWriter::Create(dir + "/" + new_file, entries, {});
  ATL_CHECK(writer.ok());
  for (size_t i = 0; i < tensors.size(); ++i) {
    std::vector<float> values = (*checkpoint)->ReadAll(tensors[i]).value();
    for (float& value : values) value *= 1 + 0x1p-12f;
    ATL_CHECK(writer->WriteAt(i, 0, values.data(), values.size() * sizeof(float)).ok());
  }
  ATL_CHECK(writer->Finish().ok());
  const nlohmann::json index = {{"weight_map", file_of}};
  ATL_CHECK(WriteFileAtomically(dir + "/model.safetensors.index.json", index.dump()).ok());
}

}  // namespace atl::testing
