#include "kernels/cpu/vec_avx512.h"

#define ATL_ISA avx512
#include "kernels/cpu/table_inl.h"

namespace atl::kernels {

const KernelTable kAvx512Table = avx512::kTable;

}  // namespace atl::kernels
