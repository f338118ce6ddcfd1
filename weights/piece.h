// Several matrices in one piece of memory, loaded as a whole.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "absl/functional/function_ref.h"
#include "base/status.h"
#include "base/thread_pool.h"
#include "kernels/packed_matrix.h"
#include "weights/packed_cache.h"

namespace atl::weights {

struct PieceMatrix {
  std::string name;  // of what it holds: with format and shape a part of the piece's contents
  kernels::WeightFormat format = kernels::WeightFormat::kF32;
  int64_t n = 0, k = 0;
  kernels::PackedMatrix* out = nullptr;
};

// Lays the matrices one after another into memory of their own, which `cache` (null: none) knows by
// `name`, and sets each `out`. fill() is called, with each `out` set to memory that is zero, where
// they have to be made; its error is the only one. When this returns, what `out`s hold may lie
// elsewhere and is not to be written any more.
Status LoadPiece(PackedCache* cache, const std::string& name, std::span<const PieceMatrix> matrices,
                 ThreadPool* pool, absl::FunctionRef<Status()> fill);

}  // namespace atl::weights
