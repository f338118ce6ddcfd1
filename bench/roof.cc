#include "bench/roof.h"

#include <atomic>
#include <chrono>
#include <cstring>

#if defined(__x86_64__)
#include <emmintrin.h>
#endif

namespace atl::bench {
namespace {

constexpr int64_t kChunk = int64_t{4} << 20;

}  // namespace

int64_t ReadOnce(const std::byte* data, int64_t size) {
#if defined(__x86_64__)
  const int64_t half = size / 2 / 64 * 64;
  __m128i sum = _mm_setzero_si128();
  for (int64_t i = 0; i < half; i += 64) {
    for (int64_t s = 0; s < 2; ++s) {
      const std::byte* line = data + s * half + i;
      __builtin_prefetch(line + 1024, /*rw=*/0, /*locality=*/2);
      for (int64_t j = 0; j < 64; j += 16) {
        sum = _mm_xor_si128(sum, _mm_load_si128(reinterpret_cast<const __m128i*>(line + j)));
      }
    }
  }
  return _mm_cvtsi128_si64(sum);
#else
  int64_t sum = 0;
  for (int64_t i = 0; i < size; i += 8) {
    int64_t word;
    std::memcpy(&word, data + i, 8);
    sum ^= word;
  }
  return sum;
#endif
}

Buffer MakeRoofMemory() {
  Buffer memory(size_t{1} << 30);
  std::memset(memory.data(), 1, memory.size());
  return memory;
}

double ReadGbps(ThreadPool* pool, const Buffer& memory) {
  const int64_t chunks = memory.size() / kChunk;
  std::atomic<int64_t> sum{0};
  const auto begin = std::chrono::steady_clock::now();
  pool->ParallelFor(chunks, [&](int64_t i) {
    sum.fetch_add(ReadOnce(memory.data() + i * kChunk, kChunk), std::memory_order_relaxed);
  });
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  return static_cast<double>(chunks * kChunk) / seconds / 1e9;
}

}  // namespace atl::bench
