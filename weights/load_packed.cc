#include "weights/load_packed.h"

#include <algorithm>
#include <cmath>
#include <span>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "base/check.h"
#include "model/encode.h"

namespace atl::weights {
namespace {

using kernels::PackedMatrix;

// The error of the lowest job that failed. Jobs are taken in ascending order, and only those above
// a failed one are skipped, so which error it is does not depend on timing.
class FirstError {
 public:
  void Add(int64_t job, const Status& status) {
    absl::MutexLock lock(&mu_);
    if (!status_.ok() && job_ < job) return;
    job_ = job;
    status_ = status;
  }
  bool IsBelow(int64_t job) const {
    absl::MutexLock lock(&mu_);
    return !status_.ok() && job_ < job;
  }
  Status Take() const {
    absl::MutexLock lock(&mu_);
    return status_;
  }

 private:
  mutable absl::Mutex mu_;
  int64_t job_ ABSL_GUARDED_BY(mu_) = 0;
  Status status_ ABSL_GUARDED_BY(mu_);
};

// Panels a job takes at once: a buffer is allocated and the file asked once for all of them. Of FP8
// blocks, a row of them.
int64_t PanelsPerJob(const PackedMatrix& matrix) {
  return matrix.format() == kernels::WeightFormat::kFp8
             ? PackedMatrix::kFp8Block / PackedMatrix::kPanel
             : 4;
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
  std::vector<float> values(rows * matrix->k());
  ATL_RETURN_IF_ERROR(checkpoint.ReadRows(tensor, row_begin, rows, values.data()));
  for (int64_t panel = first; panel < end; ++panel) {
    matrix->FillPanel(panel, values.data() + (panel - first) * kPanel * matrix->k());
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
  FirstError error;
  const int64_t step = PanelsPerJob(*matrix), num_jobs = (matrix->num_panels() + step - 1) / step;
  const auto fill_panels =
      matrix->format() == kernels::WeightFormat::kFp8 ? FillFp8Panels : FillPanels;
  const auto fill = [&](int64_t job) {
    if (error.IsBelow(job)) return;
    const int64_t first = job * step;
    const int64_t end = std::min(first + step, matrix->num_panels());
    const Status status = fill_panels(checkpoint, tensor, first, end, matrix);
    if (!status.ok()) error.Add(job, status);
  };
  if (pool != nullptr) {
    pool->ParallelFor(num_jobs, fill);
  } else {
    for (int64_t job = 0; job < num_jobs; ++job) fill(job);
  }
  return error.Take();
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

StatusOr<PackedMatrix> LoadPacked(const model::Checkpoint& checkpoint, const std::string& tensor,
                                  model::MatrixFormat rule, ThreadPool* pool) {
  ATL_ASSIGN_OR_RETURN(const model::TensorInfo* info, FindMatrix(checkpoint, tensor));
  PackedMatrix matrix(PackedFormat(checkpoint, tensor, rule), info->shape[0], info->shape[1]);
  ATL_RETURN_IF_ERROR(Fill(checkpoint, tensor, pool, &matrix));
  return matrix;
}

StatusOr<kernels::FfnWeights> LoadFfn(const model::Checkpoint& checkpoint,
                                      const std::string& prefix, model::MatrixFormat rule,
                                      ThreadPool* pool) {
  const std::string gate = prefix + "gate_proj.weight", up = prefix + "up_proj.weight",
                    down = prefix + "down_proj.weight";
  ATL_ASSIGN_OR_RETURN(const model::TensorInfo* shape, FindMatrix(checkpoint, gate));
  const kernels::WeightFormat format = PackedFormat(checkpoint, gate, rule);
  kernels::FfnWeights ffn(format, shape->shape[1], shape->shape[0]);
  for (const auto& [tensor, matrix] :
       {std::pair(&gate, &ffn.gate), {&up, &ffn.up}, {&down, &ffn.down}}) {
    ATL_ASSIGN_OR_RETURN(const model::TensorInfo* info, FindMatrix(checkpoint, *tensor));
    if (info->shape[0] != matrix->n() || info->shape[1] != matrix->k()) {
      return InvalidArgument("tensor '%s' is %d x %d, expected %d x %d beside '%s'", *tensor,
                             info->shape[0], info->shape[1], matrix->n(), matrix->k(), gate);
    }
    // Where a checkpoint mixes types down_proj may differ: then it has memory of its own.
    if (const auto own = PackedFormat(checkpoint, *tensor, rule); own != format)
      *matrix = PackedMatrix(own, matrix->n(), matrix->k());
    ATL_RETURN_IF_ERROR(Fill(checkpoint, *tensor, pool, matrix));
  }
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
