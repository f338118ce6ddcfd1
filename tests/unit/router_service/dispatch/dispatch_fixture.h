// Expert nodes, links of every kind and the oracle for the dispatch tests; all on one loop that the
// test pumps.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "expert_service/expert_engine.h"
#include "expert_service/expert_store.h"
#include "kernels/ffn.h"
#include "kernels/gate.h"
#include "router_service/dispatch/dispatcher.h"
#include "tests/support/golden.h"
#include "transport/endpoint.h"
#include "transport/link.h"
#include "weights/load_packed.h"

namespace atl::dispatch {

// The far end of a dispatcher's link in the test's hands: keeps what comes, answers as told.
struct FakeNode {
  std::unique_ptr<transport::Link> link;
  std::vector<transport::Frame> work;
  std::vector<uint64_t> cancelled;
  std::optional<Status> closed;
  std::function<void(const transport::Frame&)> on_work;  // called from inside on_frame

  void Fail(const transport::Frame& frame, const Status& error) {
    transport::Frame answer = transport::MakeErrorFrame(frame.header.call_id, error);
    ASSERT_TRUE(link->Send(answer.header, std::move(answer.payload)).ok());
  }
};

struct RealNode {
  std::unique_ptr<expert::ExpertStore> store;
  std::unique_ptr<expert::ExpertEngine> engine;
};

class DispatchFixture : public ::testing::Test {
 protected:
  explicit DispatchFixture(const char* profile = "bf16", const char* preset = "v3") {
    auto opened = model::Checkpoint::Open(atl::testing::GoldenCheckpointDir(preset));
    EXPECT_TRUE(opened.ok()) << opened.status();
    checkpoint_ = *std::move(opened);
    profile_ = model::FindProfile(profile).value();
    ctx_ = kernels::MakeKernelContext(kernels::BestIsa(), &pool_).value();
    gates_ = GateWeights::Load(*checkpoint_, &pool_).value();
    MakeDispatcher({});
  }

  const model::ModelConfig& config() const { return checkpoint_->config(); }
  int64_t d() const { return config().hidden_size; }
  int32_t num_ids() const { return static_cast<int32_t>(config().num_expert_ids()); }
  std::vector<int32_t> MoeLayers() const {
    std::vector<int32_t> layers;
    const int64_t all = config().num_hidden_layers + config().num_nextn_predict_layers;
    for (int64_t l = 0; l < all; ++l) {
      if (config().is_moe_layer(l)) layers.push_back(static_cast<int32_t>(l));
    }
    return layers;
  }

  void MakeDispatcher(const DispatcherOptions& options) {
    dispatcher_ =
        std::make_unique<Dispatcher>(&loop_, ctx_, config(), profile_, gates_.get(), options);
  }

  using Holds = std::function<bool(int node, int32_t layer, int32_t expert)>;
  static bool HoldsAll(int, int32_t, int32_t) { return true; }

  // Node i is called "expert-i".
  std::shared_ptr<cluster::Placement> MakePlacement(int num_nodes, const Holds& holds) const {
    auto placement = std::make_shared<cluster::Placement>();
    for (int n = 0; n < num_nodes; ++n) placement->nodes.push_back(absl::StrFormat("expert-%d", n));
    placement->holders.resize(config().num_hidden_layers + config().num_nextn_predict_layers);
    for (int32_t layer : MoeLayers()) {
      placement->holders[layer].resize(num_ids());
      for (int32_t e = 0; e < num_ids(); ++e) {
        for (int n = 0; n < num_nodes; ++n) {
          if (holds(n, layer, e)) placement->holders[layer][e].push_back(n);
        }
      }
    }
    return placement;
  }

  RealNode* StartNode(int n, const Holds& holds) {
    auto node = std::make_unique<RealNode>();
    node->store = std::make_unique<expert::ExpertStore>(checkpoint_.get(), profile_, 0);
    for (int32_t layer : MoeLayers()) {
      for (int32_t e = 0; e < num_ids(); ++e) {
        if (!holds(n, layer, e)) continue;
        EXPECT_TRUE(node->store->Load({layer, e}, nullptr).ok());
      }
    }
    node->engine = std::make_unique<expert::ExpertEngine>(
        &loop_, ctx_, config(), profile_, node->store.get(), expert::EngineOptions{});
    real_.push_back(std::move(node));
    return real_.back().get();
  }

