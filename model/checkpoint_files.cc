#include "model/checkpoint_files.h"

#include <set>
#include <utility>

#include "model/json.h"
#include "model/safetensors.h"

namespace atl::model {
namespace {

constexpr char kIndexName[] = "model.safetensors.index.json";
constexpr char kSingleName[] = "model.safetensors";
constexpr size_t kMaxFiles = 4096;

// Tensor -> file name.
StatusOr<std::map<std::string, std::string>> ReadIndex(const std::string& path) {
  ATL_ASSIGN_OR_RETURN(const std::string text, ReadFile(path));
  ATL_ASSIGN_OR_RETURN(const nlohmann::json index, ParseJsonObject(text, path));
  const auto weights = index.find("weight_map");
  if (weights == index.end() || !weights->is_object() || weights->empty()) {
    return InvalidArgument("%s: 'weight_map' is no object of tensor: file", path);
  }
  std::map<std::string, std::string> where;
  for (const auto& [tensor, file] : weights->items()) {
    if (!file.is_string()) {
      return InvalidArgument("%s: tensor '%s' is in %s: expected a file name", path, tensor,
                             JsonTypeName(file));
    }
    const std::string name = file.get<std::string>();
    if (name.empty() || name.find('/') != std::string::npos ||
        name.find('\0') != std::string::npos || name == "..") {
      return InvalidArgument("%s: tensor '%s' is in '%s': expected a file of the same folder", path,
                             tensor, name);
    }
    where[tensor] = name;
  }
  return where;
}

TensorInfo ToTensorInfo(const SafetensorsEntry& entry, const SafetensorsHeader& header,
                        int file_idx) {
  const StatusOr<DType> dtype = ParseDType(entry.dtype);
  return {.name = entry.name,
          .dtype = dtype.ok() ? *dtype : DType::kUnspecified,
          .dtype_name = entry.dtype,
          .shape = entry.shape,
          .file_idx = file_idx,
          .offset = header.data_offset + entry.begin,
          .bytes = entry.end - entry.begin};
}

Status AddFile(const std::string& dir, const std::string& name,
               const std::map<std::string, std::string>& index, CheckpointFiles& out) {
  ATL_ASSIGN_OR_RETURN(RandomAccessFile file, RandomAccessFile::Open(dir + "/" + name));
  std::string raw;
  ATL_ASSIGN_OR_RETURN(const SafetensorsHeader header, ReadSafetensorsHeader(file, &raw));
  const int file_idx = static_cast<int>(out.files.size());
  for (const SafetensorsEntry& entry : header.tensors) {
    const auto it = index.find(entry.name);
    if (!index.empty() && (it == index.end() || it->second != name)) continue;
    out.tensors[entry.name] = ToTensorInfo(entry, header, file_idx);
  }
  out.files.push_back(std::move(file));
  out.names.push_back(name);
  out.raw_headers.push_back(std::move(raw));
  return absl::OkStatus();
}

}  // namespace

StatusOr<CheckpointFiles> OpenCheckpointFiles(const std::string& dir) {
  const std::string index_path = dir + "/" + kIndexName;
  std::map<std::string, std::string> index;
  std::set<std::string> names = {kSingleName};
  if (FileExists(index_path)) {
    ATL_ASSIGN_OR_RETURN(index, ReadIndex(index_path));
    names.clear();
    for (const auto& [tensor, file] : index) names.insert(file);
  } else if (!FileExists(dir + "/" + kSingleName)) {
    return NotFound("%s has neither %s nor %s", dir, kIndexName, kSingleName);
  }
  if (names.size() > kMaxFiles) {
    return InvalidArgument("%s names %d files, expected at most %d", index_path, names.size(),
                           kMaxFiles);
  }
  CheckpointFiles out;
  for (const std::string& name : names) {
    const Status status = AddFile(dir, name, index, out);
    if (absl::IsNotFound(status) && !index.empty())
      return Annotate(status, index_path + " names a missing file");
    ATL_RETURN_IF_ERROR(status);
  }
  for (const auto& [tensor, file] : index) {
    if (!out.tensors.contains(tensor)) {
      return InvalidArgument("%s: tensor '%s' is not in %s", index_path, tensor, file);
    }
  }
  return out;
}

}  // namespace atl::model
