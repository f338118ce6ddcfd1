#include "model/checkpoint.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <memory>

#include "model/checkpoint_files.h"
#include "model/decode.h"
#include "model/layout.h"

namespace atl::model {
namespace {

constexpr int64_t kMaxConfigBytes = int64_t{16} << 20;
constexpr int64_t kChunkBytes = int64_t{256} << 10;  // raw bytes in hand at a time: stays in L2
constexpr char kScaleSuffix[] = "_scale_inv";

std::string ShapeText(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (const int64_t size : shape) text += (text.size() > 1 ? ", " : "") + std::to_string(size);
  return text + "]";
}

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

std::string FolderName(const std::string& dir) {
  std::error_code error;
  const std::filesystem::path path = std::filesystem::weakly_canonical(dir, error);
  const std::string name = (error ? std::filesystem::path(dir) : path).filename().string();
  return name.empty() ? dir : name;
}

using TensorMap = std::map<std::string, TensorInfo>;

Status CheckShape(const TensorInfo& tensor, const std::vector<int64_t>& shape) {
  if (tensor.shape == shape) return absl::OkStatus();
  return InvalidArgument("tensor '%s' has shape %s, expected %s", tensor.name,
                         ShapeText(tensor.shape), ShapeText(shape));
}

// An FP8 matrix needs its scales, any other must have none: a scale that nobody applies would be a
// silent mistake.
Status CheckScale(const ModelConfig& config, const TensorMap& tensors, const TensorInfo& tensor) {
  const auto it = tensors.find(tensor.name + kScaleSuffix);
  if (tensor.dtype != DType::kF8E4M3) {
    if (it == tensors.end()) return absl::OkStatus();
    return InvalidArgument("tensor '%s' is %s and has a scale '%s': expected F8_E4M3", tensor.name,
                           tensor.dtype_name, it->first);
  }
  if (!config.fp8 || tensor.shape.size() != 2) {
    return InvalidArgument(
        "tensor '%s' is F8_E4M3, expected BF16, F16 or F32: %s", tensor.name,
        config.fp8 ? "only matrices are quantised" : "config.json has no quantization_config");
  }
  if (it == tensors.end()) {
    return NotFound("tensor '%s%s' is missing: '%s' is F8_E4M3", tensor.name, kScaleSuffix,
                    tensor.name);
  }
  const TensorInfo& scale = it->second;
  if (scale.dtype != DType::kF32 && scale.dtype != DType::kBf16) {
    return InvalidArgument("tensor '%s' is %s, expected F32 or BF16", scale.name, scale.dtype_name);
  }
  return CheckShape(scale, {CeilDiv(tensor.shape[0], config.fp8_block),
                            CeilDiv(tensor.shape[1], config.fp8_block)});
}

Status CheckTensor(const ModelConfig& config, const TensorMap& tensors, const TensorSpec& spec) {
  const auto it = tensors.find(spec.name);
  if (it == tensors.end()) {
    const bool mtp = spec.layer >= config.num_hidden_layers;
    return NotFound("tensor '%s' is missing: expected shape %s%s", spec.name, ShapeText(spec.shape),
                    mtp ? ", an MTP layer (num_nextn_predict_layers) of config.json" : "");
  }
  ATL_RETURN_IF_ERROR(CheckShape(it->second, spec.shape));
  if (it->second.dtype == DType::kUnspecified) {
    return Unimplemented("tensor '%s' has dtype %s, expected BF16, F16, F32 or F8_E4M3", spec.name,
                         it->second.dtype_name);
  }
  return CheckScale(config, tensors, it->second);
}

Status CheckTensors(const ModelConfig& config, const TensorMap& tensors) {
  Status first;
  ForEachTensor(config, [&](const TensorSpec& spec) {
    if (first.ok()) first = CheckTensor(config, tensors, spec);
  });
  return first;
}

struct Extent {
  int64_t rows = 0;
  int64_t columns = 0;
};

StatusOr<Extent> MatrixExtent(const TensorInfo& tensor) {
  switch (tensor.shape.size()) {
    case 1:
      return Extent{1, tensor.shape[0]};
    case 2:
      return Extent{tensor.shape[0], tensor.shape[1]};
    default:
      return InvalidArgument("tensor '%s' has shape %s, expected a vector or a matrix", tensor.name,
                             ShapeText(tensor.shape));
  }
}

Status CheckFinite(const TensorInfo& tensor, const float* values, int64_t first_row, int64_t rows,
                   int64_t columns) {
  const int64_t at = FindNonFinite(values, rows * columns);
  if (at < 0) return absl::OkStatus();
  const std::string place =
      tensor.shape.size() == 1
          ? absl::StrFormat("[%d]", at)
          : absl::StrFormat("[%d, %d]", first_row + at / columns, at % columns);
  return DataLoss("tensor '%s' is %s at %s, expected finite values", tensor.name,
                  std::isnan(values[at]) ? "NaN" : "infinite", place);
}

}  // namespace

StatusOr<std::unique_ptr<Checkpoint>> Checkpoint::Open(const std::string& dir) {
  std::unique_ptr<Checkpoint> checkpoint(new Checkpoint);
  checkpoint->dir_ = dir;
  checkpoint->name_ = FolderName(dir);
  const std::string config_path = dir + "/config.json";
  ATL_ASSIGN_OR_RETURN(const std::string config_json, ReadFile(config_path, kMaxConfigBytes));
  ATL_ASSIGN_OR_RETURN(checkpoint->config_, ParseModelConfig(config_json, config_path));
  ATL_RETURN_IF_ERROR(CheckServable(checkpoint->config_));
  const std::string generation_path = dir + "/generation_config.json";
  if (FileExists(generation_path)) {
    ATL_ASSIGN_OR_RETURN(const std::string text, ReadFile(generation_path, kMaxConfigBytes));
    ATL_ASSIGN_OR_RETURN(checkpoint->generation_config_,
                         ParseGenerationConfig(text, generation_path, &checkpoint->config_));
  }
  ATL_ASSIGN_OR_RETURN(CheckpointFiles files, OpenCheckpointFiles(dir));
  const Status checked = CheckTensors(checkpoint->config_, files.tensors);
  if (!checked.ok()) return Annotate(checked, dir);
  ATL_ASSIGN_OR_RETURN(checkpoint->revision_, ComputeRevision(config_json, files));
  checkpoint->files_ = std::move(files.files);
  checkpoint->tensors_ = std::move(files.tensors);
  const ParamCount count = CountParams(checkpoint->config_);
  checkpoint->total_params_ = count.total;
  checkpoint->active_params_ = count.active;
  return checkpoint;
}

const TensorInfo* Checkpoint::Find(const std::string& name) const {
  const auto it = tensors_.find(name);
  return it == tensors_.end() ? nullptr : &it->second;
}

Status Checkpoint::ReadRows(const std::string& name, int64_t row_begin, int64_t rows,
                            float* out) const {
  const TensorInfo* tensor = Find(name);
  if (tensor == nullptr) return NotFound("%s has no tensor '%s'", dir_, name);
  ATL_ASSIGN_OR_RETURN(const Extent extent, MatrixExtent(*tensor));
  if (row_begin < 0 || rows < 0 || row_begin > extent.rows - rows) {
    return OutOfRange("rows [%d, %d) of tensor '%s', expected a range within %d rows", row_begin,
                      row_begin + rows, name, extent.rows);
  }
  if (tensor->dtype == DType::kUnspecified) {
    return Unimplemented("tensor '%s' has dtype %s, expected BF16, F16, F32 or F8_E4M3", name,
                         tensor->dtype_name);
  }
  const int64_t block = config_.fp8_block;
  const int64_t scale_columns = CeilDiv(extent.columns, block);
  const int64_t scale_begin = row_begin / block;
  std::vector<float> scale;
  if (tensor->dtype == DType::kF8E4M3 && rows > 0) {
    const int64_t scale_rows = CeilDiv(row_begin + rows, block) - scale_begin;
    scale.resize(scale_rows * scale_columns);
    ATL_RETURN_IF_ERROR(ReadRows(name + kScaleSuffix, scale_begin, scale_rows, scale.data()));
  }
  const int64_t row_bytes = extent.columns * DTypeBytes(tensor->dtype);
  const int64_t chunk_rows =
      std::min(rows, std::max<int64_t>(1, kChunkBytes / std::max<int64_t>(1, row_bytes)));
  const auto raw = std::make_unique_for_overwrite<std::byte[]>(chunk_rows * row_bytes);
  for (int64_t done = 0; done < rows; done += chunk_rows) {
    const int64_t count = std::min(chunk_rows, rows - done);
    const int64_t first = row_begin + done;
    float* const to = out + done * extent.columns;
    ATL_RETURN_IF_ERROR(files_[tensor->file_idx].ReadAt(tensor->offset + first * row_bytes,
                                                        count * row_bytes, raw.get()));
    WidenToF32(tensor->dtype, raw.get(), count * extent.columns, to);
    for (int64_t r = 0; r < count && !scale.empty(); ++r) {
      ScaleRow(to + r * extent.columns, extent.columns,
               scale.data() + ((first + r) / block - scale_begin) * scale_columns, block);
    }
    ATL_RETURN_IF_ERROR(CheckFinite(*tensor, to, first, count, extent.columns));
  }
  return absl::OkStatus();
}

StatusOr<std::vector<float>> Checkpoint::ReadAll(const std::string& name) const {
  const TensorInfo* tensor = Find(name);
  if (tensor == nullptr) return NotFound("%s has no tensor '%s'", dir_, name);
  ATL_ASSIGN_OR_RETURN(const Extent extent, MatrixExtent(*tensor));
  std::vector<float> values(extent.rows * extent.columns);
  ATL_RETURN_IF_ERROR(ReadRows(name, 0, extent.rows, values.data()));
  return values;
}

Status Checkpoint::ReadFp8Blocks(const std::string& name, int64_t block_row, uint8_t* codes,
                                 float* scale) const {
  const TensorInfo* tensor = Find(name);
  if (tensor == nullptr) return NotFound("%s has no tensor '%s'", dir_, name);
  if (tensor->dtype != DType::kF8E4M3)
    return InvalidArgument("tensor '%s' is %s, expected F8_E4M3", name, tensor->dtype_name);
  ATL_ASSIGN_OR_RETURN(const Extent extent, MatrixExtent(*tensor));
  const int64_t block = config_.fp8_block, num_rows = CeilDiv(extent.rows, block);
  if (block_row < 0 || block_row >= num_rows) {
    return OutOfRange("row %d of the blocks of tensor '%s', expected one of %d", block_row, name,
                      num_rows);
  }
  ATL_RETURN_IF_ERROR(ReadRows(name + kScaleSuffix, block_row, 1, scale));
  const int64_t first = block_row * block, rows = std::min(block, extent.rows - first);
  const int64_t count = rows * extent.columns;
  ATL_RETURN_IF_ERROR(files_[tensor->file_idx].ReadAt(tensor->offset + first * extent.columns,
                                                      count, reinterpret_cast<std::byte*>(codes)));
  const auto nan = [](uint8_t code) { return (code & 0x7f) == 0x7f; };
  const int64_t at = std::find_if(codes, codes + count, nan) - codes;
  if (at == count) return absl::OkStatus();
  return DataLoss("tensor '%s' is NaN at [%d, %d], expected finite values", name,
                  first + at / extent.columns, at % extent.columns);
}

bool Checkpoint::IsFp8(const std::string& name) const {
  const TensorInfo* tensor = Find(name);
  return tensor != nullptr && tensor->dtype == DType::kF8E4M3;
}

bool Checkpoint::IsBf16(const std::string& name) const {
  const TensorInfo* tensor = Find(name);
  return tensor != nullptr && tensor->dtype == DType::kBf16;
}

}  // namespace atl::model
