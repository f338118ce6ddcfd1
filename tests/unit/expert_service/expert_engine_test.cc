#include "expert_service/expert_engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <optional>
#include <random>

#include "absl/time/clock.h"
#include "expert_service/expert_metrics.h"
#include "tests/support/golden.h"
#include "weights/load_packed.h"

namespace atl::expert {
namespace {

using transport::Frame;
using transport::FrameHeader;
using transport::FrameType;
using transport::WorkPair;

constexpr int64_t kD = 128;
constexpr uint32_t kShared = 16;

// One end that a dispatcher would hold, and what came back to it.
struct Client {
  std::unique_ptr<transport::Link> link;
  std::vector<Frame> frames;
  std::optional<Status> closed;
};

class ExpertEngineTest : public ::testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    auto opened = model::Checkpoint::Open(atl::testing::GoldenCheckpointDir("v3"));
    ASSERT_TRUE(opened.ok()) << opened.status();
    checkpoint_ = *std::move(opened);
    profile_ = model::FindProfile(GetParam()).value();
    ctx_ = kernels::MakeKernelContext(kernels::BestIsa(), &pool_).value();
    store_ = std::make_unique<ExpertStore>(checkpoint_.get(), profile_, 0);
    for (int32_t layer : {2, 3}) {
      for (int32_t e = 0; e <= static_cast<int32_t>(kShared); ++e) {
        if (e == 7) continue;  // held nowhere
        ASSERT_TRUE(store_->Load({layer, e}, &pool_).ok());
      }
    }
    MakeEngine({});
  }

  void MakeEngine(EngineOptions options) {
    engine_ = std::make_unique<ExpertEngine>(&loop_, ctx_, checkpoint_->config(), profile_,
                                             store_.get(), options);
  }

  std::unique_ptr<Client> Connect() {
    auto client = std::make_unique<Client>();
    auto [a, b] = transport::MakeInprocLinks(&loop_, &loop_, {});
    client->link = std::move(a);
    Client* const c = client.get();
    client->link->SetCallbacks([c](Frame f) { c->frames.push_back(std::move(f)); },
                               [c](Status s) { c->closed = s; });
    engine_->AddLink("client", std::move(b));
    return client;
  }

  bool bf16() const { return profile_.wire == DType::kBf16; }

  // Rows rounded to the wire type, a function of the seed.
  std::vector<float> Rows(int64_t rows, uint32_t seed) const {
    std::mt19937 rng(seed);
    std::normal_distribution<float> normal;
    std::vector<float> x(rows * kD);
    for (float& v : x) v = bf16() ? RoundToBf16(normal(rng)) : normal(rng);
    return x;
  }

  Frame WorkFrame(uint64_t call_id, int layer, const std::vector<float>& x,
                  const std::vector<WorkPair>& pairs) const {
    Frame frame;
    const int64_t x_bytes = x.size() * DTypeBytes(profile_.wire);
    frame.payload = Buffer(x_bytes + pairs.size() * sizeof(WorkPair));
    for (size_t i = 0; i < x.size(); ++i) {
      if (bf16()) {
        frame.payload.as<Bf16>()[i] = F32ToBf16(x[i]);
      } else {
        frame.payload.as<float>()[i] = x[i];
      }
    }
    std::memcpy(frame.payload.data() + x_bytes, pairs.data(), pairs.size() * sizeof(WorkPair));
    frame.header = {.type = FrameType::kWork,
                    .call_id = call_id,
                    .layer = static_cast<uint16_t>(layer),
                    .micro_batch = 1,
                    .rows = static_cast<uint32_t>(x.size() / kD),
                    .pairs = static_cast<uint32_t>(pairs.size()),
                    .dtype = profile_.wire,
                    .bias_version = 4};
    return frame;
  }
  static void Send(Client& client, Frame frame) {
    ASSERT_TRUE(client.link->Send(frame.header, std::move(frame.payload)).ok());
  }

  std::vector<float> Values(const Buffer& payload) const {
    std::vector<float> out(payload.size() / DTypeBytes(profile_.wire));
    for (size_t i = 0; i < out.size(); ++i) {
      out[i] = bf16() ? Bf16ToF32(payload.as<Bf16>()[i]) : payload.as<float>()[i];
    }
    return out;
  }

