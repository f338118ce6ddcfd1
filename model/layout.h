// Which tensors a checkpoint of a configuration has: names, shapes, what part of the model they
// belong to. The one list behind the checks of a checkpoint, the counts of a plan and the writing
// of a random model.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "model/config.h"

namespace atl::model {

enum class ModelPart : uint8_t {
  kEmbedding,
  kHead,
  kNorm,
  kAttention,
  kDenseMlp,
  kGate,
  kSharedExpert,
  kRoutedExpert
};
inline constexpr int kNumModelParts = 8;
const char* ModelPartName(ModelPart part);  // "embedding", "routed experts", ...

struct TensorSpec {
  std::string name;
  std::vector<int64_t> shape;  // [N, K] of y = x W^T, or [N]
  ModelPart part = ModelPart::kNorm;
  int64_t layer = -1;      // -1: outside the layers; L + i: MTP layer i
  bool quantized = false;  // stored as FP8 blocks where the checkpoint is FP8 (published layout)
  bool float32 = false;    // stored as float32 whatever the rest is (e_score_correction_bias)

  int64_t params() const;
};

// Calls `visit` for each tensor, in the order of the model: embedding, layers, MTP layers, final
// norm, head.
void ForEachTensor(const ModelConfig& config, absl::FunctionRef<void(const TensorSpec&)> visit);

// The tensors of one layer (layer < L), or of MTP layer i as L + i.
void ForEachLayerTensor(const ModelConfig& config, int64_t layer,
                        absl::FunctionRef<void(const TensorSpec&)> visit);

struct ParamCount {
  int64_t total = 0;
  int64_t active = 0;
};

// Parameters of the main model (MTP layers not counted): all of them, and those that one token
// meets. A token meets K routed experts of each MoE layer, every shared expert, and one row of an
// embedding that is no head as well. Gate biases (e_score_correction_bias) are counted.
ParamCount CountParams(const ModelConfig& config);

}  // namespace atl::model
