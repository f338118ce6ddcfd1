// The bytes of panels are what files of packed weights hold: they may not change unnoticed.
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "kernels/packed_matrix.h"

namespace atl::kernels {
namespace {

// FNV-1a, 64 bits, as published by Fowler, Noll and Vo.
uint64_t Fnv1a(const std::byte* bytes, int64_t size) {
  uint64_t hash = 0xcbf29ce484222325;
  for (int64_t i = 0; i < size; ++i)
    hash = (hash ^ static_cast<uint64_t>(bytes[i])) * 0x100000001b3;
  return hash;
}

// 37 x 75: panels, pairs and groups that are not full.
uint64_t HashOf(WeightFormat format) {
  constexpr int64_t kN = 37, kK = 75;
  std::vector<float> w(kN * kK);
  uint32_t x = 1;
  for (float& value : w) {
    x = x * 1664525 + 1013904223;
    value = std::ldexp(static_cast<float>(static_cast<int32_t>(x) >> 8), -25);
  }
  PackedMatrix packed(format, kN, kK);
  for (int64_t p = 0; p < packed.num_panels(); ++p)
    packed.FillPanel(p, w.data() + p * PackedMatrix::kPanel * kK);
  return Fnv1a(packed.panel(0), packed.bytes());
}

// If this fails, files made before hold other bytes than are expected now: raise
// kPackedLayoutVersion, then put the new hashes here.
TEST(PackedLayout, HashesOfVersion1) {
  EXPECT_EQ(kPackedLayoutVersion, 1);
  EXPECT_EQ(HashOf(WeightFormat::kF32), 254814485301505786u);
  EXPECT_EQ(HashOf(WeightFormat::kBf16), 3486255951869633477u);
  EXPECT_EQ(HashOf(WeightFormat::kQ8), 3701074122442321104u);
  EXPECT_EQ(HashOf(WeightFormat::kQ4), 15875059491854879382u);
}

}  // namespace
}  // namespace atl::kernels
