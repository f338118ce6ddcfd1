#include "cli/logits_distance.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"

namespace atl::cli {
namespace {

// log(sum(exp(x))), without overflow.
double LogSumExp(const float* x, int64_t count) {
  const double largest = *std::max_element(x, x + count);
  double sum = 0;
  for (int64_t i = 0; i < count; ++i) sum += std::exp(x[i] - largest);
  return largest + std::log(sum);
}

}  // namespace

void LogitsDistance::Add(std::span<const float> expected, std::span<const float> found,
                         int64_t vocab_size) {
  ATL_CHECK(expected.size() == found.size() && expected.size() % vocab_size == 0);
  for (size_t at = 0; at < expected.size(); at += vocab_size) {
    AddPosition(expected.data() + at, found.data() + at, vocab_size);
  }
}

void LogitsDistance::AddPosition(const float* expected, const float* found, int64_t vocab_size) {
  const double expected_norm = LogSumExp(expected, vocab_size);
  const double found_norm = LogSumExp(found, vocab_size);
  double kl = 0;
  for (int64_t i = 0; i < vocab_size; ++i) {
    const double log_p = expected[i] - expected_norm;
    const double log_q = found[i] - found_norm;
    kl += std::exp(log_p) * (log_p - log_q);
    max_logit_difference_ =
        std::max(max_logit_difference_, std::abs(double{expected[i]} - found[i]));
  }
  ++num_positions_;
  sum_kl_ += kl;
  max_kl_ = std::max(max_kl_, kl);
  const int64_t expected_best = std::max_element(expected, expected + vocab_size) - expected;
  const int64_t found_best = std::max_element(found, found + vocab_size) - found;
  num_agreeing_ += expected_best == found_best;
}

}  // namespace atl::cli
