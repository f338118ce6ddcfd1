// How fast the machine reads its memory at most, measured beside what is compared with it.
#pragma once

#include "base/buffer.h"
#include "base/thread_pool.h"

namespace atl::bench {

// Reads `memory` once with all threads of `pool`; returns GB/s (10^9 bytes).
double ReadGbps(ThreadPool* pool, const Buffer& memory);

// Memory for ReadGbps: larger than any cache, all pages touched.
Buffer MakeRoofMemory();

}  // namespace atl::bench