  // Two joined ends on the loop.
  std::pair<std::unique_ptr<transport::Link>, std::unique_ptr<transport::Link>> MakeLinks(
      transport::LinkKind kind) {
    if (kind == transport::LinkKind::kInproc) return transport::MakeInprocLinks(&loop_, &loop_, {});
    static int count = 0;
    const transport::Endpoint endpoint = {
        .kind = kind,
        .address = kind == transport::LinkKind::kTcp
                       ? "127.0.0.1:0"
                       : absl::StrFormat("@atoll-dispatch-%d-%d", getpid(), count++)};
    std::pair<std::unique_ptr<transport::Link>, std::unique_ptr<transport::Link>> ends;
    transport::TicketBook tickets;
    const auto listener = transport::LinkListener::Listen(
        &loop_, endpoint, &tickets, {},
        [&](const std::string&, std::unique_ptr<transport::Link> link) {
          ends.second = std::move(link);
        });
    EXPECT_TRUE(listener.ok()) << listener.status();
    transport::ConnectLink(
        &loop_, (*listener)->endpoint(), tickets.Issue("test"), {}, absl::Seconds(10),
        [&](StatusOr<std::unique_ptr<transport::Link>> link) { ends.first = *std::move(link); });
    Run([&] { return ends.first != nullptr && ends.second != nullptr; });
    return ends;
  }

  void Connect(int n, RealNode* node, transport::LinkKind kind = transport::LinkKind::kInproc) {
    auto [a, b] = MakeLinks(kind);
    node->engine->AddLink("router", std::move(b));
    dispatcher_->AddLink(absl::StrFormat("expert-%d", n), std::move(a));
  }

  // Nodes 0..num-1 connected, with their placement.
  void StartNodes(int num, const Holds& holds,
                  transport::LinkKind kind = transport::LinkKind::kInproc) {
    for (int n = 0; n < num; ++n) Connect(n, StartNode(n, holds), kind);
    dispatcher_->SetPlacement(MakePlacement(num, holds));
  }

  std::unique_ptr<FakeNode> ConnectFake(int n) {
    auto fake = std::make_unique<FakeNode>();
    auto [a, b] = MakeLinks(transport::LinkKind::kInproc);
    fake->link = std::move(b);
    FakeNode* const f = fake.get();
    f->link->SetCallbacks(
        [f](transport::Frame frame) {
          if (frame.header.type == transport::FrameType::kCancel)
            return f->cancelled.push_back(frame.header.call_id);
          if (f->on_work) f->on_work(frame);
          f->work.push_back(std::move(frame));
        },
        [f](Status why) { f->closed = std::move(why); });
    dispatcher_->AddLink(absl::StrFormat("expert-%d", n), std::move(a));
    return fake;
  }

  bool bf16() const { return profile_.wire == DType::kBf16; }

  // [rows, D] of the wire type, a function of the seed.
  Buffer Rows(int64_t rows, uint32_t seed) const {
    std::mt19937 rng(seed);
    std::normal_distribution<float> normal;
    Buffer x(rows * d() * DTypeBytes(profile_.wire));
    for (int64_t i = 0; i < rows * d(); ++i) {
      if (bf16()) {
        x.as<Bf16>()[i] = F32ToBf16(normal(rng));
      } else {
        x.as<float>()[i] = normal(rng);
      }
    }
    return x;
  }
  DispatchCall Call(int32_t layer, int64_t rows, uint32_t seed) const {
    return {.layer = layer, .rows = rows, .x = Rows(rows, seed)};
  }

  struct Choice {
    std::vector<int32_t> ids;    // [rows, K]
    std::vector<float> weights;  // [rows, K]
  };
  // What the gate must choose, a row at a time.
  Choice ExpectedChoice(int32_t layer, int64_t rows, uint32_t seed) {
    const std::string gate = model::LayerPrefix(layer) + "mlp.gate.";
    const kernels::PackedMatrix w =
        weights::LoadPacked(*checkpoint_, gate + "weight", model::MatrixFormat::kExact, nullptr)
            .value();
    const auto bias = checkpoint_->ReadAll(gate + "e_score_correction_bias");
    const int64_t k = config().num_experts_per_tok;
    Choice choice{std::vector<int32_t>(rows * k), std::vector<float>(rows * k)};
    const std::vector<float> x = Values(Rows(rows, seed));
    std::vector<float> logits(config().n_routed_experts);
    for (int64_t row = 0; row < rows; ++row) {
      kernels::MatMul(plain_, kernels::MatMulJob{.w = &w,
                                                 .x = x.data() + row * d(),
                                                 .ldx = d(),
                                                 .m = 1,
                                                 .y = logits.data(),
                                                 .ldy = w.n()});
      kernels::SelectExperts(plain_, gates_->params(), logits.data(),
                             bias.ok() ? bias->data() : nullptr, 1, choice.ids.data() + row * k,
                             choice.weights.data() + row * k);
    }
    return choice;
  }

