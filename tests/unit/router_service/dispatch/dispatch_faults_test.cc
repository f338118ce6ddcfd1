// What goes wrong between a dispatcher and its expert nodes, and what becomes of the calls.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/unit/router_service/dispatch/dispatch_fixture.h"

namespace atl::dispatch {
namespace {

using ::testing::HasSubstr;
using transport::Frame;
using transport::FrameType;

class FaultsTest : public DispatchFixture {
 protected:
  // A fake "expert-0" and a real "expert-1" that both hold everything. Ties go to the fake.
  void StartFakeAndReal() {
    fake_ = ConnectFake(0);
    Connect(1, StartNode(1, HoldsAll));
    dispatcher_->SetPlacement(MakePlacement(2, HoldsAll));
  }
  void ExpectGood(const std::optional<StatusOr<std::string>>& y, int64_t rows = 8,
                  uint32_t seed = 1) {
    ASSERT_TRUE(y.has_value());
    ASSERT_TRUE(y->ok()) << y->status();
    EXPECT_TRUE(**y == Expected(2, rows, seed));
  }
  std::unique_ptr<FakeNode> fake_;
  std::optional<StatusOr<std::string>> y_;
};

class RefusalTest : public FaultsTest, public ::testing::WithParamInterface<absl::StatusCode> {};
INSTANTIATE_TEST_SUITE_P(Codes, RefusalTest,
                         ::testing::Values(absl::StatusCode::kNotFound,
                                           absl::StatusCode::kResourceExhausted,
                                           absl::StatusCode::kUnavailable),
                         [](const auto& info) {
                           std::string name = absl::StatusCodeToString(info.param);
                           std::erase(name, '_');
                           return name;
                         });

TEST_P(RefusalTest, AnotherHolderDoesTheWork) {
  StartFakeAndReal();
  Submit(Call(2, 8, 1), &y_);
  ASSERT_EQ(fake_->work.size(), 1u);
  fake_->Fail(fake_->work[0], Status(GetParam(), "no"));
  Run([&] { return y_.has_value(); });
  ExpectGood(y_);
  EXPECT_EQ(dispatcher_->retries(), 1u);
  EXPECT_EQ(fake_->work.size(), 1u) << "it was not asked again";
}

TEST_P(RefusalTest, AnswerFromInsideSendIsTakenToo) {
  StartFakeAndReal();
  fake_->on_work = [&](const Frame& frame) { fake_->Fail(frame, Status(GetParam(), "no")); };
  Submit(Call(2, 8, 1), &y_);
  Run([&] { return y_.has_value(); });
  ExpectGood(y_);
}

TEST_P(RefusalTest, SoleHolderIsAskedAgainALittleLater) {
  fake_ = ConnectFake(0);
  dispatcher_->SetPlacement(MakePlacement(1, HoldsAll));
  int asked = 0;
  fake_->on_work = [&](const Frame& frame) {
    if (++asked <= 3) fake_->Fail(frame, Status(GetParam(), "not yet"));
  };
  Submit(Call(2, 8, 1), &y_);
  Run([&] { return asked == 4; });
  EXPECT_FALSE(y_.has_value());
}

TEST_F(FaultsTest, AnyOtherErrorEndsTheCall) {
  StartFakeAndReal();
  Submit(Call(2, 8, 1), &y_);
  fake_->Fail(fake_->work[0], Internal("the sum is wrong"));
  Run([&] { return y_.has_value(); });
  EXPECT_EQ(y_->status().code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(y_->status().message()), HasSubstr("expert-0"));
  EXPECT_THAT(std::string(y_->status().message()), HasSubstr("the sum is wrong"));
}

TEST_F(FaultsTest, NonsenseClosesTheLinkAndTheWorkIsDoneElsewhere) {
  const std::vector<std::pair<const char*, std::function<void(Frame*)>>> cases = {
      {"another type", [](Frame* f) { f->header.type = FrameType::kCombined; }},
      {"too few pairs", [](Frame* f) { --f->header.pairs; }},
      {"bytes missing", [](Frame* f) { f->payload = Buffer(f->payload.size() - 2); }},
      {"another dtype", [](Frame* f) { f->header.dtype = DType::kF16; }},
      {"error without a code",
       [](Frame* f) {
         f->header.type = FrameType::kError;
         f->header.layer = 0;
         f->payload = Buffer();
       }},
  };
  for (const auto& [name, spoil] : cases) {
    SCOPED_TRACE(name);
    MakeDispatcher({});
    StartFakeAndReal();
    y_.reset();
    Submit(Call(2, 8, 1), &y_);
    ASSERT_EQ(fake_->work.size(), 1u);
    Frame answer;
    answer.header = fake_->work[0].header;
    answer.header.type = FrameType::kOuts;
    answer.payload = Buffer(answer.header.pairs * d() * 2);
    spoil(&answer);
    ASSERT_TRUE(fake_->link->Send(answer.header, std::move(answer.payload)).ok());
    Run([&] { return y_.has_value() && fake_->closed.has_value(); });
    ExpectGood(y_);
    EXPECT_FALSE(dispatcher_->HasLink("expert-0"));
  }
}

TEST_F(FaultsTest, UnknownAndLateAnswersAreDropped) {
  StartFakeAndReal();
  Submit(Call(2, 8, 1), &y_);
  const Frame& work = fake_->work[0];
  fake_->link->Close(Cancelled("gone"));
  Run([&] { return y_.has_value(); });
  ExpectGood(y_);
  auto again = ConnectFake(0);
  // What the old link's work would have answered, on the new link.
  transport::FrameHeader late = work.header;
  late.type = FrameType::kOuts;
  ASSERT_TRUE(again->link->Send(late, Buffer(work.header.pairs * d() * 2)).ok());
  RunSome();
  EXPECT_TRUE(dispatcher_->HasLink("expert-0"));
  const auto y =
      Dispatch(3, 1, 1);  // the fake is asked first and does not answer: the hedge saves the call
  EXPECT_TRUE(y.ok()) << y.status();
}

TEST_F(FaultsTest, WithoutAHolderTheCallWaitsForAPlacement) {
  StartNodes(1, HoldsAll);
  dispatcher_->SetPlacement(MakePlacement(1, [](int, int32_t, int32_t e) { return e != 16; }));
  Submit(Call(2, 8, 1), &y_);
  RunSome();
  EXPECT_FALSE(y_.has_value());
  EXPECT_EQ(dispatcher_->outstanding(), 1);
  dispatcher_->SetPlacement(MakePlacement(1, HoldsAll));
  Run([&] { return y_.has_value(); });
  ExpectGood(y_);
}

TEST_F(FaultsTest, WithoutALinkTheCallWaitsForOne) {
  dispatcher_->SetPlacement(MakePlacement(1, HoldsAll));
  Submit(Call(2, 8, 1), &y_);
  RunSome();
  EXPECT_FALSE(y_.has_value());
  Connect(0, StartNode(0, HoldsAll));
  Run([&] { return y_.has_value(); });
  ExpectGood(y_);
}

TEST_F(FaultsTest, CoverageTimeoutNamesTheExpert) {
  MakeDispatcher({.coverage_timeout = absl::Milliseconds(30)});
  StartNodes(1, HoldsAll);
  dispatcher_->SetPlacement(MakePlacement(1, [](int, int32_t, int32_t e) { return e != 16; }));
  const absl::Time begin = absl::Now();
  const auto y = Dispatch(2, 8, 1);
  EXPECT_EQ(y.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(y.status().message()), HasSubstr("expert 16 of layer 2"));
  EXPECT_GE(absl::Now() - begin, absl::Milliseconds(30));
  EXPECT_EQ(dispatcher_->outstanding(), 0);
}

TEST_F(FaultsTest, HolderThatSaysNotFoundForeverEndsWithTheCoverageTimeout) {
  MakeDispatcher({.coverage_timeout = absl::Milliseconds(60)});
  fake_ = ConnectFake(0);
  dispatcher_->SetPlacement(MakePlacement(1, HoldsAll));
  fake_->on_work = [&](const Frame& frame) { fake_->Fail(frame, NotFound("unloaded")); };
  EXPECT_EQ(Dispatch(2, 1, 1).status().code(), absl::StatusCode::kUnavailable);
}

TEST_F(FaultsTest, DeadlineEndsTheCallAndCancelsItsWork) {
  fake_ = ConnectFake(0);
  dispatcher_->SetPlacement(MakePlacement(1, HoldsAll));
  DispatchCall call = Call(2, 8, 1);
  call.deadline = absl::Now() + absl::Milliseconds(20);
  Submit(std::move(call), &y_);
  ASSERT_EQ(fake_->work.size(), 1u);
  EXPECT_GT(fake_->work[0].header.time_left_us, 0u);
  EXPECT_LE(fake_->work[0].header.time_left_us, 20'000u);
  Run([&] { return y_.has_value(); });
  EXPECT_EQ(y_->status().code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(fake_->cancelled, std::vector<uint64_t>{fake_->work[0].header.call_id});
}

TEST_F(FaultsTest, CallsWithoutADeadlineEndAllTheSame) {
  MakeDispatcher({.call_timeout = absl::Milliseconds(20)});
  fake_ = ConnectFake(0);
  dispatcher_->SetPlacement(MakePlacement(1, HoldsAll));
  EXPECT_EQ(Dispatch(2, 1, 1).status().code(), absl::StatusCode::kDeadlineExceeded);
}

TEST_F(FaultsTest, CancelledCallIsNotDone) {
  fake_ = ConnectFake(0);
  dispatcher_->SetPlacement(MakePlacement(1, HoldsAll));
  const uint64_t id = Submit(Call(2, 8, 1), &y_);
  dispatcher_->Cancel(id);
  dispatcher_->Cancel(id);
  EXPECT_EQ(dispatcher_->outstanding(), 0);
  EXPECT_EQ(fake_->cancelled.size(), 1u);
  transport::FrameHeader late = fake_->work[0].header;
  late.type = FrameType::kOuts;
  ASSERT_TRUE(fake_->link->Send(late, Buffer(late.pairs * d() * 2)).ok());
  RunSome();
  EXPECT_FALSE(y_.has_value());
  EXPECT_TRUE(dispatcher_->HasLink("expert-0")) << "a late answer is no fault";
}

TEST_F(FaultsTest, WorkThatKillsThreeNodesEndsAndGoesAloneToTheThird) {
  std::vector<std::unique_ptr<FakeNode>> fakes;
  for (int n = 0; n < 4; ++n) fakes.push_back(ConnectFake(n));
  // One node after the other holds everything, and dies of it.
  std::vector<uint16_t> flags_at_death;
  Submit(Call(2, 1, 1), &y_);
  for (int n = 0; n < 4 && !y_.has_value(); ++n) {
    dispatcher_->SetPlacement(
        MakePlacement(4, [n](int node, int32_t, int32_t) { return node == n; }));
    ASSERT_EQ(fakes[n]->work.size(), 1u);
    flags_at_death.push_back(fakes[n]->work[0].header.flags);
    fakes[n]->link = nullptr;
    RunSome();
  }
  ASSERT_TRUE(y_.has_value());
  EXPECT_EQ(y_->status().code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(y_->status().message()), HasSubstr("lost 3 expert nodes"));
  EXPECT_EQ(flags_at_death, (std::vector<uint16_t>{0, 0, transport::kFlagAlone}));
}

TEST_F(FaultsTest, PiecesOfACallMayEachLoseTheirNode) {
  std::vector<std::unique_ptr<FakeNode>> fakes;
  for (int n = 0; n < 4; ++n) fakes.push_back(ConnectFake(n));
  dispatcher_->SetPlacement(
      MakePlacement(4, [](int node, int32_t, int32_t expert) { return expert % 4 == node; }));
  Submit(Call(2, 8, 1), &y_);
  int had_work = 0;
  for (auto& fake : fakes) {
    had_work += !fake->work.empty();
    fake->link = nullptr;
  }
  ASSERT_GE(had_work, 3);
  RunSome();
  EXPECT_FALSE(y_.has_value());
  Connect(4, StartNode(4, HoldsAll));
  dispatcher_->SetPlacement(MakePlacement(5, [](int node, int32_t, int32_t) { return node == 4; }));
  Run([&] { return y_.has_value(); });
  ExpectGood(y_);
}

TEST_F(FaultsTest, RemovedLinksAreNotCountedAsLostNodes) {
  std::vector<std::unique_ptr<FakeNode>> fakes;
  for (int n = 0; n < 5; ++n) fakes.push_back(ConnectFake(n));
  Connect(5, StartNode(5, HoldsAll));
  dispatcher_->SetPlacement(MakePlacement(6, HoldsAll));
  Submit(Call(2, 1, 1), &y_);
  for (int n = 0; n < 5; ++n) dispatcher_->RemoveLink(absl::StrFormat("expert-%d", n));
  Run([&] { return y_.has_value(); });
  ExpectGood(y_, 1);
}

TEST_F(FaultsTest, HangingNodeIsHedgedAndThenAvoided) {
  MakeDispatcher({.hedge_after = absl::Milliseconds(20)});
  StartFakeAndReal();
  Submit(Call(2, 8, 1), &y_);
  ASSERT_EQ(fake_->work.size(), 1u);
  Run([&] { return y_.has_value(); });
  ExpectGood(y_);
  EXPECT_GE(dispatcher_->hedges(), 1u);
  EXPECT_TRUE(dispatcher_->HasLink("expert-0")) << "slow is not dead";
  EXPECT_EQ(fake_->cancelled.size(), 1u);
  // Suspect: the next call goes to the other one at once.
  const uint64_t hedges = dispatcher_->hedges();
  const auto second = Dispatch(2, 8, 1);
  ASSERT_TRUE(second.ok());
  EXPECT_EQ(dispatcher_->hedges(), hedges);
  EXPECT_EQ(fake_->work.size(), 1u);
}

TEST_F(FaultsTest, WorkThatCouldBeHedgedInPartIsHedgedAsAWholeLater) {
  MakeDispatcher({.hedge_after = absl::Milliseconds(20)});
  auto hangs = ConnectFake(0);
  Connect(1, StartNode(1, HoldsAll));
  Connect(2, StartNode(2, HoldsAll));
  // At first expert-0 alone holds everything and is asked; then another has half of it.
  dispatcher_->SetPlacement(MakePlacement(1, HoldsAll));
  Submit(Call(2, 8, 1), &y_);
  ASSERT_EQ(hangs->work.size(), 1u);
  dispatcher_->SetPlacement(
      MakePlacement(2, [](int n, int32_t, int32_t e) { return n == 0 || e % 2 == 0; }));
  Run([&] { return dispatcher_->hedges() == 1; });
  RunSome();
  EXPECT_FALSE(y_.has_value()) << "nobody else has the odd experts";
  dispatcher_->SetPlacement(MakePlacement(
      3, [](int n, int32_t, int32_t e) { return n == 0 || (e % 2 == 0) == (n == 1); }));
  Run([&] { return y_.has_value(); });
  ExpectGood(y_);
  EXPECT_EQ(hangs->work.size(), 1u);
}

TEST_F(FaultsTest, FirstAnswerOfAHedgeCountsWhicheverItIs) {
  MakeDispatcher({.hedge_after = absl::Milliseconds(20)});
  auto first = ConnectFake(0);
  auto second = ConnectFake(1);
  // Only the first may be asked at the beginning: the second holds everything, too, but is told
  // later.
  dispatcher_->SetPlacement(MakePlacement(1, HoldsAll));
  Submit(Call(2, 1, 1), &y_);
  ASSERT_EQ(first->work.size(), 1u);
  dispatcher_->SetPlacement(MakePlacement(2, HoldsAll));
  Run([&] { return second->work.size() == 1; });
  EXPECT_EQ(second->work[0].header.pairs, first->work[0].header.pairs);
  // The first one wakes up.
  transport::FrameHeader header = first->work[0].header;
  header.type = FrameType::kOuts;
  ASSERT_TRUE(first->link->Send(header, Buffer(header.pairs * d() * 2)).ok());
  ASSERT_TRUE(y_.has_value());
  EXPECT_TRUE(y_->ok());
  EXPECT_EQ(second->cancelled, std::vector<uint64_t>{second->work[0].header.call_id});
}

TEST_F(FaultsTest, ChoiceIsLeastOutstandingThenLowestName) {
  auto a = ConnectFake(0);
  auto b = ConnectFake(1);
  dispatcher_->SetPlacement(MakePlacement(2, HoldsAll));
  Submit(Call(2, 1, 1), &y_);
  // Five experts of one row each: to expert-0, then expert-1, and so on.
  ASSERT_EQ(a->work.size(), 1u);
  ASSERT_EQ(b->work.size(), 1u);
  const std::vector<int32_t> ids = ExpectedChoice(2, 1, 1).ids;
  const auto pairs_a = WorkPairs(a->work[0]), pairs_b = WorkPairs(b->work[0]);
  ASSERT_EQ(pairs_a.size(), 3u);
  ASSERT_EQ(pairs_b.size(), 2u);
  EXPECT_EQ(pairs_a[0].expert, static_cast<uint32_t>(ids[0]));
  EXPECT_EQ(pairs_b[0].expert, static_cast<uint32_t>(ids[1]));
  EXPECT_EQ(pairs_a[1].expert, static_cast<uint32_t>(ids[2]));
  EXPECT_EQ(pairs_b[1].expert, static_cast<uint32_t>(ids[3]));
  EXPECT_EQ(pairs_a[2].expert, 16u);
}

TEST_F(FaultsTest, WorkFramesCarryOnlyTheRowsTheyNeed) {
  auto a = ConnectFake(0);
  auto b = ConnectFake(1);
  const std::vector<int32_t> ids = ExpectedChoice(2, 3, 4).ids;  // [3, 4]
  const int32_t only = ids[4];                                   // chosen by row 1 at least
  dispatcher_->SetPlacement(
      MakePlacement(2, [&](int n, int32_t, int32_t e) { return (e == only) == (n == 0); }));
  Submit(Call(2, 3, 4), &y_);
  ASSERT_EQ(a->work.size(), 1u);
  const Frame& frame = a->work[0];
  const Buffer x = Rows(3, 4);
  std::vector<int64_t> rows;
  for (int64_t row = 0; row < 3; ++row) {
    if (std::find(ids.begin() + row * 4, ids.begin() + row * 4 + 4, only) !=
        ids.begin() + row * 4 + 4) {
      rows.push_back(row);
    }
  }
  ASSERT_EQ(frame.header.rows, rows.size());
  ASSERT_EQ(frame.header.pairs, rows.size());
  for (size_t i = 0; i < rows.size(); ++i) {
    EXPECT_EQ(WorkPairs(frame)[i].row, i);
    EXPECT_EQ(WorkPairs(frame)[i].expert, static_cast<uint32_t>(only));
    EXPECT_EQ(
        std::memcmp(frame.payload.data() + i * d() * 2, x.data() + rows[i] * d() * 2, d() * 2), 0);
  }
}

TEST_F(FaultsTest, CallsThatMakeNoSenseAreRefused) {
  StartNodes(1, HoldsAll);
  for (int32_t layer : {-1, 0, 1, 5, 70'000}) {
    EXPECT_EQ(Dispatch(layer, 1, 1).status().code(), absl::StatusCode::kInvalidArgument) << layer;
  }
  DispatchCall call = Call(2, 2, 1);
  call.rows = 3;
  Submit(std::move(call), &y_);
  ASSERT_TRUE(y_.has_value());
  EXPECT_EQ(y_->status().code(), absl::StatusCode::kInvalidArgument);
  y_.reset();
  call = Call(2, 2, 1);
  call.bias_version = 9;
  Submit(std::move(call), &y_);
  EXPECT_EQ(y_->status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(dispatcher_->outstanding(), 0);
  const auto none = Dispatch(2, 0, 1);
  ASSERT_TRUE(none.ok()) << none.status();
  EXPECT_TRUE(none->empty());
}

TEST_F(FaultsTest, DoneMaySubmitAgainAndRemoveLinks) {
  StartNodes(2, HoldsAll);
  int rounds = 0;
  std::function<void(StatusOr<Buffer>)> next = [&](StatusOr<Buffer> y) {
    ASSERT_TRUE(y.ok()) << y.status();
    EXPECT_TRUE(Bytes(*y) == Expected(2, 4, rounds));
    if (++rounds == 5) dispatcher_->RemoveLink("expert-0");
    if (rounds < 10) dispatcher_->Submit(Call(2, 4, rounds), next);
  };
  dispatcher_->Submit(Call(2, 4, 0), next);
  Run([&] { return rounds == 10; });
}

TEST_F(FaultsTest, DispatcherMayDieWithCallsInFlight) {
  StartNodes(2, HoldsAll);
  fake_ = ConnectFake(0);
  dispatcher_->SetPlacement(MakePlacement(3, HoldsAll));
  Submit(Call(2, 8, 1), &y_);
  dispatcher_ = nullptr;
  RunSome();
  EXPECT_FALSE(y_.has_value());
}

}  // namespace
}  // namespace atl::dispatch
