#include "transport/counted_link.h"

#include <gtest/gtest.h>

#include <utility>
#include <vector>

#include "tests/unit/transport/link_harness.h"

namespace atl::transport {
namespace {

class CountedLinkTest : public testing::TestWithParam<PairKind> {
 protected:
  // Both ends counted, each by its own.
  CountedLinkTest() : pair_(GetParam()), kind_(pair_.a->kind()) {
    a_ = CountLink(std::move(pair_.a), &counters_a_);
    b_ = CountLink(std::move(pair_.b), &counters_b_);
  }
  const LinkCounters::Kind& at_a() const { return counters_a_.of(kind_); }
  const LinkCounters::Kind& at_b() const { return counters_b_.of(kind_); }

  LinkCounters counters_a_, counters_b_;
  LinkPair pair_;
  const LinkKind kind_;
  std::unique_ptr<Link> a_, b_;
};
INSTANTIATE_TEST_SUITE_P(Kinds, CountedLinkTest,
                         testing::Values(PairKind::kInprocSameLoop, PairKind::kInprocTwoLoops,
                                         PairKind::kShm, PairKind::kUnix, PairKind::kTcp),
                         PairKindName);

TEST_P(CountedLinkTest, BothEndsCountTheSameFrames) {
  std::vector<Frame> frames;
  int answers = 0;
  a_->SetCallbacks([&](Frame) { ++answers; }, [](const Status&) {});
  b_->SetCallbacks(
      [&](Frame frame) {
        frames.push_back(std::move(frame));
        ASSERT_TRUE(b_->Send(CallHeader(9), Pattern(10, 1)).ok());
      },
      [](const Status&) {});
  for (const size_t size : {0, 100, 70'000})
    ASSERT_TRUE(a_->Send(CallHeader(size), Pattern(size, size)).ok());
  ASSERT_TRUE(pair_.Pump([&] { return answers == 3; }));
  EXPECT_TRUE(IsPattern(frames[2].payload, 70'000, 70'000));
  EXPECT_EQ(at_a().sent_frames.load(), 3u);
  EXPECT_EQ(at_b().received_frames.load(), 3u);
  EXPECT_EQ(at_a().sent_bytes.load(), 70'100u);
  EXPECT_EQ(at_b().received_bytes.load(), 70'100u);
  EXPECT_EQ(at_b().sent_frames.load(), 3u);
  EXPECT_EQ(at_a().received_frames.load(), 3u);
  EXPECT_EQ(at_b().sent_bytes.load(), 30u);
  EXPECT_EQ(at_a().received_bytes.load(), 30u);
  EXPECT_EQ(at_a().deaths.load(), 0u);
  EXPECT_EQ(at_a().open.load(), 1);
  for (const LinkKind other : LinkCounters::kKinds) {
    EXPECT_EQ(counters_a_.of(other).sent_frames.load(), other == kind_ ? 3u : 0u);
  }
}

TEST_P(CountedLinkTest, APeerThatGoesIsADeathAndOurOwnEndIsNone) {
  bool told = false;
  a_->SetCallbacks([](Frame) {}, [&](const Status&) { told = true; });
  b_->SetCallbacks([](Frame) {}, [](const Status&) {});
  b_ = nullptr;
  ASSERT_TRUE(pair_.Pump([&] { return told; }));
  EXPECT_EQ(at_a().deaths.load(), 1u);
  EXPECT_EQ(at_b().deaths.load(), 0u);
  EXPECT_EQ(at_b().open.load(), 0);
  a_ = nullptr;
  EXPECT_EQ(at_a().open.load(), 0);
  EXPECT_EQ(at_a().deaths.load(), 1u);
}

TEST_P(CountedLinkTest, AClosedLinkDiesOnce) {
  bool told = false;
  a_->SetCallbacks([](Frame) {}, [&](const Status&) { told = true; });
  a_->Close(InvalidArgument("no frame of ours"));
  a_->Close(InvalidArgument("again"));
  ASSERT_TRUE(pair_.Pump([&] { return told; }));
  EXPECT_EQ(at_a().deaths.load(), 1u);
  EXPECT_FALSE(a_->Send(CallHeader(1), Pattern(5, 5)).ok());
  EXPECT_EQ(at_a().sent_bytes.load(), 0u) << "what was not taken is not counted";
}

// An answer on the same loop comes from inside Send, and may be the end of the link.
TEST_P(CountedLinkTest, MayBeDestroyedByItsOwnCallback) {
  bool gone = false;
  a_->SetCallbacks(
      [&](Frame) {
        a_ = nullptr;
        gone = true;
      },
      [](const Status&) {});
  b_->SetCallbacks([&](const Frame& frame) { b_->Send(frame.header, {}).IgnoreError(); },
                   [](const Status&) {});
  Link* const a = a_.get();
  ASSERT_TRUE(a->Send(CallHeader(1), Pattern(100, 1)).ok());
  ASSERT_TRUE(pair_.Pump([&] { return gone; }));
  EXPECT_EQ(at_a().open.load(), 0);
  EXPECT_EQ(at_a().received_frames.load(), 1u);
  EXPECT_EQ(at_a().sent_bytes.load(), 100u);
}

}  // namespace
}  // namespace atl::transport
