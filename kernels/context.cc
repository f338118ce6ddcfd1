#include "kernels/context.h"

#include "kernels/cpu/table.h"

namespace atl::kernels {
namespace {

const KernelTable* TableOf(Isa isa) {
  switch (isa) {
#if defined(__x86_64__)
    case Isa::kAvx2:
      return &kAvx2Table;
    case Isa::kAvx512:
      return &kAvx512Table;
    case Isa::kAvx512Vnni:
      return &kAvx512VnniTable;
#endif
    default:
      return &kPortableTable;
  }
}

}  // namespace

const char* IsaName(Isa isa) {
  switch (isa) {
    case Isa::kPortable:
      return "portable";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAvx512Vnni:
      return "avx512vnni";
  }
  return "unknown";
}

StatusOr<Isa> ParseIsa(const std::string& name) {
  if (name == "auto") return BestIsa();
  for (Isa isa : {Isa::kPortable, Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Vnni}) {
    if (name == IsaName(isa)) return isa;
  }
  return InvalidArgument(
      "instruction set \"%s\": expected auto, portable, avx2, avx512 or avx512vnni", name);
}

bool IsaSupported(Isa isa) {
#if defined(__x86_64__)
  // libgcc's look at CPUID includes whether the operating system saves the registers (XCR0).
  switch (isa) {
    case Isa::kPortable:
      return true;
    case Isa::kAvx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    case Isa::kAvx512:
      return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
             __builtin_cpu_supports("fma");
    case Isa::kAvx512Vnni:
      return IsaSupported(Isa::kAvx512) && __builtin_cpu_supports("avx512vnni");
  }
  return false;
#else
  return isa == Isa::kPortable;
#endif
}

Isa BestIsa() {
  if (IsaSupported(Isa::kAvx512Vnni)) return Isa::kAvx512Vnni;
  if (IsaSupported(Isa::kAvx512)) return Isa::kAvx512;
  return IsaSupported(Isa::kAvx2) ? Isa::kAvx2 : Isa::kPortable;
}

StatusOr<KernelContext> MakeKernelContext(Isa isa, ThreadPool* pool) {
  if (!IsaSupported(isa)) {
    return FailedPrecondition("instruction set %s: this CPU has no more than %s", IsaName(isa),
                              IsaName(BestIsa()));
  }
  return KernelContext{.table = TableOf(isa), .pool = pool};
}

}  // namespace atl::kernels
