// From checkpoint tensors to packed matrices under a profile: read, decode, pack, panel by panel;
// memory never holds a second copy of a matrix.
#pragma once

#include <cstdint>
#include <string>

#include "base/status.h"
#include "base/thread_pool.h"
#include "kernels/ffn.h"
#include "kernels/matmul.h"
#include "model/checkpoint.h"
#include "model/profile.h"

namespace atl::weights {

// The packed format that a tensor takes under the profile's weight rule. gate_proj and up_proj of
// one prefix take the same: float32 where a checkpoint mixes types and the rule keeps them.
kernels::WeightFormat PackedFormat(const model::Checkpoint& checkpoint, const std::string& tensor,
                                   model::MatrixFormat rule);

// The whole matrix, on `pool`'s threads (null: the caller's). Errors as Checkpoint::ReadRows.
StatusOr<kernels::PackedMatrix> LoadPacked(const model::Checkpoint& checkpoint,
                                           const std::string& tensor, model::MatrixFormat rule,
                                           ThreadPool* pool);

// gate_proj, up_proj and down_proj under `prefix` ("model.layers.0.mlp.").
StatusOr<kernels::FfnWeights> LoadFfn(const model::Checkpoint& checkpoint,
                                      const std::string& prefix, model::MatrixFormat rule,
                                      ThreadPool* pool);

// kernels::Rounding of a wire or cache type.
kernels::Rounding RoundingOf(DType dtype);
// Of what is handed from one product to the next. kInt8: none, the next product rounds.
kernels::Rounding RoundingOf(model::Activations activations);

}  // namespace atl::weights