  // One (row, expert) at a time, on one thread, with weights loaded apart from the store.
  std::vector<float> Expected(int layer, const std::vector<float>& x,
                              const std::vector<WorkPair>& pairs) {
    const kernels::KernelContext alone =
        kernels::MakeKernelContext(kernels::BestIsa(), nullptr).value();
    std::vector<float> out(pairs.size() * kD);
    for (size_t i = 0; i < pairs.size(); ++i) {
      const auto key = std::pair(layer, pairs[i].expert);
      if (!weights_.contains(key)) {
        const std::string prefix =
            model::ExpertPrefix(checkpoint_->config(), layer, pairs[i].expert);
        weights_[key] = weights::LoadFfn(*checkpoint_, prefix, profile_.weights, nullptr).value();
      }
      const kernels::FfnJob job = {.w = &weights_[key],
                                   .x = x.data() + pairs[i].row * kD,
                                   .ldx = kD,
                                   .m = 1,
                                   .out = out.data() + i * kD,
                                   .ldo = kD};
      std::vector<float> scratch(kernels::GroupedFfnScratch({&job, 1}));
      kernels::GroupedFfn(alone, {&job, 1}, weights::RoundingOf(profile_.activations),
                          weights::RoundingOf(profile_.wire), scratch.data());
    }
    return out;
  }

  void Run(const std::function<bool()>& ready) {
    const absl::Time deadline = absl::Now() + absl::Seconds(20);
    while (!ready() && absl::Now() < deadline) loop_.RunOnce(absl::Milliseconds(100));
    ASSERT_TRUE(ready());
  }
  static Status ErrorIn(const Frame& frame) {
    EXPECT_EQ(frame.header.type, FrameType::kError);
    return frame.header.type == FrameType::kError ? ErrorOf(frame) : Status();
  }

  std::unique_ptr<model::Checkpoint> checkpoint_;
  model::NumericProfile profile_;
  ThreadPool pool_{{.num_threads = 2}};
  kernels::KernelContext ctx_;
  transport::EventLoop loop_;
  std::unique_ptr<ExpertStore> store_;
  std::unique_ptr<ExpertEngine> engine_;
  std::map<std::pair<int, uint32_t>, kernels::FfnWeights> weights_;
};
INSTANTIATE_TEST_SUITE_P(Profiles, ExpertEngineTest, ::testing::Values("reference", "bf16"),
                         [](const auto& info) { return std::string(info.param); });

const std::vector<WorkPair> kPairs = {{0, 0}, {2, 0}, {1, 3},       {0, 9},
                                      {1, 9}, {2, 9}, {0, kShared}, {1, kShared}};

TEST_P(ExpertEngineTest, OutsAreThoseOfOneRowAtATime) {
  auto client = Connect();
  const std::vector<float> x = Rows(3, 1);
  Send(*client, WorkFrame(77, 2, x, kPairs));
  Run([&] { return client->frames.size() == 1; });
  const FrameHeader& h = client->frames[0].header;
  EXPECT_EQ(h.type, FrameType::kOuts);
  EXPECT_EQ(h.call_id, 77u);
  EXPECT_EQ(h.layer, 2);
  EXPECT_EQ(h.micro_batch, 1);
  EXPECT_EQ(h.pairs, kPairs.size());
  EXPECT_EQ(h.bias_version, 4u);
  EXPECT_EQ(h.dtype, profile_.wire);
  EXPECT_EQ(Values(client->frames[0].payload), Expected(2, x, kPairs));
  EXPECT_TRUE(engine_->idle());
}

TEST_P(ExpertEngineTest, CallersOfOneTurnAreMergedWithoutAChangeOfBits) {
  auto first = Connect();
  auto second = Connect();
  const std::vector<float> x1 = Rows(3, 1), x2 = Rows(5, 2), x3 = Rows(1, 3);
  const std::vector<WorkPair> pairs2 = {{0, 0}, {4, 0}, {3, 1}, {1, 9}, {2, kShared}};
  const std::vector<WorkPair> pairs3 = {{0, 9}};
  Send(*first, WorkFrame(1, 2, x1, kPairs));
  Send(*second, WorkFrame(1, 2, x2, pairs2));
  Send(*first, WorkFrame(2, 3, x3, pairs3));  // another layer
  Send(*second, WorkFrame(2, 2, x3, pairs3));
  Run([&] { return first->frames.size() == 2 && second->frames.size() == 2; });
  EXPECT_EQ(Values(first->frames[0].payload), Expected(2, x1, kPairs));
  EXPECT_EQ(Values(second->frames[0].payload), Expected(2, x2, pairs2));
  EXPECT_EQ(Values(second->frames[1].payload), Expected(2, x3, pairs3));
  EXPECT_EQ(Values(first->frames[1].payload), Expected(3, x3, pairs3));
  EXPECT_EQ(engine_->stats().merged_calls.load(), 3u);
  EXPECT_EQ(engine_->stats().calls.load(), 4u);
  EXPECT_EQ(engine_->stats().rows.load(), kPairs.size() + pairs2.size() + 2);
}

