// Random weights that a forward pass survives: which spread each tensor gets, and the numbers
// themselves.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "model/config.h"
#include "model/layout.h"

namespace atl::model {

// The stream of one tensor: a function of (seed, name) alone.
uint64_t TensorKey(uint64_t seed, const std::string& name);

// out[i] = mean + stddev * z(key, first + i) for i < count, z bell-shaped with variance 1 and |z|
// < 3.47: the sum of four 16-bit numbers of one mixed 64-bit counter. Integers until the last two
// float32 operations: the same bits anywhere.
void FillRandom(uint64_t key, int64_t first, int64_t count, float mean, float stddev, float* out);

struct Spread {
  float mean = 0;
  float stddev = 0;
};

// Spreads that keep the residual stream near its embedding's size and logits near a deviation of 3,
// for any configuration. Constant after construction.
class WeightSpreads {
 public:
  explicit WeightSpreads(const ModelConfig& config);

  Spread Of(const TensorSpec& spec) const;

 private:
  float down_gain_ =
      1;  // of down_proj in dense layers: undoes what silu(gate) * up does to the spread
  float routed_gain_ = 1;  // of down_proj in routed experts: undoes the routing weights as well
  float embedding_stddev_ = 0.7f;
};

}  // namespace atl::model
