#include "kernels/cpu/vec_portable.h"

#define ATL_ISA portable
#include "kernels/cpu/table_inl.h"

namespace atl::kernels {

const KernelTable kPortableTable = portable::kTable;

}  // namespace atl::kernels
