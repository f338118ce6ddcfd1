#include "kernels/latent.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/check.h"
#include "kernels/cpu/constants.h"

namespace atl::kernels {
namespace {

static_assert(F8RopeOffset(512) == 528, "DeepSeek's layout: 512 codes, 4 scales, 64 bf16");

CacheFormat FormatOf(const MlaShape& shape) {
  switch (shape.cache_type) {
    case DType::kBf16:
      return CacheFormat::kBf16;
    case DType::kF8E4M3:
      return CacheFormat::kF8;
    default:
      ATL_DCHECK(shape.cache_type == DType::kF32);
      return CacheFormat::kF32;
  }
}

// The codes of up to kScaleGroup values; returns their scale.
float StoreGroup(const float* x, int64_t n, std::byte* codes) {
  uint32_t most = 0;  // of the bits without their sign: of a NaN above all, then infinity
  for (int64_t i = 0; i < n; ++i)
    most = std::max(most, std::bit_cast<uint32_t>(x[i]) & 0x7fffffffu);
  const bool finite = most < 0x7f800000u;
  if (!finite || most < kQuantTinyBits) {
    std::fill_n(codes, n, std::byte{0});
    return finite ? 0.0f : std::bit_cast<float>(0x7fc00000u);
  }
  const float max = std::bit_cast<float>(most), factor = kF8E4M3Max / max;
  for (int64_t i = 0; i < n; ++i) codes[i] = std::byte{F32ToF8E4M3(x[i] * factor)};
  return max / kF8E4M3Max;
}

void StoreF8(const MlaShape& shape, const float* c_kv, const float* k_rope, std::byte* to) {
  const int64_t r = shape.kv_lora_rank;
  for (int64_t i = 0; i < r; i += kScaleGroup) {
    const float scale = StoreGroup(c_kv + i, std::min(kScaleGroup, r - i), to + i);
    std::memcpy(to + F8ScalesOffset(r) + i / kScaleGroup * 4, &scale, 4);
  }
  for (int64_t i = 0; i < shape.qk_rope_head_dim; ++i) {
    const Bf16 v = F32ToBf16(k_rope[i]);
    std::memcpy(to + F8RopeOffset(r) + 2 * i, &v, 2);
  }
}

}  // namespace

int64_t CachePositionBytes(const MlaShape& shape) {
  const int64_t r = shape.kv_lora_rank, dr = shape.qk_rope_head_dim;
  if (FormatOf(shape) == CacheFormat::kF8) return (F8RopeOffset(r) + 2 * dr + 3) / 4 * 4;
  return (r + dr) * DTypeBytes(shape.cache_type);
}

int64_t CacheBlockBytes(const MlaShape& shape) { return kCacheBlock * CachePositionBytes(shape); }

void StoreLatent(const MlaShape& shape, const float* c_kv, const float* k_rope, std::byte* block,
                 int64_t position_in_block) {
  ATL_DCHECK(position_in_block >= 0 && position_in_block < kCacheBlock);
  const int64_t r = shape.kv_lora_rank, dr = shape.qk_rope_head_dim;
  std::byte* at = block + position_in_block * CachePositionBytes(shape);
  switch (FormatOf(shape)) {
    case CacheFormat::kF32: {
      float* to = reinterpret_cast<float*>(at);
      std::copy_n(c_kv, r, to);
      std::copy_n(k_rope, dr, to + r);
      return;
    }
    case CacheFormat::kBf16: {
      Bf16* to = reinterpret_cast<Bf16*>(at);
      for (int64_t i = 0; i < r; ++i) to[i] = F32ToBf16(c_kv[i]);
      for (int64_t i = 0; i < dr; ++i) to[r + i] = F32ToBf16(k_rope[i]);
      return;
    }
    case CacheFormat::kF8:
      return StoreF8(shape, c_kv, k_rope, at);
  }
}

BlockKeys KeysOf(const MlaShape& shape, const std::byte* block) {
  return {.data = block,
          .format = FormatOf(shape),
          .r = shape.kv_lora_rank,
          .stride = CachePositionBytes(shape)};
}

}  // namespace atl::kernels
