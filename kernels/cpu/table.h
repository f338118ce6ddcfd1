// What one instruction set offers. Private to kernels/ and its tests.
//
// The files under cpu/ compiled for AVX2 or AVX-512 include nothing but this, constants.h and the
// intrinsics: an inline function of any other header, compiled with their flags, could be the copy
// the linker keeps for the whole program.
#pragma once

#include <cstdint>

namespace atl::kernels {

inline constexpr int kUnitPanels = 4;      // panels of 16 outputs in a unit of work
inline constexpr int kUnitRows = 192;      // rows in a unit of work
inline constexpr int kUnitHeads = 64;      // heads in a unit of attention
inline constexpr int kBlockKeys = 64;      // mla.h kCacheBlock
inline constexpr int kSegmentKeys = 1024;  // mla.h kSegment

enum class PanelFormat : uint8_t { kF32, kBf16, kQ8, kQ4 };  // packed_matrix.h WeightFormat

// Panels of quantised weights: groups of kGroup along K, two by two; each pair is a line of 2 x 16
// scales (bf16), then the data of both. A last group without a neighbour has its line too.
inline constexpr int64_t kGroup = 32;
inline constexpr int64_t kScalesBytes = 64;
// Data of a group of 16 outputs. kQ8: [kGroup / 4][16][4] bytes, four k of an output side by side,
// 128 more than the signed value. kQ4: [kGroup / 8][16][4] bytes, k = 8 i + b below, k = 8 i + 4 +
// b in the upper half, 8 more than the signed value.
static inline constexpr int64_t GroupBytes(bool q4) { return q4 ? 256 : 512; }
static inline constexpr int64_t ScalesOffset(bool q4, int64_t group) {
  return group / 2 * (kScalesBytes + 2 * GroupBytes(q4)) + group % 2 * 32;
}
static inline constexpr int64_t DataOffset(bool q4, int64_t group) {
  return group / 2 * (kScalesBytes + 2 * GroupBytes(q4)) + kScalesBytes +
         group % 2 * GroupBytes(q4);
}

// kGroup inputs of one row, quantised.
struct QuantGroup {
  int8_t q[kGroup];
  float scale;
  int32_t offset;  // -128 times the sum of q: undoes the 128 in the weights
};
static_assert(sizeof(QuantGroup) == 40);

// Up to kUnitPanels panels of packed weights times up to kUnitRows rows.
struct PanelUnit {
  const void* w[kUnitPanels] = {};
  int num_panels = 0;
  bool pairs = false;  // panels of two matrices by turns
  PanelFormat format = PanelFormat::kF32;
  int64_t k = 0;
  const float* x = nullptr;  // kF32, kBf16
  int64_t ldx = 0;
  const QuantGroup* q = nullptr;  // kQ8, kQ4
  int64_t ldq = 0;                // groups from one row to the next
  const int32_t* row = nullptr;   // [m] rows of x or q; null: 0, 1, ..., m-1
  int64_t m = 0;
};

// A block of cache: positions `stride` elements apart.
struct BlockKeys {
  const void* data = nullptr;
  bool bf16 = false;  // else float32
  int64_t stride = 0;
};

// Softmax state of some heads: running maximum and sum [heads rounded up to 16], and the weighted
// sum [heads, ldo].
struct SoftmaxState {
  float* m = nullptr;
  float* l = nullptr;
  float* o = nullptr;
  int64_t ldo = 0;  // R rounded up to 16
};

struct KernelTable {
  // y [m, cols] = x W^T, cols <= 16 num_panels.
  void (*matmul_unit)(const PanelUnit& unit, float* y, int64_t ldy, int64_t cols, bool round_bf16);
  // w holds panels of gate and up by turns; h [m, cols] = silu(gate x) * up x.
  void (*swiglu_unit)(const PanelUnit& unit, float* h, int64_t ldh, int64_t cols, bool round_bf16);

  // out [ceil(k / kGroup)], zeros behind k. matmul.h defines the bits.
  void (*quantize_row)(const float* x, int64_t k, QuantGroup* out);

  void (*rms_norm_row)(const float* x, const float* weight, float eps, int64_t n, float* y,
                       bool round_bf16);
  void (*add)(float* x, const float* y, int64_t n);
  void (*f32_to_bf16)(const float* x, int64_t n, uint16_t* y);
  void (*bf16_to_f32)(const uint16_t* x, int64_t n, float* y);
  void (*round_bf16)(float* x, int64_t n);
  void (*sigmoid)(const float* x, int64_t n, float* y);
  // cos, sin [half]; x: `vectors` vectors of 2 * half, `stride` apart.
  void (*rope)(const float* cos, const float* sin, int64_t half, int64_t vectors, float* x,
               int64_t stride, bool round_bf16);

  float (*max)(const float* x, int64_t n);  // -inf if there is nothing but NaN
  float (*exp_sum)(const float* x, int64_t n, float max, float* y);  // y may be null
  int64_t (*find_equal)(const float* x, int64_t n, float value);     // first index, or n
  int64_t (*find_greater)(const float* x, int64_t begin, int64_t n,
                          float value);  // first index from begin on, or n
  // gate.h CombineRow; bf16: the type of shared, out and y.
  void (*combine_row)(bool bf16, int64_t d, const void* shared, const void* const* out,
                      const float* weight, int64_t num, void* y);

  // keys [num, ldk]: elements [first, first + width) of the block's first `num` positions as
  // float32.
  void (*mla_widen)(const BlockKeys& from, int64_t num, int64_t first, int64_t width, float* keys,
                    int64_t ldk);
  // scores [num, heads] = keys q, not scaled, heads <= kUnitHeads rounded up to 16. q [heads /
  // 16][k][16].
  void (*mla_scores)(const float* q, int64_t heads, int64_t k, const float* keys, int64_t ldk,
                     int64_t num, float* scores, int64_t ld);
  // A block's softmax for 16 heads: updates m, l [16]; prob [16][kBlockKeys]; keep [16]: what the
  // sums so far are multiplied by.
  void (*mla_softmax)(const float* scores, int64_t ld, int64_t num, float scale, float* m, float* l,
                      float* prob, float* keep);
  // o [heads, cols] = keep o + prob keys; cols is a multiple of 16, heads <= kUnitRows.
  void (*mla_sum)(const float* prob, const float* keep, int64_t heads, const float* keys,
                  int64_t ldk, int64_t num, int64_t cols, float* o, int64_t ldo);
  // Adds a later segment to `into`.
  void (*mla_merge)(int64_t heads, int64_t r, const SoftmaxState& into,
                    const SoftmaxState& segment);
  // out [heads, R] = o / l.
  void (*mla_finish)(int64_t heads, int64_t r, const SoftmaxState& state, float* out,
                     bool round_bf16);
};

static inline constexpr int64_t RoundUp16(int64_t n) { return (n + 15) / 16 * 16; }

extern const KernelTable kPortableTable;
#if defined(__x86_64__)
extern const KernelTable kAvx2Table;
extern const KernelTable kAvx512Table;
extern const KernelTable kAvx512VnniTable;
#endif

}  // namespace atl::kernels
