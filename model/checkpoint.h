// A checkpoint folder in HuggingFace's layout, opened and checked: config.json,
// generation_config.json, one or many safetensors with an index.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "base/file.h"
#include "base/status.h"
#include "model/config.h"

namespace atl::model {

struct TensorInfo {
  std::string name;
  DType dtype =
      DType::kUnspecified;  // kUnspecified: one that nothing here computes with, see dtype_name
  std::string dtype_name;   // as the header spells it
  std::vector<int64_t> shape;
  int file_idx = 0;
  int64_t offset = 0;  // of the first byte, from the file's start
  int64_t bytes = 0;
};

// Thread-safe after Open: tensors are read with pread, nothing stays mapped.
class Checkpoint {
 public:
  // Opens `dir`, reads every header, checks that every tensor that the config asks for is there
  // with the right shape and a supported dtype. Touches no tensor data but the samples of
  // `revision`. NotFound, InvalidArgument, DataLoss, Unimplemented: each says which file or tensor,
  // expected and found.
  static StatusOr<std::unique_ptr<Checkpoint>> Open(const std::string& dir);

  const ModelConfig& config() const { return config_; }
  const GenerationConfig& generation_config() const { return generation_config_; }
  const std::string& dir() const { return dir_; }
  const std::string& name() const { return name_; }  // the folder's last part
  // Fingerprint, 16 hex digits of SHA-256: config.json, all headers, and of each file its size and
  // 64 samples of 4 KiB spread evenly (whole if smaller). Nodes of another revision are refused.
  const std::string& revision() const { return revision_; }

  const TensorInfo* Find(const std::string& name) const;  // null if there is none
  const std::map<std::string, TensorInfo>& tensors() const { return tensors_; }

  // Rows [row_begin, row_begin + rows) of a matrix [N, K] (or a vector as one row) as float32,
  // exact: bf16 and fp16 widened; e4m3 times its block's weight_scale_inv, rounded once to float32.
  // DataLoss if a value is NaN or infinite (names tensor and place) or the file is cut short.
  Status ReadRows(const std::string& tensor, int64_t row_begin, int64_t rows, float* out) const;
  // Row `block_row` of the 128 x 128 blocks of an FP8 matrix [N, K], as stored: codes [min(128, N -
  // 128 block_row), K] of e4m3, scale [ceil(K / 128)]. InvalidArgument: the tensor has no FP8
  // blocks; else as ReadRows.
  Status ReadFp8Blocks(const std::string& tensor, int64_t block_row, uint8_t* codes,
                       float* scale) const;
  // A whole vector or matrix.
  StatusOr<std::vector<float>> ReadAll(const std::string& tensor) const;
  // True if every value of the tensor is exactly representable in bf16 by its dtype (BF16).
  bool IsBf16(const std::string& tensor) const;
  bool IsFp8(const std::string& tensor) const;  // stored as FP8 blocks

  // Parameters of the main model (MTP layers not counted), total and used per token, see
  // CountParams (layout.h).
  int64_t total_params() const { return total_params_; }
  int64_t active_params() const { return active_params_; }

 private:
  Checkpoint() = default;

  std::string dir_;
  std::string name_;
  std::string revision_;
  ModelConfig config_;
  GenerationConfig generation_config_;
  int64_t total_params_ = 0;
  int64_t active_params_ = 0;
  std::vector<RandomAccessFile> files_;
  std::map<std::string, TensorInfo> tensors_;
};

// Tensor names. layer may be L + i for MTP layer i.
std::string LayerPrefix(int64_t layer);  // "model.layers.3."
std::string ExpertPrefix(const ModelConfig& config, int64_t layer,
                         int64_t expert);  // "model.layers.3.mlp.experts.7." or ...shared_experts.

}  // namespace atl::model
