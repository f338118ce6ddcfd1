// The gate of every MoE layer.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/status.h"
#include "kernels/gate.h"
#include "kernels/matmul.h"
#include "model/checkpoint.h"

namespace atl::dispatch {

// Gate weights of all MoE layers (MTP layers included). Constant after loading.
class GateWeights {
 public:
  static StatusOr<std::unique_ptr<GateWeights>> Load(const model::Checkpoint& checkpoint,
                                                     ThreadPool* pool);
  const kernels::GateParams& params() const { return params_; }
  const kernels::PackedMatrix& weight(int32_t layer) const { return layers_[layer].weight; }
  // e_score_correction_bias [E], null if the model has none.
  const float* bias(int32_t layer, uint64_t bias_version) const;
  bool has_bias_version(uint64_t version) const { return version == 0; }

 private:
  struct Layer {
    kernels::PackedMatrix weight;  // [E, D], exact
    std::vector<float> bias;
  };
  kernels::GateParams params_;
  std::vector<Layer> layers_;
};

}  // namespace atl::dispatch
