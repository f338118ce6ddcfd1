// What an attention node sees: the inline fabric, and the remote one through dispatch servers.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

#include "router_service/dispatch/dispatch_server.h"
#include "router_service/dispatch/inline_fabric.h"
#include "router_service/dispatch/remote_fabric.h"
#include "tests/unit/router_service/dispatch/dispatch_fixture.h"

namespace atl::dispatch {
namespace {

using ::testing::HasSubstr;
using transport::Frame;
using transport::FrameType;
using transport::LinkKind;

class InlineFabricTest : public DispatchFixture {};

TEST_F(InlineFabricTest, CallsMayBeWaitedForInAnyOrder) {
  StartNodes(2, HoldsAll);
  const auto fabric = MakeInlineFabric(&loop_, dispatcher_.get());
  const uint64_t first = fabric->Submit(Call(2, 5, 1));
  const uint64_t second = fabric->Submit(Call(3, 6, 2));
  Buffer y;
  ASSERT_TRUE(fabric->Wait(second, &y).ok());
  EXPECT_TRUE(Bytes(y) == Expected(3, 6, 2));
  ASSERT_TRUE(fabric->Wait(first, &y).ok());
  EXPECT_TRUE(Bytes(y) == Expected(2, 5, 1));
  const uint64_t bad = fabric->Submit(Call(0, 1, 1));
  EXPECT_EQ(fabric->Wait(bad, &y).code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(InlineFabricTest, MayDieWithCallsInFlight) {
  StartNodes(1, HoldsAll);
  auto fabric = MakeInlineFabric(&loop_, dispatcher_.get());
  fabric->Submit(Call(2, 5, 1));
  fabric = nullptr;
  EXPECT_EQ(dispatcher_->outstanding(), 0);
  RunSome();
}

TEST_F(InlineFabricTest, StopEndsAWaitWithoutAHolder) {
  const auto fabric = MakeInlineFabric(&loop_, dispatcher_.get());  // no expert nodes at all
  const uint64_t call = fabric->Submit(Call(2, 5, 1));
  fabric->Stop();
  Buffer y;
  EXPECT_EQ(fabric->Wait(call, &y).code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(dispatcher_->outstanding(), 0);
}

TEST_F(InlineFabricTest, ACallThatNobodyWaitsForIsTakenBack) {
  const auto fabric = MakeInlineFabric(&loop_, dispatcher_.get());  // no expert nodes at all
  fabric->SetNobodyWaits([] { return true; });
  const uint64_t call = fabric->Submit(Call(2, 5, 1));
  Buffer y;
  EXPECT_EQ(fabric->Wait(call, &y).code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(dispatcher_->outstanding(), 0);
}

class RemoteFabricTest : public DispatchFixture, public ::testing::WithParamInterface<LinkKind> {
 protected:
  void SetUp() override {
    StartNodes(2, [](int n, int32_t, int32_t e) { return e % 2 == n; });
    MakeFabric({});
  }
  void MakeFabric(const DispatcherOptions& options) {
    fabric_ = std::make_unique<RemoteFabric>(&loop_, config(), profile_, options);
  }
  // A router over the fixture's one dispatcher.
  DispatchServer* StartRouter(const std::string& name) {
    servers_.push_back(
        std::make_unique<DispatchServer>(&loop_, config(), profile_, dispatcher_.get()));
    auto [a, b] = MakeLinks(GetParam());
    servers_.back()->AddLink("attention-0", std::move(b));
    fabric_->AddLink(name, std::move(a));
    return servers_.back().get();
  }
  struct FakeRouter {
    std::unique_ptr<transport::Link> link;
    std::vector<Frame> frames;
    std::optional<Status> closed;
  };
  std::unique_ptr<FakeRouter> StartFakeRouter(const std::string& name) {
    auto fake = std::make_unique<FakeRouter>();
    auto [a, b] = MakeLinks(GetParam());
    FakeRouter* const f = fake.get();
    f->link = std::move(b);
    f->link->SetCallbacks([f](Frame frame) { f->frames.push_back(std::move(frame)); },
                          [f](Status why) { f->closed = std::move(why); });
    fabric_->AddLink(name, std::move(a));
    return fake;
  }
  void ExpectGood(uint64_t call, int32_t layer, int64_t rows, uint32_t seed) {
    Buffer y;
    const Status status = fabric_->Wait(call, &y);
    ASSERT_TRUE(status.ok()) << status;
    EXPECT_TRUE(Bytes(y) == Expected(layer, rows, seed));
  }

  std::unique_ptr<RemoteFabric> fabric_;
  std::vector<std::unique_ptr<DispatchServer>> servers_;
};
INSTANTIATE_TEST_SUITE_P(Links, RemoteFabricTest,
                         ::testing::Values(LinkKind::kInproc, LinkKind::kShm, LinkKind::kUnix,
                                           LinkKind::kTcp),
                         [](const auto& info) {
                           return std::string(transport::LinkKindName(info.param));
                         });

TEST_P(RemoteFabricTest, SameBitsThroughARouter) {
  StartRouter("router-0");
  const uint64_t first = fabric_->Submit(Call(2, 9, 1));
  const uint64_t second = fabric_->Submit(Call(4, 1, 2));
  ExpectGood(second, 4, 1, 2);
  ExpectGood(first, 2, 9, 1);
  EXPECT_EQ(servers_[0]->calls_in_flight(), 0);
}

TEST_P(RemoteFabricTest, ErrorsOfTheRouterAreTheCalls) {
  MakeDispatcher({.coverage_timeout = absl::Milliseconds(20)});  // no nodes
  StartRouter("router-0");
  Buffer y;
  const Status uncovered = fabric_->Wait(fabric_->Submit(Call(2, 1, 1)), &y);
  EXPECT_EQ(uncovered.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(uncovered.message()), HasSubstr("of layer 2"));
  EXPECT_EQ(fabric_->Wait(fabric_->Submit(Call(1, 1, 1)), &y).code(),
            absl::StatusCode::kInvalidArgument);
  DispatchCall call = Call(2, 1, 1);
  call.bias_version = 3;
  EXPECT_EQ(fabric_->Wait(fabric_->Submit(std::move(call)), &y).code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(fabric_->HasLink("router-0"));
}

TEST_P(RemoteFabricTest, DeadRoutersCallsGoToAnother) {
  auto dead = StartFakeRouter("router-0");
  StartRouter("router-1");
  std::vector<cluster::NodeName> closed;
  fabric_->OnLinkClosed(
      [&](const cluster::NodeName& name, const Status&) { closed.push_back(name); });
  const uint64_t first = fabric_->Submit(Call(2, 9, 1));
  const uint64_t second = fabric_->Submit(Call(3, 2, 2));
  Run([&] { return dead->frames.size() == 2; });
  dead->link = nullptr;
  ExpectGood(first, 2, 9, 1);
  ExpectGood(second, 3, 2, 2);
  EXPECT_EQ(closed, std::vector<cluster::NodeName>{"router-0"});
  EXPECT_FALSE(fabric_->HasLink("router-0"));
}

TEST_P(RemoteFabricTest, DrainingRoutersCallsGoToAnother) {
  StartRouter("router-0")->StartDrain();
  StartRouter("router-1");
  ExpectGood(fabric_->Submit(Call(2, 9, 1)), 2, 9, 1);
  ExpectGood(fabric_->Submit(Call(2, 3, 2)), 2, 3, 2);
  EXPECT_TRUE(fabric_->HasLink("router-0"));
}

TEST_P(RemoteFabricTest, DrainingRouterEndsWhatItHas) {
  DispatchServer* const server = StartRouter("router-0");
  const uint64_t call = fabric_->Submit(Call(2, 9, 1));
  Run([&] { return server->calls_in_flight() == 1; });
  server->StartDrain();
  ExpectGood(call, 2, 9, 1);
}

TEST_P(RemoteFabricTest, SilentRouterIsGivenUp) {
  MakeFabric({.router_silence = absl::Milliseconds(40)});
  auto silent = StartFakeRouter("router-0");
  StartRouter("router-1");
  ExpectGood(fabric_->Submit(Call(2, 9, 1)), 2, 9, 1);
  EXPECT_FALSE(fabric_->HasLink("router-0"));
  ASSERT_GE(silent->frames.size(), 2u);
  EXPECT_EQ(silent->frames[0].header.type, FrameType::kDispatch);
  EXPECT_EQ(silent->frames[1].header.type, FrameType::kPing);
}

TEST_P(RemoteFabricTest, SlowRouterThatAnswersPingsIsKept) {
  MakeFabric({.router_silence = absl::Milliseconds(40)});
  MakeDispatcher({.coverage_timeout = absl::Milliseconds(250)});
  StartRouter("router-0");  // no expert nodes: it waits for coverage, alive
  Buffer y;
  const Status status = fabric_->Wait(fabric_->Submit(Call(2, 1, 1)), &y);
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr("holder"));
  EXPECT_TRUE(fabric_->HasLink("router-0"));
}

TEST_P(RemoteFabricTest, WithoutARouterCallsWaitForOne) {
  const uint64_t call = fabric_->Submit(Call(2, 9, 1));
  auto [a, b] = MakeLinks(GetParam());
  DispatchServer server(&loop_, config(), profile_, dispatcher_.get());
  server.AddLink("attention-0", std::move(b));
  loop_.RunAt(absl::Now() + absl::Milliseconds(30),
              [&, link = std::make_shared<std::unique_ptr<transport::Link>>(std::move(a))] {
                fabric_->AddLink("router-0", std::move(*link));
              });
  ExpectGood(call, 2, 9, 1);
}

TEST_P(RemoteFabricTest, StopEndsAWaitWithoutARouter) {
  const uint64_t call = fabric_->Submit(Call(2, 8, 1));
  std::thread stops([&] {
    fabric_->Stop();
    loop_.Post([] {});
  });
  Buffer y;
  EXPECT_EQ(fabric_->Wait(call, &y).code(), absl::StatusCode::kUnavailable);
  stops.join();
}

TEST_P(RemoteFabricTest, ACallThatNobodyWaitsForIsTakenBackFromItsRouter) {
  MakeDispatcher({});
  DispatchServer* const server = StartRouter("router-0");  // no expert nodes: it would wait
  bool gone = false;
  fabric_->SetNobodyWaits([&] { return gone; });
  const uint64_t call = fabric_->Submit(Call(2, 5, 1));
  Run([&] { return server->calls_in_flight() == 1; });
  gone = true;
  Buffer y;
  EXPECT_EQ(fabric_->Wait(call, &y).code(), absl::StatusCode::kUnavailable);
  Run([&] { return server->calls_in_flight() == 0; });
  EXPECT_EQ(dispatcher_->outstanding(), 0);
}

TEST_P(RemoteFabricTest, RowsThatNoLinkTakesEndTheCall) {
  if (GetParam() == LinkKind::kInproc) return;  // hands buffers over, whatever their size
  StartRouter("router-0");
  const int64_t rows = transport::LinkLimits().window_bytes / (d() * 2) + 1;
  const uint64_t call =
      fabric_->Submit({.layer = 2, .rows = rows, .x = Buffer(static_cast<size_t>(rows * d() * 2))});
  Buffer y;
  EXPECT_EQ(fabric_->Wait(call, &y).code(), absl::StatusCode::kInternal);
}

TEST_P(RemoteFabricTest, WithoutARouterForTooLongIsUnavailable) {
  MakeFabric({.coverage_timeout = absl::Milliseconds(50)});
  Buffer y;
  const absl::Time begin = absl::Now();
  const Status status = fabric_->Wait(fabric_->Submit(Call(2, 1, 1)), &y);
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_GE(absl::Now() - begin, absl::Milliseconds(50));
}

TEST_P(RemoteFabricTest, DeadlineHoldsEvenIfTheRouterHangs) {
  auto hung = StartFakeRouter("router-0");
  DispatchCall call = Call(2, 1, 1);
  call.deadline = absl::Now() + absl::Milliseconds(30);
  Buffer y;
  EXPECT_EQ(fabric_->Wait(fabric_->Submit(std::move(call)), &y).code(),
            absl::StatusCode::kDeadlineExceeded);
  Run([&] { return hung->frames.size() == 2; });
  EXPECT_GT(hung->frames[0].header.time_left_us, 0u);
  EXPECT_EQ(hung->frames[1].header.type, FrameType::kCancel);
  EXPECT_EQ(hung->frames[1].header.call_id, hung->frames[0].header.call_id);
}

TEST_P(RemoteFabricTest, NonsenseFromARouterClosesItsLink) {
  auto liar = StartFakeRouter("router-0");
  StartRouter("router-1");
  const uint64_t call = fabric_->Submit(Call(2, 9, 1));
  Run([&] { return liar->frames.size() == 1; });
  transport::FrameHeader header = liar->frames[0].header;
  header.type = FrameType::kCombined;
  header.rows = 8;
  ASSERT_TRUE(liar->link->Send(header, Buffer(8 * d() * 2)).ok());
  ExpectGood(call, 2, 9, 1);
  EXPECT_FALSE(fabric_->HasLink("router-0"));
}

TEST_P(RemoteFabricTest, ErrorWithoutACodeIsNonsenseToo) {
  auto liar = StartFakeRouter("router-0");
  StartRouter("router-1");
  const uint64_t call = fabric_->Submit(Call(2, 9, 1));
  Run([&] { return liar->frames.size() == 1; });
  ASSERT_TRUE(
      liar->link
          ->Send({.type = FrameType::kError, .call_id = liar->frames[0].header.call_id, .layer = 0},
                 {})
          .ok());
  ExpectGood(call, 2, 9, 1);
}

TEST_P(RemoteFabricTest, AnswersOfARouterThatIsNoLongerAskedAreDropped) {
  auto first = StartFakeRouter("router-0");
  auto second = StartFakeRouter("router-1");
  const uint64_t call = fabric_->Submit(Call(2, 9, 1));
  Run([&] { return first->frames.size() == 1; });
  // The wrong router answers: same id, not asked.
  transport::FrameHeader header = first->frames[0].header;
  header.type = FrameType::kCombined;
  ASSERT_TRUE(second->link->Send(header, Buffer(9 * d() * 2)).ok());
  RunSome();
  StartRouter("router-2");
  second->link = nullptr;
  first->link = nullptr;
  ExpectGood(call, 2, 9, 1);
}

// The server against a peer of the test's own.
class DispatchServerTest : public RemoteFabricTest {
 protected:
  struct Peer {
    std::unique_ptr<transport::Link> link;
    std::vector<Frame> frames;
    std::optional<Status> closed;
  };
  std::unique_ptr<Peer> Attach(DispatchServer* server) {
    auto peer = std::make_unique<Peer>();
    auto [a, b] = MakeLinks(GetParam());
    Peer* const p = peer.get();
    p->link = std::move(a);
    p->link->SetCallbacks([p](Frame frame) { p->frames.push_back(std::move(frame)); },
                          [p](Status why) { p->closed = std::move(why); });
    server->AddLink("peer", std::move(b));
    return peer;
  }
  transport::FrameHeader DispatchHeader(uint64_t call, uint32_t rows) const {
    return {.type = FrameType::kDispatch,
            .call_id = call,
            .layer = 2,
            .rows = rows,
            .dtype = profile_.wire};
  }
};
INSTANTIATE_TEST_SUITE_P(Links, DispatchServerTest,
                         ::testing::Values(LinkKind::kInproc, LinkKind::kShm, LinkKind::kUnix),
                         [](const auto& info) {
                           return std::string(transport::LinkKindName(info.param));
                         });

TEST_P(DispatchServerTest, BadFramesCloseTheirLinkOnly) {
  DispatchServer* const server = StartRouter("router-0");
  const std::vector<std::pair<const char*, std::function<void(transport::FrameHeader*)>>> cases = {
      {"no such layer", [](auto* h) { h->layer = 5; }},
      {"rows", [](auto* h) { h->rows = 2; }},
      {"dtype", [](auto* h) { h->dtype = DType::kF32; }},
      {"type", [](auto* h) { h->type = FrameType::kOuts; }},
  };
  for (const auto& [name, spoil] : cases) {
    SCOPED_TRACE(name);
    auto peer = Attach(server);
    transport::FrameHeader header = DispatchHeader(1, 1);
    spoil(&header);
    ASSERT_TRUE(peer->link->Send(header, Rows(1, 1)).ok());
    Run([&] { return peer->closed.has_value(); });
    EXPECT_TRUE(peer->frames.empty());
  }
  ExpectGood(fabric_->Submit(Call(2, 3, 1)), 2, 3, 1);
  Run([&] { return server->num_links() == 1; });
}

TEST_P(DispatchServerTest, CallsOfADeadPeerAreCancelled) {
  MakeDispatcher({});  // no nodes: calls wait
  DispatchServer* const server = StartRouter("router-0");
  auto peer = Attach(server);
  for (uint64_t call : {1, 2, 3})
    ASSERT_TRUE(peer->link->Send(DispatchHeader(call, 1), Rows(1, 1)).ok());
  Run([&] { return dispatcher_->outstanding() == 3; });
  ASSERT_TRUE(peer->link->Send({.type = FrameType::kCancel, .call_id = 2}, {}).ok());
  Run([&] { return dispatcher_->outstanding() == 2; });
  peer->link = nullptr;
  Run([&] { return dispatcher_->outstanding() == 0; });
  EXPECT_EQ(server->num_links(), 1);
}

TEST_P(DispatchServerTest, ACallIdInUseIsABadFrame) {
  MakeDispatcher({});
  DispatchServer* const server = StartRouter("router-0");
  auto peer = Attach(server);
  for (int i = 0; i < 2; ++i) ASSERT_TRUE(peer->link->Send(DispatchHeader(7, 1), Rows(1, 1)).ok());
  Run([&] { return peer->closed.has_value() && dispatcher_->outstanding() == 0; });
}

TEST_P(DispatchServerTest, CallsInFlightAreBounded) {
  MakeDispatcher({});
  DispatchServer* const server = StartRouter("router-0");
  auto peer = Attach(server);
  for (uint64_t call = 1; call <= 257; ++call)
    ASSERT_TRUE(peer->link->Send(DispatchHeader(call, 1), Rows(1, 1)).ok());
  Run([&] { return peer->frames.size() == 1; });
  EXPECT_EQ(peer->frames[0].header.call_id, 257u);
  EXPECT_EQ(ErrorOf(peer->frames[0]).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(server->calls_in_flight(), 256);
}

TEST_P(DispatchServerTest, DeadlinesTravelWithTheCall) {
  MakeDispatcher({});
  auto peer = Attach(StartRouter("router-0"));
  transport::FrameHeader header = DispatchHeader(1, 1);
  header.time_left_us = 5000;
  ASSERT_TRUE(peer->link->Send(header, Rows(1, 1)).ok());
  Run([&] { return peer->frames.size() == 1; });
  EXPECT_EQ(ErrorOf(peer->frames[0]).code(), absl::StatusCode::kDeadlineExceeded);
}

TEST_P(DispatchServerTest, MayDieWithCallsInFlight) {
  auto peer = Attach(StartRouter("router-0"));
  ASSERT_TRUE(peer->link->Send(DispatchHeader(1, 1), Rows(1, 1)).ok());
  Run([&] { return dispatcher_->outstanding() == 1; });
  servers_.clear();
  EXPECT_EQ(dispatcher_->outstanding(), 0);
  RunSome();
}

}  // namespace
}  // namespace atl::dispatch
