// From checkpoint tensors to packed matrices under a profile: read, decode, pack, panel by panel;
// memory never holds a second copy of a matrix.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "base/status.h"
#include "base/thread_pool.h"
#include "kernels/ffn.h"
#include "kernels/matmul.h"
#include "model/checkpoint.h"
#include "model/profile.h"
#include "weights/packed_cache.h"

namespace atl::weights {

// The packed format that a tensor takes under the profile's weight rule. gate_proj and up_proj of
// one prefix take the same: float32 where a checkpoint mixes types and the rule keeps them.
kernels::WeightFormat PackedFormat(const model::Checkpoint& checkpoint, const std::string& tensor,
                                   model::MatrixFormat rule);

// Where a matrix comes from and goes to.
struct MatrixSource {
  std::string tensor;
  kernels::PackedMatrix* out = nullptr;
};

// Matrices that are used together, in one piece of memory, on `pool`'s threads (null: the
// caller's). `cache` (null: none) knows the piece by `name`. Errors as Checkpoint::ReadRows; under
// kFp8 Unimplemented where a block's scale is PackedMatrix::kFp8ScaleLimit or more.
Status LoadTogether(const model::Checkpoint& checkpoint, const std::string& name,
                    std::span<const MatrixSource> sources, model::MatrixFormat rule,
                    ThreadPool* pool, PackedCache* cache);

// One matrix; the piece has the tensor's name.
StatusOr<kernels::PackedMatrix> LoadPacked(const model::Checkpoint& checkpoint,
                                           const std::string& tensor, model::MatrixFormat rule,
                                           ThreadPool* pool, PackedCache* cache = nullptr);

// gate_proj, up_proj and down_proj under `prefix` ("model.layers.0.mlp.") in one piece, called by
// the prefix without its last point.
StatusOr<kernels::FfnWeights> LoadFfn(const model::Checkpoint& checkpoint,
                                      const std::string& prefix, model::MatrixFormat rule,
                                      ThreadPool* pool, PackedCache* cache = nullptr);

// kernels::Rounding of a wire or cache type.
kernels::Rounding RoundingOf(DType dtype);
// Of what is handed from one product to the next. kInt8: none, the next product rounds.
kernels::Rounding RoundingOf(model::Activations activations);

}  // namespace atl::weights