  // y of Call(layer, rows, seed): every row and expert alone, on one thread, no store, engine, link
  // or dispatcher.
  std::string Expected(int32_t layer, int64_t rows, uint32_t seed) {
    return Expected(layer, rows, seed, ExpectedChoice(layer, rows, seed));
  }
  std::string Expected(int32_t layer, int64_t rows, uint32_t seed, const Choice& choice) {
    const int64_t k = config().num_experts_per_tok;
    const int64_t row_bytes = d() * DTypeBytes(profile_.wire);
    const std::vector<float> x = Values(Rows(rows, seed));
    std::string y(rows * row_bytes, '\0');
    for (int64_t row = 0; row < rows; ++row) {
      std::vector<std::string> outs;
      std::vector<const void*> places;
      for (int64_t j = 0; j < k; ++j)
        outs.push_back(ExpertOut(layer, choice.ids[row * k + j], x.data() + row * d()));
      for (const std::string& out : outs) places.push_back(out.data());
      const std::string shared =
          config().n_shared_experts > 0
              ? ExpertOut(layer, static_cast<int32_t>(config().shared_expert_id()),
                          x.data() + row * d())
              : "";
      kernels::CombineRow(plain_, profile_.wire, d(), shared.empty() ? nullptr : shared.data(),
                          places.data(), choice.weights.data() + row * k, static_cast<int32_t>(k),
                          y.data() + row * row_bytes);
    }
    return y;
  }

  static std::string Bytes(const Buffer& buffer) {
    return {reinterpret_cast<const char*>(buffer.data()), buffer.size()};
  }

  // One call through the dispatcher, to its end.
  StatusOr<std::string> Dispatch(int32_t layer, int64_t rows, uint32_t seed) {
    std::optional<StatusOr<std::string>> result;
    Submit(Call(layer, rows, seed), &result);
    Run([&] { return result.has_value(); });
    return *std::move(result);
  }
  uint64_t Submit(DispatchCall call, std::optional<StatusOr<std::string>>* result) {
    return dispatcher_->Submit(std::move(call), [result](StatusOr<Buffer> y) {
      EXPECT_FALSE(result->has_value()) << "done twice";
      if (y.ok()) {
        *result = Bytes(*y);
      } else {
        *result = y.status();
      }
    });
  }

  void Run(const std::function<bool()>& ready) {
    const absl::Time deadline = absl::Now() + absl::Seconds(30);
    while (!ready() && absl::Now() < deadline) loop_.RunOnce(absl::Milliseconds(50));
    ASSERT_TRUE(ready()) << "not within 30 s";
  }
  // Everything that is under way, without waiting.
  void RunSome() {
    for (int i = 0; i < 50; ++i) loop_.RunOnce(absl::ZeroDuration());
  }

  std::unique_ptr<model::Checkpoint> checkpoint_;
  model::NumericProfile profile_;
  ThreadPool pool_{{.num_threads = 2}};
  kernels::KernelContext ctx_;
  const kernels::KernelContext plain_ =
      kernels::MakeKernelContext(kernels::BestIsa(), nullptr).value();
  transport::EventLoop loop_;
  std::unique_ptr<GateWeights> gates_;
  std::vector<std::unique_ptr<RealNode>> real_;
  std::unique_ptr<Dispatcher> dispatcher_;

 private:
  std::vector<float> Values(const Buffer& x) const {
    std::vector<float> out(x.size() / DTypeBytes(profile_.wire));
    for (size_t i = 0; i < out.size(); ++i)
      out[i] = bf16() ? Bf16ToF32(x.as<Bf16>()[i]) : x.as<float>()[i];
    return out;
  }

  // One expert's output for one row, in the wire type.
  std::string ExpertOut(int32_t layer, int32_t expert, const float* x) {
    const auto key = std::pair(layer, expert);
    if (!experts_.contains(key)) {
      const std::string prefix = model::ExpertPrefix(config(), layer, expert);
      experts_[key] = weights::LoadFfn(*checkpoint_, prefix, profile_.weights, nullptr).value();
    }
    std::vector<float> out(d());
    const kernels::FfnJob job = {
        .w = &experts_[key], .x = x, .ldx = d(), .m = 1, .out = out.data(), .ldo = d()};
    std::vector<float> scratch(kernels::GroupedFfnScratch({&job, 1}));
    kernels::GroupedFfn(plain_, {&job, 1}, weights::RoundingOf(profile_.activations),
                        weights::RoundingOf(profile_.wire), scratch.data());
    std::string bytes(d() * DTypeBytes(profile_.wire), '\0');
    for (int64_t i = 0; i < d(); ++i) {
      if (bf16()) {
        const Bf16 v = F32ToBf16(out[i]);
        std::memcpy(bytes.data() + 2 * i, &v, 2);
      } else {
        std::memcpy(bytes.data() + 4 * i, &out[i], 4);
      }
    }
    return bytes;
  }

  std::map<std::pair<int32_t, int32_t>, kernels::FfnWeights> experts_;
};

}  // namespace atl::dispatch
