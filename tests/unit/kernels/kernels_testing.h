// What the kernel tests share: contexts of every instruction set, reproducible numbers, comparison
// of bits.
#pragma once

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <memory>
#include <random>
#include <span>
#include <vector>

#include "base/dtype.h"
#include "kernels/context.h"
#include "kernels/packed_matrix.h"

namespace atl::kernels {

inline std::vector<Isa> SupportedIsas() {
  std::vector<Isa> isas;
  for (Isa isa : {Isa::kPortable, Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Vnni}) {
    if (IsaSupported(isa)) isas.push_back(isa);
  }
  return isas;
}

inline KernelContext Context(Isa isa, ThreadPool* pool = nullptr) {
  return *MakeKernelContext(isa, pool);
}

// Uniform in [-scale, scale). mt19937's numbers are given by the standard: the same on every
// machine.
inline std::vector<float> Random(int64_t n, uint32_t seed, float scale = 1) {
  std::mt19937 generator(seed);
  std::vector<float> x(n);
  for (float& v : x) v = scale * (static_cast<float>(generator() >> 8) * 0x1p-23f - 1.0f);
  return x;
}

inline std::vector<float> RoundedToBf16(std::vector<float> x) {
  for (float& v : x) v = RoundToBf16(v);
  return x;
}

// w [n, k] row-major.
inline PackedMatrix Pack(WeightFormat format, int64_t n, int64_t k, const std::vector<float>& w) {
  PackedMatrix packed(format, n, k);
  for (int64_t i = 0; i < packed.num_panels(); ++i)
    packed.FillPanel(i, w.data() + i * PackedMatrix::kPanel * k);
  return packed;
}

// Equal bits (so -0 is not +0); any NaN equals any other.
inline bool SameBits(float a, float b) {
  return (std::isnan(a) && std::isnan(b)) ||
         std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b);
}

inline testing::AssertionResult SameBits(std::span<const float> found,
                                         std::span<const float> expected) {
  if (found.size() != expected.size()) {
    return testing::AssertionFailure()
           << "sizes " << found.size() << ", expected " << expected.size();
  }
  for (size_t i = 0; i < found.size(); ++i) {
    if (!SameBits(found[i], expected[i])) {
      return testing::AssertionFailure()
             << "first at " << i << ": " << found[i] << ", expected " << expected[i];
    }
  }
  return testing::AssertionSuccess();
}

// Runs `body(ctx, what)` with each instruction set, alone and on pools of 2 and 4 threads.
template <typename Body>
void ForEachContext(Body body) {
  for (Isa isa : SupportedIsas()) {
    for (int threads : {1, 2, 4}) {
      SCOPED_TRACE(std::string(IsaName(isa)) + ", threads: " + std::to_string(threads));
      ThreadPool pool({.num_threads = threads, .spin = absl::ZeroDuration()});
      body(Context(isa, threads == 1 ? nullptr : &pool));
    }
  }
}

// 16 lanes added as the headers say: i and i + 8, then 4, 2, 1.
inline float AddLanes(float (&lane)[16]) {
  for (int step = 8; step > 0; step /= 2) {
    for (int i = 0; i < step; ++i) lane[i] += lane[i + step];
  }
  return lane[0];
}

}  // namespace atl::kernels
