// Test data of the repository: golden checkpoints with what they must compute
// (tools/golden/README.md), and the demo model.
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/status.h"

namespace atl::testing {

// Every golden preset: "v2_lite", "v2", "v3", "v3_fp8", "moonlight", "kimi", "tied".
const std::vector<std::string>& GoldenPresets();

// Folder of a preset's checkpoint, as Checkpoint::Open takes it.
std::string GoldenCheckpointDir(const std::string& preset);
// Folder that holds checkpoint/, golden.json and golden.safetensors.
std::string GoldenDir(const std::string& preset);

// models/demo: a trained FP8 checkpoint with tokenizer, chat template and expected.json.
std::string DemoModelDir();

// Expected tensors by the names of tools/golden/README.md, and golden.json.
class Golden {
 public:
  struct Tensor {
    std::vector<int64_t> shape;
    std::vector<float> f32;    // of F32 tensors
    std::vector<int64_t> i64;  // of I32 and I64 tensors, widened
  };

  nlohmann::json json;
  std::map<std::string, Tensor> tensors;

  bool Has(const std::string& name) const { return tensors.contains(name); }
  // The tensor of that name; a missing one, or one of the other kind, ends the test process with
  // its name.
  const Tensor& Get(const std::string& name) const;
  const std::vector<float>& F32(const std::string& name) const;
  const std::vector<int64_t>& I64(const std::string& name) const;
};

StatusOr<Golden> LoadGolden(const std::string& preset);

// Any safetensors file of F32, I32 and I64 tensors.
StatusOr<std::map<std::string, Golden::Tensor>> LoadTensors(const std::string& path);

}  // namespace atl::testing
