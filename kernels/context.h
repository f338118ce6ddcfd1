// What every kernel call is given: which instruction set to use, and the threads to use it with.
#pragma once

#include <cstdint>
#include <string>

#include "base/status.h"
#include "base/thread_pool.h"

namespace atl::kernels {

// All give the same bits (docs/numerics.md): sums run over 16 virtual lanes, a lane being an
// output. kAvx512Vnni differs from kAvx512 in the integer products of quantised weights alone.
enum class Isa { kPortable, kAvx2, kAvx512, kAvx512Vnni };

const char* IsaName(Isa isa);                     // "portable", "avx2", "avx512", "avx512vnni"
StatusOr<Isa> ParseIsa(const std::string& name);  // also "auto": BestIsa()
bool IsaSupported(Isa isa);                       // by this CPU and operating system
Isa BestIsa();

struct KernelTable;  // one per instruction set, private to kernels/

// Copies freely; thread-safe as far as its pool is. `pool` may be null: everything then runs on the
// calling thread.
struct KernelContext {
  const KernelTable* table = nullptr;
  ThreadPool* pool = nullptr;
};

// FailedPrecondition if this CPU lacks `isa`.
StatusOr<KernelContext> MakeKernelContext(Isa isa, ThreadPool* pool);

// What a kernel does to each float32 it hands on.
enum class Rounding : uint8_t { kNone, kBf16 };

}  // namespace atl::kernels
