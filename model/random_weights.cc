#include "model/random_weights.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace atl::model {
namespace {

constexpr float kGateGain = 1.5f;  // deviation of router logits
constexpr float kFfnGain = 1.5f;   // deviation of gate_proj's outputs
constexpr float kHeadGain = 3.0f;  // deviation of logits
constexpr float kNormStddev = 0.15f;
constexpr float kBiasStddev = 0.05f;  // of e_score_correction_bias

// splitmix64's output function: a bijection whose results of consecutive counters are independent.
inline uint64_t Mix(uint64_t z) {
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

// Down to an eighth of an octave: gains come from exp and log, whose last bit may differ between
// machines.
float Coarse(double gain) {
  return static_cast<float>(std::exp2(std::round(std::log2(gain) * 8) / 8));
}

// Root mean square of silu(a) * b for a of deviation kFfnGain and b of deviation 1.
double SwigluRms() {
  constexpr int kSamples = 4096;
  std::vector<float> a(kSamples), b(kSamples);
  FillRandom(1, 0, kSamples, 0, kFfnGain, a.data());
  FillRandom(2, 0, kSamples, 0, 1, b.data());
  double sum = 0;
  for (int i = 0; i < kSamples; ++i) {
    const double h = a[i] / (1 + std::exp(-static_cast<double>(a[i]))) * b[i];
    sum += h * h;
  }
  return std::sqrt(sum / kSamples);
}

// Mean 2-norm of a token's routing weights, groups and bias left out.
double RoutingNorm(const ModelConfig& c) {
  constexpr int kTokens = 64;
  std::vector<float> score(c.n_routed_experts);
  double sum = 0;
  for (int t = 0; t < kTokens; ++t) {
    FillRandom(3, t * c.n_routed_experts, c.n_routed_experts, 0, kGateGain, score.data());
    double total = 0;
    for (float& s : score) {
      s = c.scoring_func == "sigmoid" ? 1 / (1 + std::exp(-s)) : std::exp(s);
      total += s;
    }
    if (c.scoring_func == "sigmoid") total = 1;
    std::sort(score.rbegin(), score.rend());
    double chosen = 0, squares = 0;
    for (int64_t j = 0; j < c.num_experts_per_tok; ++j) {
      chosen += score[j] / total;
      squares += score[j] / total * (score[j] / total);
    }
    sum += std::sqrt(squares) / (c.norm_topk_prob ? chosen : 1);
  }
  return sum / kTokens * c.routed_scaling_factor;
}

bool EndsWith(const TensorSpec& spec, const char* suffix) { return spec.name.ends_with(suffix); }

// y = x W^T with x of deviation 1 gives y of deviation `gain`.
Spread Linear(const TensorSpec& spec, float gain) {
  return {.stddev = gain / std::sqrt(static_cast<float>(spec.shape.back()))};
}

}  // namespace

uint64_t TensorKey(uint64_t seed, const std::string& name) {
  uint64_t hash = 0xcbf29ce484222325u;  // FNV-1a
  for (const char c : name) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001b3u;
  return Mix(Mix(seed + 0x9e3779b97f4a7c15u) ^ hash);
}

void FillRandom(uint64_t key, int64_t first, int64_t count, float mean, float stddev, float* out) {
  // Four numbers of [0, 65535]: mean 131070, variance 4 * (65536^2 - 1) / 12.
  constexpr float kUnit = 1 / 37837.2265f;
  const float scale = stddev * kUnit;
  for (int64_t i = 0; i < count; ++i) {
    const uint64_t z = Mix(key + static_cast<uint64_t>(first + i) * 0x9e3779b97f4a7c15u);
    const int32_t sum =
        static_cast<int32_t>((z & 0xffff) + (z >> 16 & 0xffff) + (z >> 32 & 0xffff) + (z >> 48));
    out[i] = mean + static_cast<float>(sum - 131070) * scale;
  }
}

WeightSpreads::WeightSpreads(const ModelConfig& c) {
  const double swiglu = SwigluRms();
  down_gain_ = Coarse(1 / swiglu);
  if (c.n_routed_experts > 0) routed_gain_ = Coarse(1 / (swiglu * RoutingNorm(c)));
  // A tied embedding is the head as well: its rows must give logits of the right size.
  if (c.tie_word_embeddings)
    embedding_stddev_ = 1.4f / std::sqrt(static_cast<float>(c.hidden_size));
}

Spread WeightSpreads::Of(const TensorSpec& spec) const {
  switch (spec.part) {
    case ModelPart::kEmbedding:
      return {.stddev = embedding_stddev_};
    case ModelPart::kHead:
      return Linear(spec, kHeadGain);
    case ModelPart::kNorm:
      return {.mean = 1, .stddev = kNormStddev};
    case ModelPart::kGate:
      return spec.float32 ? Spread{.stddev = kBiasStddev} : Linear(spec, kGateGain);
    case ModelPart::kAttention:
      if (EndsWith(spec, "o_proj.weight")) return Linear(spec, 2.0f);
      return Linear(
          spec, EndsWith(spec, "q_proj.weight") || EndsWith(spec, "q_b_proj.weight") ? 1.5f : 1.0f);
    case ModelPart::kDenseMlp:
    case ModelPart::kSharedExpert:
    case ModelPart::kRoutedExpert:
      if (EndsWith(spec, "up_proj.weight")) return Linear(spec, 1.0f);
      if (EndsWith(spec, "gate_proj.weight")) return Linear(spec, kFfnGain);
      return Linear(spec, spec.part == ModelPart::kRoutedExpert ? routed_gain_ : down_gain_);
  }
  return {};
}

}  // namespace atl::model
