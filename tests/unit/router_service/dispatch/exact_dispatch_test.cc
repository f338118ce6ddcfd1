// The same bits, whatever the nodes, links, replicas, frames and company.
#include <gtest/gtest.h>

#include "tests/unit/router_service/dispatch/dispatch_fixture.h"

namespace atl::dispatch {
namespace {

using transport::LinkKind;

class ExactTest : public DispatchFixture,
                  public ::testing::WithParamInterface<std::tuple<const char*, LinkKind>> {
 protected:
  ExactTest() : DispatchFixture(std::get<0>(GetParam())) {}
  LinkKind kind() const { return std::get<1>(GetParam()); }
};
INSTANTIATE_TEST_SUITE_P(All, ExactTest,
                         ::testing::Combine(::testing::Values("reference", "bf16"),
                                            ::testing::Values(LinkKind::kInproc, LinkKind::kShm,
                                                              LinkKind::kUnix, LinkKind::kTcp)),
                         [](const auto& info) {
                           return std::string(std::get<0>(info.param)) + "_" +
                                  transport::LinkKindName(std::get<1>(info.param));
                         });

TEST_P(ExactTest, AnyNumberOfNodes) {
  for (int nodes : {1, 2, 5}) {
    SCOPED_TRACE(nodes);
    MakeDispatcher({});
    real_.clear();
    StartNodes(
        nodes, [&](int n, int32_t layer, int32_t e) { return (layer + e) % nodes == n; }, kind());
    for (int32_t layer : MoeLayers()) {
      for (int64_t rows : {1, 3, 40}) {
        const auto y = Dispatch(layer, rows, 7 * layer + rows);
        ASSERT_TRUE(y.ok()) << y.status();
        EXPECT_TRUE(*y == Expected(layer, rows, 7 * layer + rows))
            << "layer " << layer << ", " << rows << " rows";
      }
    }
  }
  EXPECT_EQ(dispatcher_->outstanding(), 0);
  EXPECT_EQ(dispatcher_->retries(), 0u);
}

TEST_P(ExactTest, ReplicasShareTheWork) {
  StartNodes(3, HoldsAll, kind());
  const auto y = Dispatch(2, 24, 5);
  ASSERT_TRUE(y.ok()) << y.status();
  EXPECT_TRUE(*y == Expected(2, 24, 5));
  for (const auto& node : real_) EXPECT_GT(node->engine->stats().rows.load(), 0u);
}

TEST_P(ExactTest, ManyCallsInFlightAtOnce) {
  StartNodes(2, [](int n, int32_t, int32_t e) { return e % 2 == n || e == 16; }, kind());
  constexpr int kCalls = 12;
  std::vector<std::optional<StatusOr<std::string>>> results(kCalls);
  for (int i = 0; i < kCalls; ++i) Submit(Call(2 + i % 3, 1 + i, 100 + i), &results[i]);
  EXPECT_EQ(dispatcher_->outstanding(), kCalls);
  Run([&] { return dispatcher_->outstanding() == 0; });
  for (int i = 0; i < kCalls; ++i) {
    ASSERT_TRUE(results[i].has_value() && results[i]->ok()) << i;
    EXPECT_TRUE(**results[i] == Expected(2 + i % 3, 1 + i, 100 + i)) << i;
  }
  EXPECT_GT(real_[0]->engine->stats().merged_calls.load(), 0u) << "rows of several calls met";
  const DispatchHistograms& histograms = dispatcher_->histograms();
  EXPECT_EQ(histograms.call_rows.Read().count(), kCalls);
  EXPECT_EQ(histograms.call_rows.Read().sum, kCalls * (kCalls + 1) / 2);
  EXPECT_EQ(histograms.call_rows.Read().counts[2], 2u) << "3 and 4 rows";
  EXPECT_EQ(histograms.call_seconds.Read().count(), kCalls);
  EXPECT_GT(histograms.gate_ns.load(), 0u);
  EXPECT_GT(histograms.combine_ns.load(), 0u);
}

TEST_P(ExactTest, WorkInManySmallFrames) {
  MakeDispatcher({.max_frame_bytes = 5 * d() * DTypeBytes(profile_.wire) + 1});
  StartNodes(2, [](int n, int32_t, int32_t e) { return e % 2 == n; }, kind());
  const auto y = Dispatch(3, 30, 9);
  ASSERT_TRUE(y.ok()) << y.status();
  EXPECT_TRUE(*y == Expected(3, 30, 9));
  EXPECT_GE(real_[0]->engine->stats().calls.load() + real_[1]->engine->stats().calls.load(), 30u)
      << "30 rows x 5 pairs in frames of 5";
}

TEST_P(ExactTest, ANodeLostInTheMiddleChangesNothing) {
  StartNodes(2, HoldsAll, kind());
  std::vector<std::pair<cluster::NodeName, Status>> closed;
  dispatcher_->OnLinkClosed(
      [&](const cluster::NodeName& node, const Status& why) { closed.emplace_back(node, why); });
  std::optional<StatusOr<std::string>> y;
  Submit(Call(2, 24, 5), &y);
  real_[0]->engine = nullptr;  // before it has computed anything: its links go
  Run([&] { return y.has_value(); });
  ASSERT_TRUE(y->ok()) << y->status();
  EXPECT_TRUE(**y == Expected(2, 24, 5));
  EXPECT_EQ(real_[1]->engine->stats().rows.load(), 24u * 5) << "all of it";
  EXPECT_GT(dispatcher_->retries(), 0u);
  ASSERT_EQ(closed.size(), 1u);
  EXPECT_EQ(closed[0].first, "expert-0");
  EXPECT_FALSE(dispatcher_->HasLink("expert-0"));
  EXPECT_TRUE(dispatcher_->HasLink("expert-1"));
}

TEST_P(ExactTest, ARemovedLinkChangesNothing) {
  StartNodes(2, HoldsAll, kind());
  dispatcher_->OnLinkClosed(
      [&](const cluster::NodeName&, const Status&) { ADD_FAILURE() << "it was our own will"; });
  std::optional<StatusOr<std::string>> y;
  Submit(Call(2, 24, 5), &y);
  dispatcher_->RemoveLink("expert-1");
  Run([&] { return y.has_value(); });
  ASSERT_TRUE(y->ok()) << y->status();
  EXPECT_TRUE(**y == Expected(2, 24, 5));
}

// Softmax gates, no bias, two shared experts as one, other group rules.
class OtherModelsTest : public DispatchFixture, public ::testing::WithParamInterface<const char*> {
 protected:
  OtherModelsTest() : DispatchFixture("bf16", GetParam()) {}
};
INSTANTIATE_TEST_SUITE_P(Presets, OtherModelsTest,
                         ::testing::Values("v2_lite", "v2", "v3_fp8", "moonlight", "kimi"),
                         [](const auto& info) { return std::string(info.param); });

TEST_P(OtherModelsTest, TwoNodes) {
  StartNodes(2, [](int n, int32_t, int32_t e) { return e % 2 == n; });
  for (int32_t layer : MoeLayers()) {
    const auto y = Dispatch(layer, 12, layer);
    ASSERT_TRUE(y.ok()) << y.status();
    EXPECT_TRUE(*y == Expected(layer, 12, layer)) << layer;
  }
}

class RoutesTest : public DispatchFixture {};

TEST_F(RoutesTest, CountersAreTheGatesChoices) {
  StartNodes(2, HoldsAll);
  std::map<std::pair<int32_t, int32_t>, uint64_t> expected;
  for (int32_t layer : {2, 3}) {
    for (uint32_t seed : {1u, 2u}) {
      ASSERT_TRUE(Dispatch(layer, 20, seed).ok());
      for (int32_t id : ExpectedChoice(layer, 20, seed).ids) ++expected[{layer, id}];
      expected[{layer, 16}] += 20;  // the shared expert sees every row
    }
  }
  const RouteCounters& counters = dispatcher_->counters();
  ASSERT_EQ(counters.num_layers(), 5);
  ASSERT_EQ(counters.num_experts(), 17);
  for (int32_t layer = 0; layer < 5; ++layer) {
    for (int32_t e = 0; e < 17; ++e) {
      const std::pair key(layer, e);
      EXPECT_EQ(counters.Get(layer, e), expected[key]) << layer << " " << e;
      // And the nodes together computed just that.
      uint64_t computed = 0;
      for (const auto& node : real_) {
        if (const auto held = node->store->Find({layer, e})) computed += held->rows.load();
      }
      EXPECT_EQ(computed, expected[key]) << layer << " " << e;
    }
  }
}

TEST_F(RoutesTest, HookSeesChoicesAndMayReplaceThem) {
  StartNodes(1, HoldsAll);
  Choice seen;
  dispatcher_->SetRouteHookForTest(
      [&](int32_t layer, int64_t rows, int32_t* ids, float* weights, bool*) {
        EXPECT_EQ(layer, 2);
        seen.ids.assign(ids, ids + rows * 4);
        seen.weights.assign(weights, weights + rows * 4);
      });
  ASSERT_TRUE(Dispatch(2, 6, 3).ok());
  const Choice expected = ExpectedChoice(2, 6, 3);
  EXPECT_EQ(seen.ids, expected.ids);
  EXPECT_EQ(seen.weights, expected.weights);

  // Forced experts, weighed as if they had been chosen.
  Choice forced = expected;
  dispatcher_->SetRouteHookForTest(
      [&](int32_t, int64_t rows, int32_t* ids, float* weights, bool* replaced) {
        for (int64_t i = 0; i < rows * 4; ++i)
          ids[i] = static_cast<int32_t>(3 * (i % 4) + i / 4 % 3);
        forced.ids.assign(ids, ids + rows * 4);
        std::fill(weights, weights + rows * 4, -1.0f);  // to be replaced
        *replaced = true;
      });
  const kernels::PackedMatrix& w = gates_->weight(2);
  std::vector<float> logits(16), x(d());
  const Buffer rows = Rows(6, 3);
  for (int64_t row = 0; row < 6; ++row) {
    for (int64_t i = 0; i < d(); ++i) x[i] = Bf16ToF32(rows.as<Bf16>()[row * d() + i]);
    kernels::MatMul(plain_,
                    kernels::MatMulJob{
                        .w = &w, .x = x.data(), .ldx = d(), .m = 1, .y = logits.data(), .ldy = 16});
    for (int64_t j = 0; j < 4; ++j) forced.ids[row * 4 + j] = static_cast<int32_t>(3 * j + row % 3);
    kernels::WeighExperts(plain_, gates_->params(), logits.data(), 1, forced.ids.data() + row * 4,
                          forced.weights.data() + row * 4);
  }
  const auto y = Dispatch(2, 6, 3);
  ASSERT_TRUE(y.ok());
  EXPECT_TRUE(*y == Expected(2, 6, 3, forced));
}

TEST_F(RoutesTest, GateWeightsAreTheCheckpoints) {
  for (int32_t layer : MoeLayers()) {
    const std::string gate = model::LayerPrefix(layer) + "mlp.gate.";
    const std::vector<float> expected = checkpoint_->ReadAll(gate + "weight").value();
    std::vector<float> row(d());
    for (int64_t e = 0; e < 16; ++e) {
      gates_->weight(layer).ReadRow(e, row.data());
      EXPECT_TRUE(std::equal(row.begin(), row.end(), expected.begin() + e * d()))
          << layer << " " << e;
    }
    const std::vector<float> bias = checkpoint_->ReadAll(gate + "e_score_correction_bias").value();
    ASSERT_NE(gates_->bias(layer, 0), nullptr);
    EXPECT_TRUE(std::equal(bias.begin(), bias.end(), gates_->bias(layer, 0)));
  }
  const kernels::GateParams& p = gates_->params();
  EXPECT_EQ(p.scoring_func, kernels::ScoringFunc::kSigmoid);
  EXPECT_EQ(p.topk_method, kernels::TopkMethod::kNoauxTc);
  EXPECT_EQ(p.n_group, 4);
  EXPECT_EQ(p.topk_group, 2);
  EXPECT_TRUE(p.norm_topk_prob);
  EXPECT_EQ(p.routed_scaling_factor, 2.5f);
  EXPECT_TRUE(gates_->has_bias_version(0));
  EXPECT_FALSE(gates_->has_bias_version(1));
}

}  // namespace
}  // namespace atl::dispatch