TEST_P(ExpertEngineTest, HistogramsCountBatchesAndTheirWork) {
  auto first = Connect();
  auto second = Connect();
  Send(*first, WorkFrame(1, 2, Rows(3, 1), kPairs));
  Send(*second, WorkFrame(1, 2, Rows(3, 2), kPairs));
  Send(*second, WorkFrame(2, 3, Rows(1, 3), {{0, 9}}));
  Run([&] { return first->frames.size() == 1 && second->frames.size() == 2; });
  const EngineStats& stats = engine_->stats();
  const metrics::Distribution rows = stats.batch_rows.Read();
  EXPECT_EQ(rows.count(), 2u) << "two merged calls of layer 2, one of layer 3";
  EXPECT_EQ(rows.sum, 2.0 * kPairs.size() + 1);
  EXPECT_EQ(rows.counts[0], 1u) << "at most 1 pair";
  EXPECT_EQ(rows.counts[4], 1u) << "9 to 16 pairs";
  EXPECT_EQ(stats.batch_seconds.Read().count(), 2u);
  EXPECT_EQ(stats.queue_seconds.Read().count(), 3u);
  const model::ModelConfig& config = checkpoint_->config();
  ASSERT_EQ(stats.layers.size(), config.num_hidden_layers + config.num_nextn_predict_layers);
  EXPECT_EQ(stats.layers[2].rows.load(), 2 * kPairs.size());
  EXPECT_EQ(stats.layers[3].rows.load(), 1u);
  EXPECT_EQ(stats.layers[0].rows.load(), 0u);
  EXPECT_NEAR(static_cast<double>(stats.layers[2].busy_ns + stats.layers[3].busy_ns) * 1e-9,
              stats.batch_seconds.Read().sum, 1e-12);
  std::vector<float> out(kD);
  const std::vector<float> x = Rows(1, 4);
  const std::vector<WorkPair> pair = {{0, 9}};
  ASSERT_TRUE(engine_->Compute(3, 1, x.data(), pair, out.data()).ok());
  EXPECT_EQ(stats.batch_rows.Read().count(), 3u) << "Forward counts too";
  EXPECT_EQ(stats.layers[3].rows.load(), 2u);
}

double SumOf(const std::vector<metrics::Family>& all, const std::string& name) {
  double sum = 0;
  for (const metrics::Family& family : all) {
    if (family.name != name) continue;
    for (const auto& sample : family.samples) sum += sample.value;
  }
  return sum;
}

TEST_P(ExpertEngineTest, ExpertsAreToldOneByOneUpToABound) {
  auto client = Connect();
  Send(*client, WorkFrame(1, 2, Rows(3, 1), kPairs));
  Run([&] { return client->frames.size() == 1; });
  const double held = 32;  // 16 of 17 in each of two layers
  const auto find = [](const std::vector<metrics::Family>& all, const std::string& name) {
    return *std::find_if(all.begin(), all.end(), [&](const auto& f) { return f.name == name; });
  };
  const auto each = ExpertMetrics(*store_, engine_->stats(), /*max_series=*/32);
  EXPECT_EQ(SumOf(each, "atoll_expert_held"), held);
  const metrics::Family rows = find(each, "atoll_expert_held_rows_total");
  EXPECT_EQ(rows.samples.size(), 32u);
  EXPECT_EQ(SumOf(each, rows.name), kPairs.size());
  EXPECT_EQ(rows.samples[0].labels,
            (decltype(rows.samples[0].labels){{"layer", "2"}, {"expert", "0"}}));
  EXPECT_EQ(rows.samples[0].value, 2);
  EXPECT_NEAR(SumOf(each, "atoll_expert_held_busy_seconds_total"),
              SumOf(each, "atoll_expert_busy_seconds_total"), 1e-7)
      << "but for rounding to ns";
  const auto layers = ExpertMetrics(*store_, engine_->stats(), /*max_series=*/31);
  EXPECT_TRUE(find(layers, "atoll_expert_held_rows_total").samples.empty());
  EXPECT_TRUE(find(layers, "atoll_expert_held_busy_seconds_total").samples.empty());
  EXPECT_EQ(SumOf(layers, "atoll_expert_held"), held);
  EXPECT_EQ(SumOf(layers, "atoll_expert_rows_total"), kPairs.size());
}

