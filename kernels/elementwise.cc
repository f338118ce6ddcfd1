#include "kernels/elementwise.h"

#include "kernels/cpu/table.h"
#include "kernels/parallel.h"

namespace atl::kernels {

void RmsNorm(const KernelContext& ctx, const float* x, int64_t ldx, const float* weight, float eps,
             int64_t rows, int64_t n, float* y, int64_t ldy, Rounding rounding) {
  const bool bf16 = rounding == Rounding::kBf16;
  ForRows(ctx, rows, n, [&](int64_t t) {
    ctx.table->rms_norm_row(x + t * ldx, weight, eps, n, y + t * ldy, bf16);
  });
}

void AddInPlace(const KernelContext& ctx, float* x, const float* y, int64_t n) {
  ForRange(ctx, n,
           [&](int64_t begin, int64_t end) { ctx.table->add(x + begin, y + begin, end - begin); });
}

void F32ToBf16Range(const KernelContext& ctx, const float* x, int64_t n, Bf16* y) {
  ForRange(ctx, n, [&](int64_t begin, int64_t end) {
    ctx.table->f32_to_bf16(x + begin, end - begin, y + begin);
  });
}

void Bf16ToF32Range(const KernelContext& ctx, const Bf16* x, int64_t n, float* y) {
  ForRange(ctx, n, [&](int64_t begin, int64_t end) {
    ctx.table->bf16_to_f32(x + begin, end - begin, y + begin);
  });
}

void RoundRange(const KernelContext& ctx, float* x, int64_t n, Rounding rounding) {
  if (rounding == Rounding::kNone) return;
  ForRange(ctx, n,
           [&](int64_t begin, int64_t end) { ctx.table->round_bf16(x + begin, end - begin); });
}

}  // namespace atl::kernels
