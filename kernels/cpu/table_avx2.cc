#include "kernels/cpu/vec_avx2.h"

#define ATL_ISA avx2
#include "kernels/cpu/table_inl.h"

namespace atl::kernels {

const KernelTable kAvx2Table = avx2::kTable;

}  // namespace atl::kernels
