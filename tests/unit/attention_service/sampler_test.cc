#include "attention_service/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <map>
#include <numeric>
#include <set>

namespace atl::attention {
namespace {

atollpb::v1::ResolvedSampling Plain(float temperature) {
  atollpb::v1::ResolvedSampling params;
  params.set_temperature(temperature);
  params.set_top_p(1);
  params.set_repetition_penalty(1);
  return params;
}

kernels::KernelContext Context() {
  return *kernels::MakeKernelContext(kernels::BestIsa(), nullptr);
}

uint32_t SampleOnce(const atollpb::v1::ResolvedSampling& params, std::vector<float> logits,
                    uint64_t position, std::vector<uint32_t> prompt = {},
                    std::vector<uint32_t> generated = {}) {
  Sampler sampler(params, prompt);
  for (uint32_t id : generated) sampler.Push(id);
  return sampler.Sample(Context(), std::span(logits), position);
}

// Share of each id over many positions.
std::map<uint32_t, double> Shares(const atollpb::v1::ResolvedSampling& params,
                                  const std::vector<float>& logits, int draws = 20000) {
  Sampler sampler(params, {});
  std::map<uint32_t, double> shares;
  for (int i = 0; i < draws; ++i) {
    std::vector<float> row = logits;
    shares[sampler.Sample(Context(), std::span(row), i)] += 1.0 / draws;
  }
  return shares;
}

TEST(SamplerTest, GreedyTakesTheLargestAndTheLowerIdOfEquals) {
  EXPECT_EQ(SampleOnce(Plain(0), {1, 3, 2, 3}, 0), 1);
}

TEST(SamplerTest, ParametersOutsideTheirRangesAreNamed) {
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  constexpr float kInf = std::numeric_limits<float>::infinity();
  EXPECT_TRUE(CheckSampling(Plain(0), 10).ok());
  using Params = atollpb::v1::ResolvedSampling;
  const std::pair<const char*, std::function<void(Params*)>> bad[] = {
      {"temperature", [=](Params* p) { p->set_temperature(kNan); }},
      {"temperature", [](Params* p) { p->set_temperature(-1); }},
      {"top_p", [](Params* p) { p->set_top_p(0); }},
      {"top_p", [=](Params* p) { p->set_top_p(kNan); }},
      {"min_p", [](Params* p) { p->set_min_p(1.5); }},
      {"repetition_penalty", [](Params* p) { p->set_repetition_penalty(0); }},
      {"presence_penalty", [=](Params* p) { p->set_presence_penalty(kInf); }},
      {"frequency_penalty", [=](Params* p) { p->set_frequency_penalty(kNan); }},
      {"logit_bias", [=](Params* p) { (*p->mutable_logit_bias())[3] = kNan; }},
      {"logit_bias", [](Params* p) { (*p->mutable_logit_bias())[10] = 1; }},
  };
  for (const auto& [name, change] : bad) {
    Params params = Plain(1);
    change(&params);
    const Status status = CheckSampling(params, 10);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << name;
    EXPECT_NE(status.message().find(name), absl::string_view::npos) << status;
  }
}

TEST(SamplerTest, LogitsThatAreNoNumbersAreNotDrawn) {
  auto params = Plain(1);
  params.set_top_k(3);
  params.set_top_p(0.9f);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (uint64_t position = 0; position < 50; ++position) {
    const uint32_t id = SampleOnce(params, {nan, 1, nan, 2, nan, 3, nan, nan}, position);
    EXPECT_TRUE(id == 1 || id == 3 || id == 5) << id;
  }
}

TEST(SamplerTest, DrawsFollowTheProbabilities) {
  auto params = Plain(1);
  params.set_seed(3);
  const std::vector<float> logits = {std::log(0.1f), std::log(0.2f), std::log(0.3f),
                                     std::log(0.4f)};
  const auto shares = Shares(params, logits);
  for (uint32_t id = 0; id < 4; ++id) EXPECT_NEAR(shares.at(id), 0.1 * (id + 1), 0.015) << id;
}

TEST(SamplerTest, TemperatureSharpens) {
  auto params = Plain(0.5f);
  const std::vector<float> logits = {std::log(0.2f), std::log(0.8f)};
  EXPECT_NEAR(Shares(params, logits).at(1), 0.64 / 0.68, 0.01);  // squares of the probabilities
}

TEST(SamplerTest, TinyTemperatureIsGreedyAndFinite) {
  EXPECT_EQ(SampleOnce(Plain(1e-38f), {1, 300, 299.9f}, 9), 1);
}

TEST(SamplerTest, TopKKeepsTheMostLikelyLowerIdsOfEquals) {
  auto params = Plain(1);
  params.set_top_k(2);
  const auto shares = Shares(params, {1, 2, 2, 2, 0}, 2000);
  EXPECT_EQ(shares.size(), 2);
  EXPECT_TRUE(shares.contains(1) && shares.contains(2));
}

TEST(SamplerTest, TopPKeepsTheSmallestSetThatReachesIt) {
  auto params = Plain(1);
  params.set_top_p(0.65f);  // 0.4 + 0.3 reach it
  const std::vector<float> logits = {std::log(0.1f), std::log(0.3f), std::log(0.4f),
                                     std::log(0.2f)};
  const auto shares = Shares(params, logits, 5000);
  EXPECT_EQ(shares.size(), 2);
  EXPECT_NEAR(shares.at(2), 4.0 / 7, 0.03);
  EXPECT_NEAR(shares.at(1), 3.0 / 7, 0.03);
}

TEST(SamplerTest, TopPIsTakenOfWhatTopKLeft) {
  auto params = Plain(1);
  params.set_top_k(2);
  params.set_top_p(0.5f);  // of 0.4 and 0.3 the first alone has 4/7
  const std::vector<float> logits = {std::log(0.1f), std::log(0.3f), std::log(0.4f),
                                     std::log(0.2f)};
  EXPECT_EQ(Shares(params, logits, 500).size(), 1);
}

TEST(SamplerTest, MinPDropsBelowAShareOfTheBest) {
  auto params = Plain(1);
  params.set_min_p(0.6f);  // 0.4 * 0.6 = 0.24
  const std::vector<float> logits = {std::log(0.1f), std::log(0.3f), std::log(0.4f),
                                     std::log(0.2f)};
  const auto shares = Shares(params, logits, 2000);
  EXPECT_EQ(shares.size(), 2);
  EXPECT_TRUE(shares.contains(1) && shares.contains(2));
}

TEST(SamplerTest, RepetitionPenaltyCoversPromptAndGenerated) {
  auto params = Plain(0);
  params.set_repetition_penalty(2);
  EXPECT_EQ(SampleOnce(params, {4, 3, 1}, 0), 0);
  EXPECT_EQ(SampleOnce(params, {4, 3, 1}, 0, {0}), 1);        // 4 / 2 < 3
  EXPECT_EQ(SampleOnce(params, {4, 3, 1}, 0, {0}, {1}), 0);   // 2 against 1.5
  EXPECT_EQ(SampleOnce(params, {-1, -1.5f, -4}, 0, {0}), 1);  // negative logits are multiplied
}

TEST(SamplerTest, PresenceAndFrequencyCountGeneratedAlone) {
  auto params = Plain(0);
  params.set_presence_penalty(1.5f);
  EXPECT_EQ(SampleOnce(params, {4, 3, 1}, 0, {0, 0}), 0);
  EXPECT_EQ(SampleOnce(params, {4, 3, 1}, 0, {}, {0, 0}), 1);
  params.set_presence_penalty(0);
  params.set_frequency_penalty(0.4f);
  EXPECT_EQ(SampleOnce(params, {4, 3, 1}, 0, {}, {0, 0}), 0);     // 3.2
  EXPECT_EQ(SampleOnce(params, {4, 3, 1}, 0, {}, {0, 0, 0}), 1);  // 2.8
}

TEST(SamplerTest, LogitBiasComesBeforeThePenalties) {
  auto params = Plain(0);
  (*params.mutable_logit_bias())[2] = 10;
  EXPECT_EQ(SampleOnce(params, {4, 3, 1}, 0), 2);
  params.set_repetition_penalty(4);
  EXPECT_EQ(SampleOnce(params, {4, 3, 1}, 0, {2}), 0);  // (1 + 10) / 4 < 4
}

TEST(SamplerTest, ADrawDependsOnSeedAndPositionAlone) {
  auto params = Plain(1);
  params.set_seed(77);
  const std::vector<float> logits(1000, 0.0f);
  const uint32_t first = SampleOnce(params, logits, 5);
  EXPECT_EQ(SampleOnce(params, logits, 5), first);
  std::set<uint32_t> seen;
  for (int position = 0; position < 20; ++position)
    seen.insert(SampleOnce(params, logits, position));
  EXPECT_GT(seen.size(), 10);
}

TEST(FillLogprobTest, MatchesDoubleArithmetic) {
  std::vector<float> logits(777);
  for (size_t i = 0; i < logits.size(); ++i) logits[i] = std::sin(static_cast<float>(i) * 1.7f) * 6;
  double sum = 0;
  for (float l : logits) sum += std::exp(static_cast<double>(l));
  atollpb::v1::TokenLogprob out;
  FillLogprob(Context(), logits, 123, 20, &out);
  EXPECT_EQ(out.id(), 123);
  EXPECT_NEAR(out.logprob(), logits[123] - std::log(sum), 1e-5);
  std::vector<int> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return logits[a] > logits[b]; });
  ASSERT_EQ(out.top_size(), 20);
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(out.top(i).id(), order[i]);
    EXPECT_NEAR(out.top(i).logprob(), logits[order[i]] - std::log(sum), 1e-5);
  }
}

}  // namespace
}  // namespace atl::attention
