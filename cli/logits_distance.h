// How far one set of logits is from another.
#pragma once

#include <cstdint>
#include <span>

namespace atl::cli {

// Sums over positions; add positions of as many texts as there are. Accumulated in double. Pure.
class LogitsDistance {
 public:
  // Both [T, V]; `expected` is what the distribution should be.
  void Add(std::span<const float> expected, std::span<const float> found, int64_t vocab_size);

  int64_t num_positions() const { return num_positions_; }
  // Kullback-Leibler divergence of softmax(found) from softmax(expected), in nats: mean and largest
  // of a position.
  double mean_kl() const { return num_positions_ == 0 ? 0 : sum_kl_ / num_positions_; }
  double max_kl() const { return max_kl_; }
  // Share of positions where both have the same largest logit (the lower id of equal ones).
  double top1_agreement() const {
    return num_positions_ == 0 ? 1 : static_cast<double>(num_agreeing_) / num_positions_;
  }
  double max_logit_difference() const { return max_logit_difference_; }

 private:
  void AddPosition(const float* expected, const float* found, int64_t vocab_size);

  int64_t num_positions_ = 0;
  int64_t num_agreeing_ = 0;
  double sum_kl_ = 0;
  double max_kl_ = 0;
  double max_logit_difference_ = 0;
};

}  // namespace atl::cli
