#include "transport/link.h"

#include <gtest/gtest.h>

#include <optional>
#include <random>
#include <thread>
#include <vector>

#include "tests/unit/transport/link_harness.h"

namespace atl::transport {
namespace {

class LinkTest : public testing::TestWithParam<PairKind> {};
INSTANTIATE_TEST_SUITE_P(Kinds, LinkTest,
                         testing::Values(PairKind::kInprocSameLoop, PairKind::kInprocTwoLoops,
                                         PairKind::kShm, PairKind::kUnix, PairKind::kTcp),
                         PairKindName);

// What only links between processes, or only links in one process, promise.
class StreamLinkTest : public LinkTest {};
INSTANTIATE_TEST_SUITE_P(Kinds, StreamLinkTest,
                         testing::Values(PairKind::kShm, PairKind::kUnix, PairKind::kTcp),
                         PairKindName);
class InprocLinkTest : public LinkTest {};
INSTANTIATE_TEST_SUITE_P(Kinds, InprocLinkTest,
                         testing::Values(PairKind::kInprocSameLoop, PairKind::kInprocTwoLoops),
                         PairKindName);

void IgnoreFrames(Frame) {}
void IgnoreEnd(Status) {}

TEST_P(LinkTest, EchoKeepsHeaderAndBytesAtEverySize) {
  LinkPair pair(GetParam());
  pair.b->SetCallbacks(
      [&](Frame f) { ASSERT_TRUE(pair.b->Send(f.header, std::move(f.payload)).ok()); }, IgnoreEnd);
  std::optional<Frame> back;
  pair.a->SetCallbacks([&](Frame f) { back = std::move(f); }, IgnoreEnd);
  uint64_t bytes = 0;
  uint64_t frames = 0;
  for (size_t size :
       {0, 1, 7, 8, 55, 56, 57, 4096, 65'535, 65'536, 1 << 20, (2 << 20) - 1, 2 << 20, 8 << 20}) {
    back.reset();
    FrameHeader header = {.type = FrameType::kWork,
                          .flags = 3,
                          .call_id = 1000 + size,
                          .layer = 5,
                          .micro_batch = 1,
                          .rows = 2,
                          .pairs = 9,
                          .dtype = DType::kBf16,
                          .time_left_us = 77,
                          .bias_version = 12};
    ASSERT_TRUE(pair.a->Send(header, Pattern(size, size)).ok());
    ASSERT_TRUE(pair.Pump([&] { return back.has_value(); })) << size;
    EXPECT_TRUE(IsPattern(back->payload, size, size)) << size;
    EXPECT_EQ(back->header.type, FrameType::kWork);
    EXPECT_EQ(back->header.flags, 3);
    EXPECT_EQ(back->header.call_id, 1000 + size);
    EXPECT_EQ(back->header.layer, 5);
    EXPECT_EQ(back->header.micro_batch, 1);
    EXPECT_EQ(back->header.rows, 2u);
    EXPECT_EQ(back->header.pairs, 9u);
    EXPECT_EQ(back->header.dtype, DType::kBf16);
    EXPECT_EQ(back->header.time_left_us, 77u);
    EXPECT_EQ(back->header.bias_version, 12u);
    EXPECT_EQ(back->header.payload_bytes, size);
    bytes += size;
    ++frames;
  }
  for (const Link* link : {pair.a.get(), pair.b.get()}) {
    EXPECT_EQ(link->stats().frames_sent, frames);
    EXPECT_EQ(link->stats().frames_received, frames);
    EXPECT_EQ(link->stats().bytes_sent, bytes);
    EXPECT_EQ(link->stats().bytes_received, bytes);
  }
}

TEST_P(LinkTest, BothDirectionsKeepOrderThroughASmallWindow) {
  constexpr int kFrames = 3000;
  LinkPair pair(GetParam(), {.window_bytes = 20'000, .queue_bytes = 64 << 20});
  const auto size_of = [](uint64_t i) { return (i * 7919) % 20'001; };  // up to the whole window
  std::vector<uint64_t> seen[2];
  const auto receive = [&](int end) {
    return [&, end](Frame f) {
      EXPECT_TRUE(IsPattern(f.payload, size_of(f.header.call_id), f.header.call_id + end));
      seen[end].push_back(f.header.call_id);
    };
  };
  pair.a->SetCallbacks(receive(0), IgnoreEnd);
  pair.b->SetCallbacks(receive(1), IgnoreEnd);
  for (uint64_t i = 0; i < kFrames; ++i) {
    ASSERT_TRUE(pair.a->Send(CallHeader(i), Pattern(size_of(i), i + 1)).ok());
    ASSERT_TRUE(pair.b->Send(CallHeader(i), Pattern(size_of(i), i)).ok());
  }
  ASSERT_TRUE(pair.Pump([&] { return seen[0].size() == kFrames && seen[1].size() == kFrames; }));
  for (int end = 0; end < 2; ++end) {
    for (uint64_t i = 0; i < kFrames; ++i) ASSERT_EQ(seen[end][i], i);
  }
}

TEST_P(LinkTest, FullQueueIsResourceExhaustedThenDrains) {
  const LinkLimits limits = {.window_bytes = 100'000, .queue_bytes = 200'000};
  LinkPair pair(GetParam(), limits);
  pair.a->SetCallbacks(IgnoreFrames, IgnoreEnd);
  // End b has no callbacks yet: nothing is consumed.
  uint64_t taken = 0;
  Status status;
  while (status.ok() && taken < 1000) {
    status = pair.a->Send(CallHeader(taken), Pattern(1000, taken));
    if (status.ok()) ++taken;
    pair.PumpSome();
  }
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  EXPECT_GE(taken, 250u);
  EXPECT_LE(taken, 300u) << "window and queue together";
  EXPECT_EQ(pair.a->Send(CallHeader(0), Pattern(1000, 0)).code(),
            absl::StatusCode::kResourceExhausted);

  std::vector<uint64_t> seen;
  pair.b->SetCallbacks(
      [&](Frame f) {
        EXPECT_TRUE(IsPattern(f.payload, 1000, f.header.call_id));
        seen.push_back(f.header.call_id);
      },
      IgnoreEnd);
  ASSERT_TRUE(pair.Pump([&] { return seen.size() == taken; }));
  for (uint64_t i = 0; i < taken; ++i) ASSERT_EQ(seen[i], i);
  ASSERT_TRUE(pair.a->Send(CallHeader(taken), Pattern(1000, taken)).ok()) << "there is room again";
  ASSERT_TRUE(pair.Pump([&] { return seen.size() == taken + 1; }));
}

TEST_P(LinkTest, FramesWithoutPayloadAreBoundedToo) {
  LinkPair pair(GetParam(), {.window_bytes = 10'000, .queue_bytes = 20'000});
  Status status;
  int taken = 0;
  for (; status.ok() && taken < 100'000; ++taken) status = pair.a->Send(CallHeader(taken), {});
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
}

// The peer keeps back credit until half a window is consumed: a frame larger than what is left must
// pass all the same.
TEST_P(LinkTest, LargeFrameAfterUncreditedSmallOnesPasses) {
  LinkPair pair(GetParam(), {.window_bytes = 10'001, .queue_bytes = 1 << 20});
  int seen = 0;
  pair.b->SetCallbacks([&](Frame) { ++seen; }, IgnoreEnd);
  ASSERT_TRUE(pair.a->Send(CallHeader(1), Pattern(4'999, 1)).ok());
  ASSERT_TRUE(pair.Pump([&] { return seen == 1; }));
  ASSERT_TRUE(pair.a->Send(CallHeader(2), Pattern(10'001, 2)).ok());
  ASSERT_TRUE(pair.Pump([&] { return seen == 2; }));
}

TEST_P(StreamLinkTest, FrameLargerThanTheWindowIsRefusedAtHome) {
  LinkPair pair(GetParam(), {.window_bytes = 1000, .queue_bytes = 1 << 20});
  EXPECT_EQ(pair.a->Send(CallHeader(1), Buffer(1001)).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(pair.a->Send(CallHeader(1), Buffer(1000)).ok());
}

TEST_P(LinkTest, FrameLargerThanTheProtocolAllowsIsRefused) {
  LinkPair pair(GetParam(), {.window_bytes = int64_t{1} << 30, .queue_bytes = int64_t{1} << 30});
  EXPECT_EQ(pair.a->Send(CallHeader(1), Buffer(kMaxPayloadBytes + 1)).code(),
            absl::StatusCode::kInvalidArgument);
}

// Send from inside on_frame, thousands of times: no recursion, no callback inside itself.
TEST_P(LinkTest, PingPongFromInsideOnFrameDoesNotRecurse) {
  constexpr uint64_t kRounds = 20'000;
  LinkPair pair(GetParam());
  bool in_a = false, in_b = false;
  uint64_t rounds = 0;
  pair.a->SetCallbacks(
      [&](Frame f) {
        ASSERT_FALSE(std::exchange(in_a, true));
        if (++rounds < kRounds) {
          EXPECT_TRUE(pair.a->Send(CallHeader(f.header.call_id + 1), {}).ok());
        }
        in_a = false;
      },
      IgnoreEnd);
  pair.b->SetCallbacks(
      [&](Frame f) {
        ASSERT_FALSE(std::exchange(in_b, true));
        ASSERT_TRUE(pair.b->Send(f.header, {}).ok());
        in_b = false;
      },
      IgnoreEnd);
  ASSERT_TRUE(pair.a->Send(CallHeader(1), {}).ok());
  ASSERT_TRUE(pair.Pump([&] { return rounds == kRounds; }));
}

TEST_P(InprocLinkTest, PayloadsAreMovedNotCopied) {
  LinkPair pair(GetParam());
  const std::byte* address = nullptr;
  pair.b->SetCallbacks([&](Frame f) { address = f.payload.data(); }, IgnoreEnd);
  Buffer payload(100);
  const std::byte* const sent = payload.data();
  ASSERT_TRUE(pair.a->Send(CallHeader(1), std::move(payload)).ok());
  ASSERT_TRUE(pair.Pump([&] { return address != nullptr; }));
  EXPECT_EQ(address, sent);
}

TEST_P(LinkTest, CloseTellsBothEndsOnceAndNeverFromInside) {
  LinkPair pair(GetParam());
  std::vector<Status> ends_a, ends_b;
  pair.a->SetCallbacks(IgnoreFrames, [&](Status s) { ends_a.push_back(s); });
  pair.b->SetCallbacks(IgnoreFrames, [&](Status s) { ends_b.push_back(s); });
  pair.PumpSome();
  pair.a->Close(Cancelled("enough"));
  pair.a->Close(Cancelled("again"));
  EXPECT_TRUE(ends_a.empty()) << "not from inside Close";
  EXPECT_EQ(pair.a->Send(CallHeader(1), {}).code(), absl::StatusCode::kUnavailable);
  ASSERT_TRUE(pair.Pump([&] { return !ends_a.empty() && !ends_b.empty(); }));
  pair.PumpSome();
  ASSERT_EQ(ends_a.size(), 1u);
  ASSERT_EQ(ends_b.size(), 1u);
  EXPECT_EQ(ends_a[0].code(), absl::StatusCode::kCancelled);
  EXPECT_EQ(ends_b[0].code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(pair.b->Send(CallHeader(1), {}).code(), absl::StatusCode::kUnavailable);
}

TEST_P(LinkTest, DestroyingOneEndClosesTheOtherAfterWhatWasSent) {
  LinkPair pair(GetParam());
  std::vector<uint64_t> seen;
  std::optional<Status> end;
  for (uint64_t i = 0; i < 10; ++i) ASSERT_TRUE(pair.a->Send(CallHeader(i), Pattern(1000, i)).ok());
  pair.a = nullptr;
  pair.PumpSome();
  pair.b->SetCallbacks(
      [&](Frame f) {
        EXPECT_FALSE(end.has_value());
        seen.push_back(f.header.call_id);
      },
      [&](Status s) { end = s; });
  EXPECT_TRUE(seen.empty() && !end) << "not from inside SetCallbacks";
  ASSERT_TRUE(pair.Pump([&] { return end.has_value(); }));
  EXPECT_EQ(seen.size(), 10u);
}

TEST_P(LinkTest, DestroyedLinkCallsNobody) {
  LinkPair pair(GetParam());
  if (GetParam() != PairKind::kInprocSameLoop) {  // there, Send is the delivery
    ASSERT_TRUE(pair.b->Send(CallHeader(1), Buffer(1000)).ok());
  }
  pair.a->SetCallbacks([](Frame) { ADD_FAILURE(); }, [](Status) { ADD_FAILURE(); });
  pair.a = nullptr;
  pair.PumpSome();
}

TEST_P(LinkTest, LinkMayBeDestroyedInItsOwnOnClosed) {
  LinkPair pair(GetParam());
  bool told = false;
  pair.b->SetCallbacks(IgnoreFrames, [&](Status) {
    pair.b = nullptr;
    told = true;
  });
  pair.a->SetCallbacks(IgnoreFrames, IgnoreEnd);
  pair.a->Close(Cancelled("bye"));
  ASSERT_TRUE(pair.Pump([&] { return told; }));
  pair.PumpSome();
}

TEST_P(LinkTest, LinkMayBeDestroyedInItsOwnOnFrame) {
  LinkPair pair(GetParam());
  int seen = 0;
  pair.b->SetCallbacks(
      [&](Frame) {
        ++seen;
        pair.b = nullptr;
      },
      [](Status) { ADD_FAILURE(); });
  for (int i = 0; i < 3; ++i)
    pair.a->Send(CallHeader(i), Buffer(100)).IgnoreError();  // the later ones may be refused
  ASSERT_TRUE(pair.Pump([&] { return seen > 0; }));
  pair.PumpSome();
  EXPECT_EQ(seen, 1);
}

TEST_P(LinkTest, CloseInsideOnFrameStopsTheFramesBehind) {
  LinkPair pair(GetParam());
  int seen = 0;
  std::optional<Status> end;
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(pair.a->Send(CallHeader(i), Buffer(100)).ok());
  pair.b->SetCallbacks(
      [&](Frame) {
        ++seen;
        pair.b->Close(InvalidArgument("enough of that"));
        EXPECT_FALSE(end.has_value());
      },
      [&](Status s) { end = s; });
  ASSERT_TRUE(pair.Pump([&] { return end.has_value(); }));
  EXPECT_EQ(seen, 1);
  EXPECT_EQ(end->code(), absl::StatusCode::kInvalidArgument);
}

TEST_P(LinkTest, CloseWithMuchQueuedDropsIt) {
  LinkPair pair(GetParam(), {.window_bytes = 1 << 20, .queue_bytes = 64 << 20});
  std::optional<Status> end_a, end_b;
  pair.a->SetCallbacks(IgnoreFrames, [&](Status s) { end_a = s; });
  for (int i = 0; i < 40; ++i) ASSERT_TRUE(pair.a->Send(CallHeader(i), Buffer(1 << 20)).ok());
  pair.a->Close(Cancelled("now"));
  pair.b->SetCallbacks(IgnoreFrames, [&](Status s) { end_b = s; });
  ASSERT_TRUE(pair.Pump([&] { return end_a.has_value() && end_b.has_value(); }));
}

// Both threads sleep whenever they have nothing to do: a wake-up that got lost would end the test
// at its deadline. Windows of a page, so that both ends wait for room again and again.
TEST_P(StreamLinkTest, TwoThreadsThatSleepLoseNoWakeUp) {
  constexpr uint64_t kFrames = 4'000;
  const auto size_of = [](uint64_t i) { return (i * 7919) % 4'001; };
  LinkPair pair(GetParam(), {.window_bytes = 4'000, .queue_bytes = 64 << 20});
  bool b_closed = false;
  pair.b->SetCallbacks(
      [&](Frame f) { EXPECT_TRUE(pair.b->Send(f.header, std::move(f.payload)).ok()); },
      [&](Status) { b_closed = true; });
  std::thread other([&] {
    EXPECT_TRUE(PumpUntil({pair.loop_b()}, [&] { return b_closed; }, absl::InfiniteDuration()));
  });
  uint64_t echoed = 0;
  pair.a->SetCallbacks(
      [&](Frame f) {
        EXPECT_EQ(f.header.call_id, echoed);
        EXPECT_TRUE(IsPattern(f.payload, size_of(echoed), echoed));
        ++echoed;
      },
      IgnoreEnd);
  // One at a time, then in bursts, then all at once.
  uint64_t sent = 0;
  const std::pair<uint64_t, uint64_t> phases[] = {{1'000, 1}, {2'000, 7}, {kFrames, kFrames}};
  for (const auto& [until, burst] : phases) {
    while (sent < until && !HasFailure()) {
      for (uint64_t i = 0; i < burst && sent < until; ++i, ++sent)
        EXPECT_TRUE(pair.a->Send(CallHeader(sent), Pattern(size_of(sent), sent)).ok());
      EXPECT_TRUE(PumpUntil({pair.loop_a()}, [&] { return echoed == sent; }, absl::Seconds(10)));
    }
  }
  EXPECT_EQ(echoed, kFrames);
  pair.a = nullptr;
  other.join();
}

TEST(InprocThreadsTest, TwoThreadsExchangeFramesThenOneLeaves) {
  constexpr uint64_t kFrames = 20'000;
  EventLoop loop_a, loop_b;
  auto [a, b] = MakeInprocLinks(&loop_a, &loop_b, {});
  uint64_t echoed = 0;
  bool closed = false;
  std::thread other([&loop_b, link = std::move(b)]() mutable {
    uint64_t seen = 0;
    link->SetCallbacks(
        [&](Frame f) {
          EXPECT_EQ(f.header.call_id, seen);
          ++seen;
          EXPECT_TRUE(link->Send(f.header, std::move(f.payload)).ok());
        },
        IgnoreEnd);
    while (seen < kFrames) loop_b.RunOnce(absl::Milliseconds(100));
    link = nullptr;
  });
  a->SetCallbacks(
      [&](Frame f) {
        EXPECT_EQ(f.header.call_id, echoed);
        EXPECT_TRUE(IsPattern(f.payload, 64, echoed));
        ++echoed;
      },
      [&](Status) { closed = true; });
  for (uint64_t i = 0; i < kFrames; ++i) {
    ASSERT_TRUE(a->Send(CallHeader(i), Pattern(64, i)).ok());
    if (i % 16 == 0) loop_a.RunOnce(absl::ZeroDuration());
  }
  EXPECT_TRUE(PumpUntil({&loop_a}, [&] { return closed; }));
  EXPECT_EQ(echoed, kFrames);
  other.join();
}

TEST(LinkKindTest, NamesComeBack) {
  for (LinkKind kind : {LinkKind::kInproc, LinkKind::kShm, LinkKind::kUnix, LinkKind::kTcp}) {
    EXPECT_EQ(ParseLinkKind(LinkKindName(kind)).value(), kind);
  }
  EXPECT_EQ(ParseLinkKind("pigeon").status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace atl::transport
