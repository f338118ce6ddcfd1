// How fast the machine reads its memory at most, measured beside what is compared with it.
#pragma once

#include <cstdint>

#include "base/buffer.h"
#include "base/thread_pool.h"

namespace atl::bench {

// Reads [data, data + size) once: two streams with prefetch ahead, no arithmetic to wait for. The
// result depends on all of it.
int64_t ReadOnce(const std::byte* data, int64_t size);

// Reads `memory` once with all threads of `pool`; returns GB/s (10^9 bytes).
double ReadGbps(ThreadPool* pool, const Buffer& memory);

// Memory for ReadGbps: larger than any cache, all pages touched.
Buffer MakeRoofMemory();

}  // namespace atl::bench
