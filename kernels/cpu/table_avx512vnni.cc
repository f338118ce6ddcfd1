#define ATL_ISA avx512vnni
// clang-format off: the table uses the vectors.
#include "kernels/cpu/vec_avx512.h"
#include "kernels/cpu/table_inl.h"
// clang-format on

namespace atl::kernels {

const KernelTable kAvx512VnniTable = avx512vnni::kTable;

}  // namespace atl::kernels
