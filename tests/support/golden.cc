#include "tests/support/golden.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "base/file.h"
#include "model/safetensors.h"

namespace atl::testing {
namespace {

template <typename T>
std::vector<T> Elements(const std::string& bytes) {
  std::vector<T> values(bytes.size() / sizeof(T));
  std::memcpy(values.data(), bytes.data(), values.size() * sizeof(T));
  return values;
}

StatusOr<Golden::Tensor> Decode(const model::SafetensorsEntry& entry, const std::string& bytes) {
  Golden::Tensor tensor;
  tensor.shape = entry.shape;
  if (entry.dtype == "F32") {
    tensor.f32 = Elements<float>(bytes);
  } else if (entry.dtype == "I64") {
    tensor.i64 = Elements<int64_t>(bytes);
  } else if (entry.dtype == "I32") {
    const std::vector<int32_t> narrow = Elements<int32_t>(bytes);
    tensor.i64.assign(narrow.begin(), narrow.end());
  } else {
    return InvalidArgument("tensor '%s' is %s, expected F32, I32 or I64", entry.name, entry.dtype);
  }
  return tensor;
}

[[noreturn]] void Die(const std::string& name, const char* what) {
  std::fprintf(stderr, "golden tensor '%s' %s\n", name.c_str(), what);
  std::abort();
}

}  // namespace

const std::vector<std::string>& GoldenPresets() {
  static const std::vector<std::string> presets = {"v2_lite",   "v2",   "v3",  "v3_fp8",
                                                   "moonlight", "kimi", "tied"};
  return presets;
}

std::string GoldenDir(const std::string& preset) {
  return std::string(ATOLL_GOLDEN_DIR) + "/" + preset;
}

std::string GoldenCheckpointDir(const std::string& preset) {
  return GoldenDir(preset) + "/checkpoint";
}

std::string DemoModelDir() { return std::string(ATOLL_SOURCE_DIR) + "/models/demo"; }

const Golden::Tensor& Golden::Get(const std::string& name) const {
  const auto it = tensors.find(name);
  if (it == tensors.end()) Die(name, "does not exist");
  return it->second;
}

const std::vector<float>& Golden::F32(const std::string& name) const {
  const Tensor& tensor = Get(name);
  if (tensor.f32.empty()) Die(name, "is not float32");
  return tensor.f32;
}

const std::vector<int64_t>& Golden::I64(const std::string& name) const {
  const Tensor& tensor = Get(name);
  if (tensor.i64.empty()) Die(name, "is not integer");
  return tensor.i64;
}

StatusOr<std::map<std::string, Golden::Tensor>> LoadTensors(const std::string& path) {
  ATL_ASSIGN_OR_RETURN(const RandomAccessFile file, RandomAccessFile::Open(path));
  ATL_ASSIGN_OR_RETURN(const model::SafetensorsHeader header, model::ReadSafetensorsHeader(file));
  std::map<std::string, Golden::Tensor> tensors;
  for (const model::SafetensorsEntry& entry : header.tensors) {
    std::string bytes(entry.end - entry.begin, '\0');
    ATL_RETURN_IF_ERROR(
        file.ReadAt(header.data_offset + entry.begin, entry.end - entry.begin, bytes.data()));
    ATL_ASSIGN_OR_RETURN(tensors[entry.name], Decode(entry, bytes));
  }
  return tensors;
}

StatusOr<Golden> LoadGolden(const std::string& preset) {
  Golden golden;
  const std::string json_path = GoldenDir(preset) + "/golden.json";
  ATL_ASSIGN_OR_RETURN(const std::string text, ReadFile(json_path));
  golden.json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!golden.json.is_object()) return DataLoss("%s is no JSON object", json_path);
  ATL_ASSIGN_OR_RETURN(golden.tensors, LoadTensors(GoldenDir(preset) + "/golden.safetensors"));
  return golden;
}

}  // namespace atl::testing
