// All kernels for one instruction set. The including file defines ATL_ISA, the name of the
// namespace, and has included its vector type.
#include "kernels/cpu/constants.h"
#include "kernels/cpu/table.h"

// clang-format off: later files use earlier ones.
#include "kernels/cpu/math_inl.h"
#include "kernels/cpu/panels_inl.h"
#include "kernels/cpu/quant_inl.h"
#include "kernels/cpu/fp8_inl.h"
#include "kernels/cpu/matmul_inl.h"
#include "kernels/cpu/rows_inl.h"
#include "kernels/cpu/mla_inl.h"
// clang-format on

namespace atl::kernels::ATL_ISA {

inline constexpr KernelTable kTable = {
    .matmul_unit = MatMulUnit,
    .swiglu_unit = SwigluUnit,
    .quantize_row = QuantizeRow,
    .rms_norm_row = RmsNormRow,
    .add = AddRange,
    .f32_to_bf16 = F32ToBf16Range,
    .bf16_to_f32 = Bf16ToF32Range,
    .round_bf16 = RoundBf16Range,
    .sigmoid = SigmoidRange,
    .rope = RopeVectors,
    .max = MaxOf,
    .exp_sum = ExpSum,
    .find_equal = FindEqual,
    .find_greater = FindGreater,
    .combine_row = CombineRow,
    .mla_widen = MlaWiden,
    .mla_scores = MlaScores,
    .mla_softmax = MlaSoftmax,
    .mla_sum = MlaSum,
    .mla_merge = MlaMerge,
    .mla_finish = MlaFinish,
};

}  // namespace atl::kernels::ATL_ISA
