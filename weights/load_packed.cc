#include "weights/load_packed.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "base/check.h"

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

// Panels a job takes at once: a buffer is allocated and the file asked once for all of them.
constexpr int64_t kPanelsPerJob = 4;

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
  const int64_t num_jobs = (matrix->num_panels() + kPanelsPerJob - 1) / kPanelsPerJob;
  const auto fill = [&](int64_t job) {
    if (error.IsBelow(job)) return;
    const int64_t first = job * kPanelsPerJob;
    const int64_t end = std::min(first + kPanelsPerJob, matrix->num_panels());
    const Status status = FillPanels(checkpoint, tensor, first, end, matrix);
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