TEST_P(ExpertEngineTest, MergingCanBeRefusedByOptionAndByFlag) {
  for (const bool by_option : {true, false}) {
    SCOPED_TRACE(by_option);
    MakeEngine({.merge = !by_option});
    auto client = Connect();
    const std::vector<float> x = Rows(3, 1);
    for (uint64_t call : {1, 2}) {
      Frame frame = WorkFrame(call, 2, x, kPairs);
      frame.header.flags = !by_option && call == 2 ? transport::kFlagAlone : 0;
      Send(*client, std::move(frame));
    }
    Run([&] { return client->frames.size() == 2; });
    EXPECT_EQ(engine_->stats().merged_calls.load(), 0u);
    for (const Frame& frame : client->frames)
      EXPECT_EQ(Values(frame.payload), Expected(2, x, kPairs));
  }
}

TEST_P(ExpertEngineTest, ManyRowsInBatchesOfBoundedSize) {
  auto client = Connect();
  const std::vector<float> x = Rows(700, 5);
  std::vector<WorkPair> pairs;
  for (uint32_t e : {0u, 1u, 4u, kShared}) {
    for (uint32_t row = e; row < 700; ++row) pairs.push_back({row, e});
  }
  for (uint64_t call = 0; call < 4; ++call) Send(*client, WorkFrame(call, 2, x, pairs));
  Run([&] { return client->frames.size() == 4; });
  const std::vector<float> expected = Expected(2, x, pairs);
  for (const Frame& frame : client->frames) EXPECT_EQ(Values(frame.payload), expected);
}

TEST_P(ExpertEngineTest, MissingExpertIsNotFoundAndNothingElseSuffers) {
  auto client = Connect();
  const std::vector<float> x = Rows(3, 1);
  Send(*client, WorkFrame(1, 2, x, {{0, 0}, {1, 7}}));
  Send(*client, WorkFrame(2, 2, x, kPairs));
  Run([&] { return client->frames.size() == 2; });
  const Status error = ErrorIn(client->frames[0]);
  EXPECT_EQ(client->frames[0].header.call_id, 1u);
  EXPECT_EQ(error.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(error.message()), ::testing::HasSubstr("expert 7 of layer 2"));
  EXPECT_EQ(Values(client->frames[1].payload), Expected(2, x, kPairs));
  EXPECT_EQ(engine_->stats().rows.load(), kPairs.size());
  EXPECT_EQ(store_->Find({2, 0})->rows.load(), 2u) << "nothing of the refused call was computed";
  EXPECT_EQ(engine_->stats().errors.load(), 1u);
}

TEST_P(ExpertEngineTest, UnloadedExpertIsNotFoundAndReloadedOneWorks) {
  auto client = Connect();
  const std::vector<float> x = Rows(3, 1);
  ASSERT_TRUE(store_->Unload({2, 9}).ok());
  Send(*client, WorkFrame(1, 2, x, kPairs));
  Run([&] { return client->frames.size() == 1; });
  EXPECT_EQ(ErrorIn(client->frames[0]).code(), absl::StatusCode::kNotFound);
  ASSERT_TRUE(store_->Load({2, 9}, nullptr).ok());
  Send(*client, WorkFrame(2, 2, x, kPairs));
  Run([&] { return client->frames.size() == 2; });
  EXPECT_EQ(Values(client->frames[1].payload), Expected(2, x, kPairs));
}

