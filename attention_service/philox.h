// Counter-based random numbers: a draw is a pure function of (seed, position), so there is no state
// to lose. Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011),
// Philox4x32-10.
#pragma once

#include <array>
#include <cstdint>

namespace atl::attention {

inline std::array<uint32_t, 4> Philox4x32(std::array<uint32_t, 4> counter,
                                          std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53u} * counter[0];
    const uint64_t p1 = uint64_t{0xCD9E8D57u} * counter[2];
    counter = {static_cast<uint32_t>(p1 >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(p1),
               static_cast<uint32_t>(p0 >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(p0)};
    key[0] += 0x9E3779B9u;
    key[1] += 0xBB67AE85u;
  }
  return counter;
}

// Uniform in [0, 1), 24 bits: the first word of the block whose counter is `position` and whose key
// is `seed`.
inline float UniformAt(uint64_t seed, uint64_t position) {
  const std::array<uint32_t, 4> block =
      Philox4x32({static_cast<uint32_t>(position), static_cast<uint32_t>(position >> 32), 0, 0},
                 {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
  return static_cast<float>(block[0] >> 8) * 0x1p-24f;
}

}  // namespace atl::attention
