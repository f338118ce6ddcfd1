#include "weights/load_packed.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "base/check.h"
#include "model/encode.h"
#include "weights/jobs.h"
#include "weights/piece.h"

namespace atl::weights {
namespace {

using kernels::PackedMatrix;

// Floats that a job reads at once, in whole panels: they stay in L2 until they are packed.
constexpr int64_t kJobFloats = int64_t{64} << 10;

// Panels a job takes at once. Of FP8 blocks, a row of them.
int64_t PanelsPerJob(const PackedMatrix& matrix) {
  if (matrix.format() == kernels::WeightFormat::kFp8)
    return PackedMatrix::kFp8Block / PackedMatrix::kPanel;
  return std::max<int64_t>(1,
                           kJobFloats / (PackedMatrix::kPanel * std::max<int64_t>(1, matrix.k())));
}

// Row `block_row` of the FP8 blocks of a tensor, stored as such or as something else.
Status ReadFp8Blocks(const model::Checkpoint& checkpoint, const std::string& tensor,
                     int64_t block_row, int64_t columns, std::span<uint8_t> codes,
                     std::vector<float>* scale) {
  constexpr int64_t kBlock = PackedMatrix::kFp8Block;
  scale->resize((columns + kBlock - 1) / kBlock);
  if (checkpoint.IsFp8(tensor)) {
    ATL_CHECK(checkpoint.config().fp8_block == kBlock);
    ATL_RETURN_IF_ERROR(checkpoint.ReadFp8Blocks(tensor, block_row, codes.data(), scale->data()));
  } else {
    std::vector<float> values(codes.size());
    ATL_RETURN_IF_ERROR(checkpoint.ReadRows(
        tensor, block_row * kBlock, static_cast<int64_t>(codes.size()) / columns, values.data()));
    *scale = model::ScaleBlocks(values, columns, kBlock);
    model::NarrowFromF32(DType::kF8E4M3, values.data(), static_cast<int64_t>(values.size()),
                         reinterpret_cast<std::byte*>(codes.data()));
  }
  for (size_t b = 0; b < scale->size(); ++b) {
    if (std::abs((*scale)[b]) < PackedMatrix::kFp8ScaleLimit) continue;
    return Unimplemented(
        "tensor '%s' has the scale %g at [%d, %d] of its FP8 blocks, expected less "
        "than %g in magnitude",
        tensor, (*scale)[b], block_row, b, PackedMatrix::kFp8ScaleLimit);
  }
  return absl::OkStatus();
}

Status FillFp8Panels(const model::Checkpoint& checkpoint, const std::string& tensor, int64_t first,
                     int64_t end, PackedMatrix* matrix) {
  constexpr int64_t kPanel = PackedMatrix::kPanel;
  const int64_t row_begin = first * kPanel;
  const int64_t rows = std::min(end * kPanel, matrix->n()) - row_begin;
  std::vector<uint8_t> codes(rows * matrix->k());
  std::vector<float> scale;
  ATL_RETURN_IF_ERROR(ReadFp8Blocks(checkpoint, tensor, row_begin / PackedMatrix::kFp8Block,
                                    matrix->k(), codes, &scale));
  for (int64_t panel = first; panel < end; ++panel) {
    matrix->FillFp8Panel(panel, codes.data() + (panel - first) * kPanel * matrix->k(),
                         scale.data());
  }
  return absl::OkStatus();
}

Status FillPanels(const model::Checkpoint& checkpoint, const std::string& tensor, int64_t first,
                  int64_t end, PackedMatrix* matrix) {
  constexpr int64_t kPanel = PackedMatrix::kPanel;
  const int64_t row_begin = first * kPanel;
  const int64_t rows = std::min(end * kPanel, matrix->n()) - row_begin;
  const auto values = std::make_unique_for_overwrite<float[]>(rows * matrix->k());
  ATL_RETURN_IF_ERROR(checkpoint.ReadRows(tensor, row_begin, rows, values.get()));
  for (int64_t panel = first; panel < end; ++panel) {
    matrix->FillPanel(panel, values.get() + (panel - first) * kPanel * matrix->k());
  }
  return absl::OkStatus();
}

StatusOr<const model::TensorInfo*> FindMatrix(const model::Checkpoint& checkpoint,
                                              const std::string& tensor) {
  const model::TensorInfo* info = checkpoint.Find(tensor);
  if (info == nullptr) return NotFound("%s has no tensor '%s'", checkpoint.dir(), tensor);
  if (info->shape.size() != 2) {
    return InvalidArgument("tensor '%s' has %d dimensions, expected a matrix", tensor,
                           info->shape.size());
  }
  return info;
}

// All panels of `matrix`, on `pool`'s threads.
Status Fill(const model::Checkpoint& checkpoint, const std::string& tensor, ThreadPool* pool,
            PackedMatrix* matrix) {
  const int64_t step = PanelsPerJob(*matrix), num_jobs = (matrix->num_panels() + step - 1) / step;
  const auto fill_panels =
      matrix->format() == kernels::WeightFormat::kFp8 ? FillFp8Panels : FillPanels;
  return RunJobs(pool, num_jobs, [&](int64_t job) {
    const int64_t first = job * step;
    const int64_t end = std::min(first + step, matrix->num_panels());
    return fill_panels(checkpoint, tensor, first, end, matrix);
  });
}

kernels::WeightFormat OwnFormat(const model::Checkpoint& checkpoint, const std::string& tensor,
                                model::MatrixFormat rule) {
  if (rule == model::MatrixFormat::kQ8) return kernels::WeightFormat::kQ8;
  if (rule == model::MatrixFormat::kQ4) return kernels::WeightFormat::kQ4;
  if (rule == model::MatrixFormat::kFp8) return kernels::WeightFormat::kFp8;
  const bool bf16 = rule == model::MatrixFormat::kBf16 || checkpoint.IsBf16(tensor);
  return bf16 ? kernels::WeightFormat::kBf16 : kernels::WeightFormat::kF32;
}

// The matrix that is read in one pass with this one (kernels/ffn.h): gate_proj's is up_proj, and
// the other way round; "": none.
std::string PartnerOf(const std::string& tensor) {
  const std::string gate = "gate_proj.weight", up = "up_proj.weight";
  if (tensor.ends_with(gate)) return tensor.substr(0, tensor.size() - gate.size()) + up;
  if (tensor.ends_with(up)) return tensor.substr(0, tensor.size() - up.size()) + gate;
  return "";
}

}  // namespace

kernels::WeightFormat PackedFormat(const model::Checkpoint& checkpoint, const std::string& tensor,
                                   model::MatrixFormat rule) {
  const kernels::WeightFormat own = OwnFormat(checkpoint, tensor, rule);
  const std::string partner = PartnerOf(tensor);
  if (partner.empty() || OwnFormat(checkpoint, partner, rule) == own) return own;
  return kernels::WeightFormat::kF32;  // exact for either
}

Status LoadTogether(const model::Checkpoint& checkpoint, const std::string& name,
                    std::span<const MatrixSource> sources, model::MatrixFormat rule,
                    ThreadPool* pool, PackedCache* cache) {
  std::vector<PieceMatrix> matrices;
  for (const auto& [tensor, out] : sources) {
    ATL_ASSIGN_OR_RETURN(const model::TensorInfo* info, FindMatrix(checkpoint, tensor));
    matrices.push_back({.name = tensor,
                        .format = PackedFormat(checkpoint, tensor, rule),
                        .n = info->shape[0],
                        .k = info->shape[1],
                        .out = out});
  }
  return LoadPiece(cache, name, matrices, pool, [&]() -> Status {
    for (const auto& [tensor, out] : sources)
      ATL_RETURN_IF_ERROR(Fill(checkpoint, tensor, pool, out));
    return absl::OkStatus();
  });
}

StatusOr<PackedMatrix> LoadPacked(const model::Checkpoint& checkpoint, const std::string& tensor,
                                  model::MatrixFormat rule, ThreadPool* pool, PackedCache* cache) {
  PackedMatrix matrix;
  const MatrixSource source{tensor, &matrix};
  ATL_RETURN_IF_ERROR(LoadTogether(checkpoint, tensor, std::span(&source, 1), rule, pool, cache));
  return matrix;
}

StatusOr<kernels::FfnWeights> LoadFfn(const model::Checkpoint& checkpoint,
                                      const std::string& prefix, model::MatrixFormat rule,
                                      ThreadPool* pool, PackedCache* cache) {
  const std::string gate = prefix + "gate_proj.weight";
  kernels::FfnWeights ffn;
  const MatrixSource sources[] = {{gate, &ffn.gate},
                                  {prefix + "up_proj.weight", &ffn.up},
                                  {prefix + "down_proj.weight", &ffn.down}};
  ATL_ASSIGN_OR_RETURN(const model::TensorInfo* first, FindMatrix(checkpoint, gate));
  const int64_t f = first->shape[0], d = first->shape[1];
  for (const MatrixSource& source : sources) {
    ATL_ASSIGN_OR_RETURN(const model::TensorInfo* info, FindMatrix(checkpoint, source.tensor));
    const int64_t n = source.out == &ffn.down ? d : f, k = source.out == &ffn.down ? f : d;
    if (info->shape[0] != n || info->shape[1] != k) {
      return InvalidArgument("tensor '%s' is %d x %d, expected %d x %d beside '%s'", source.tensor,
                             info->shape[0], info->shape[1], n, k, gate);
    }
  }
  const std::string name = prefix.substr(0, prefix.size() - 1);
  ATL_RETURN_IF_ERROR(LoadTogether(checkpoint, name, sources, rule, pool, cache));
  return ffn;
}

kernels::Rounding RoundingOf(DType dtype) {
  ATL_CHECK(dtype == DType::kF32 || dtype == DType::kBf16);
  return dtype == DType::kBf16 ? kernels::Rounding::kBf16 : kernels::Rounding::kNone;
}

kernels::Rounding RoundingOf(model::Activations activations) {
  return activations == model::Activations::kBf16 ? kernels::Rounding::kBf16
                                                  : kernels::Rounding::kNone;
}

}  // namespace atl::weights
