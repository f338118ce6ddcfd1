#define ATL_ISA portable
// clang-format off: the table uses the vectors.
#include "kernels/cpu/vec_portable.h"
#include "kernels/cpu/table_inl.h"
// clang-format on

namespace atl::kernels {

const KernelTable kPortableTable = portable::kTable;

}  // namespace atl::kernels
