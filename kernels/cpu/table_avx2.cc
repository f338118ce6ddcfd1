#define ATL_ISA avx2
// clang-format off: the table uses the vectors.
#include "kernels/cpu/vec_avx2.h"
#include "kernels/cpu/table_inl.h"
// clang-format on

namespace atl::kernels {

const KernelTable kAvx2Table = avx2::kTable;

}  // namespace atl::kernels
