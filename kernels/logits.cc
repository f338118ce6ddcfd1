#include "kernels/logits.h"

#include <algorithm>
#include <limits>

#include "kernels/cpu/table.h"
#include "kernels/exact_math.h"

namespace atl::kernels {
namespace {

// Whether `a` stands before `b` in a descending order; equals by ascending id.
bool Before(const TopEntry& a, const TopEntry& b) {
  return a.value > b.value || (a.value == b.value && a.id < b.id);
}

}  // namespace

int32_t ArgMax(const KernelContext& ctx, const float* x, int64_t v) {
  const int64_t at = ctx.table->find_equal(x, v, ctx.table->max(x, v));
  return at < v ? static_cast<int32_t>(at) : 0;  // nothing but NaN
}

float LogSumExp(const KernelContext& ctx, const float* x, int64_t v) {
  const float max = ctx.table->max(x, v);
  return max + Log(ctx.table->exp_sum(x, v, max, nullptr));
}

float ExpSum(const KernelContext& ctx, const float* x, int64_t v, float max, float* y) {
  return ctx.table->exp_sum(x, v, max, y);
}

// A heap whose root is the last of the best so far. Ids ascend, so an equal of the root never
// displaces it.
void TopN(const KernelContext& ctx, const float* x, int64_t v, std::span<TopEntry> top) {
  const int64_t n = static_cast<int64_t>(top.size());
  if (n == 0) return;
  auto entry = [&](int64_t i) {
    // NaN counts as -inf, so that comparisons stay an order.
    return TopEntry{static_cast<int32_t>(i),
                    x[i] == x[i] ? x[i] : -std::numeric_limits<float>::infinity()};
  };
  for (int64_t i = 0; i < n; ++i) top[i] = entry(i);
  std::make_heap(top.begin(), top.end(), Before);
  for (int64_t i = n; (i = ctx.table->find_greater(x, i, v, top[0].value)) < v; ++i) {
    std::pop_heap(top.begin(), top.end(), Before);
    top[n - 1] = entry(i);
    std::push_heap(top.begin(), top.end(), Before);
  }
  std::sort_heap(top.begin(), top.end(), Before);
}

}  // namespace atl::kernels