TEST_P(ExpertEngineTest, CountersOfExpertsCountTheirPairs) {
  auto client = Connect();
  Send(*client, WorkFrame(1, 2, Rows(3, 1), kPairs));
  Send(*client, WorkFrame(2, 2, Rows(3, 1), kPairs));
  Run([&] { return client->frames.size() == 2; });
  EXPECT_EQ(store_->Find({2, 0})->rows.load(), 4u);
  EXPECT_EQ(store_->Find({2, 3})->rows.load(), 2u);
  EXPECT_EQ(store_->Find({2, 9})->rows.load(), 6u);
  EXPECT_EQ(store_->Find({2, 1})->rows.load(), 0u);
  EXPECT_EQ(store_->Find({3, 0})->rows.load(), 0u);
  EXPECT_GT(store_->Find({2, 9})->time_ns.load(), 0u);
}

TEST_P(ExpertEngineTest, WorkWhoseTimeIsUpIsNotStarted) {
  auto client = Connect();
  Frame frame = WorkFrame(1, 2, Rows(3, 1), kPairs);
  frame.header.time_left_us = 1;
  const absl::Time sent = absl::Now();
  Send(*client, std::move(frame));
  while (absl::Now() <= sent + absl::Microseconds(50)) {
  }
  Run([&] { return client->frames.size() == 1; });
  EXPECT_EQ(ErrorIn(client->frames[0]).code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(engine_->stats().rows.load(), 0u);
  EXPECT_TRUE(engine_->idle());
}

TEST_P(ExpertEngineTest, CancelledWorkIsNotComputed) {
  auto client = Connect();
  auto other = Connect();
  const std::vector<float> x = Rows(3, 1);
  Send(*client, WorkFrame(1, 2, x, kPairs));
  Send(*client, WorkFrame(2, 2, x, kPairs));
  Send(*other, WorkFrame(1, 2, x, kPairs));  // the same id on another link is another call
  ASSERT_TRUE(client->link->Send({.type = FrameType::kCancel, .call_id = 1}, {}).ok());
  Run([&] { return client->frames.size() == 1 && other->frames.size() == 1; });
  EXPECT_EQ(client->frames[0].header.call_id, 2u);
  EXPECT_EQ(engine_->stats().calls.load(), 2u);
  EXPECT_TRUE(engine_->idle());
}

TEST_P(ExpertEngineTest, QueueIsBounded) {
  MakeEngine({.max_queued_rows = 2 * static_cast<int64_t>(kPairs.size()) + 1});
  auto client = Connect();
  const std::vector<float> x = Rows(3, 1);
  for (uint64_t call = 1; call <= 4; ++call) Send(*client, WorkFrame(call, 2, x, kPairs));
  EXPECT_EQ(engine_->stats().queued_rows.load(), 2 * static_cast<int64_t>(kPairs.size()));
  EXPECT_TRUE(client->frames.empty()) << "not from inside on_frame";
  Run([&] { return client->frames.size() == 4; });
  std::map<uint64_t, FrameType> answers;
  for (const Frame& frame : client->frames) {
    answers[frame.header.call_id] = frame.header.type;
    if (frame.header.type == FrameType::kError) {
      EXPECT_EQ(ErrorOf(frame).code(), absl::StatusCode::kResourceExhausted);
    }
  }
  EXPECT_EQ(answers, (std::map<uint64_t, FrameType>{{1, FrameType::kOuts},
                                                    {2, FrameType::kOuts},
                                                    {3, FrameType::kError},
                                                    {4, FrameType::kError}}));
  Send(*client, WorkFrame(5, 2, x, kPairs));
  Run([&] { return client->frames.size() == 5; });
  EXPECT_EQ(client->frames[4].header.type, FrameType::kOuts) << "there is room again";
}

TEST_P(ExpertEngineTest, BadFramesCloseTheirLinkOnly) {
  auto good = Connect();
  const std::vector<float> x = Rows(3, 1);
  const std::vector<std::pair<const char*, std::function<void(Frame*)>>> cases = {
      {"dense layer", [](Frame* f) { f->header.layer = 1; }},
      {"no such layer", [](Frame* f) { f->header.layer = 9; }},
      {"rows", [](Frame* f) { ++f->header.rows; }},
      {"pairs", [](Frame* f) { --f->header.pairs; }},
      {"dtype", [](Frame* f) { f->header.dtype = DType::kF16; }},
      {"expert", [](Frame* f) { f->payload.as<uint32_t>()[f->payload.size() / 4 - 1] = 17; }},
      {"type", [](Frame* f) { f->header.type = FrameType::kOuts; }},
  };
  uint64_t bad = 0;
  for (const auto& [name, spoil] : cases) {
    SCOPED_TRACE(name);
    auto client = Connect();
    Frame frame = WorkFrame(1, 2, x, kPairs);
    spoil(&frame);
    Send(*client, std::move(frame));
    Run([&] { return client->closed.has_value(); });
    EXPECT_TRUE(client->frames.empty());
    EXPECT_EQ(engine_->stats().bad_frames.load(), ++bad);
    EXPECT_EQ(engine_->num_links(), 1);
  }
  Send(*good, WorkFrame(1, 2, x, kPairs));
  Run([&] { return good->frames.size() == 1; });
}

TEST_P(ExpertEngineTest, WorkOfADeadLinkIsDropped) {
  auto client = Connect();
  auto other = Connect();
  const std::vector<float> x = Rows(3, 1);
  Send(*client, WorkFrame(1, 2, x, kPairs));
  client->link = nullptr;
  Send(*other, WorkFrame(1, 2, x, kPairs));
  Run([&] { return other->frames.size() == 1 && engine_->num_links() == 1; });
  EXPECT_TRUE(engine_->idle());
}

TEST_P(ExpertEngineTest, EngineMayDieWithWorkQueued) {
  auto client = Connect();
  Send(*client, WorkFrame(1, 2, Rows(3, 1), kPairs));
  engine_ = nullptr;
  Run([&] { return client->closed.has_value(); });
  EXPECT_TRUE(client->frames.empty());
}

TEST_P(ExpertEngineTest, PingIsAnswered) {
  auto client = Connect();
  ASSERT_TRUE(client->link->Send({.type = FrameType::kPing, .call_id = 5}, {}).ok());
  Run([&] { return client->frames.size() == 1; });
  EXPECT_EQ(client->frames[0].header.type, FrameType::kPong);
  EXPECT_EQ(client->frames[0].header.call_id, 5u);
}

TEST_P(ExpertEngineTest, ComputeWithoutALink) {
  const std::vector<float> x = Rows(3, 1);
  std::vector<float> out(kPairs.size() * kD);
  ASSERT_TRUE(engine_->Compute(3, 3, x.data(), kPairs, out.data()).ok());
  EXPECT_EQ(out, Expected(3, x, kPairs));
  const std::vector<WorkPair> missing = {{0, 7}};
  EXPECT_EQ(engine_->Compute(3, 3, x.data(), missing, out.data()).code(),
            absl::StatusCode::kNotFound);
  EXPECT_TRUE(engine_->Compute(3, 3, x.data(), {}, out.data()).ok());
}

TEST_P(ExpertEngineTest, RandomWorkOfManyCallersIsExact) {
  std::mt19937 rng(99);
  std::vector<std::unique_ptr<Client>> clients;
  for (int i = 0; i < 4; ++i) clients.push_back(Connect());
  std::map<std::pair<int, uint64_t>, std::vector<float>> expected;
  for (uint64_t call = 0; call < 40; ++call) {
    const int c = static_cast<int>(rng() % clients.size());
    const int layer = 2 + static_cast<int>(rng() % 2);
    const uint32_t rows = 1 + rng() % 9;
    const std::vector<float> x = Rows(rows, static_cast<uint32_t>(call));
    std::vector<WorkPair> pairs;
    for (uint32_t e = 0; e <= kShared; ++e) {
      for (uint32_t row = 0; row < rows; ++row) {
        if (e != 7 && rng() % 3 == 0) pairs.push_back({row, e});
      }
    }
    if (pairs.empty()) continue;
    expected[{c, call}] = Expected(layer, x, pairs);
    Send(*clients[c], WorkFrame(call, layer, x, pairs));
    if (rng() % 4 == 0) loop_.RunOnce(absl::ZeroDuration());
  }
  Run([&] { return engine_->idle(); });
  size_t seen = 0;
  for (int c = 0; c < 4; ++c) {
    for (const Frame& frame : clients[c]->frames) {
      ++seen;
      EXPECT_EQ(Values(frame.payload), (expected[{c, frame.header.call_id}]))
          << frame.header.call_id;
    }
  }
  EXPECT_EQ(seen, expected.size());
  EXPECT_GT(engine_->stats().merged_calls.load(), 0u);
}

}  // namespace
}  // namespace atl::expert
