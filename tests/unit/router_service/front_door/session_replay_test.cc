// A request's life on nodes that fail: replay, fencing, waiting, giving up.
#include "router_service/front_door/session.h"
#include "tests/unit/router_service/front_door/session_fixture.h"

namespace atl::front_door {
namespace {

namespace pb = atollpb::v1;

class SessionReplayTest : public SessionFixture {
 protected:
  void ExpectWholeAnswer(const FakeSink& sink) {
    ASSERT_TRUE(sink.done());
    EXPECT_TRUE(sink.ends[0].ok()) << sink.ends[0].status;
    EXPECT_EQ(sink.Ids(), script_);
    EXPECT_EQ(sink.Sum().text(), Text(script_));
    EXPECT_EQ(sink.Sum().usage().generated_tokens(), script_.size());
  }
};

TEST_F(SessionReplayTest, AKilledNodeAfterAnyTokenLosesAndRepeatsNothing) {
  for (size_t k = 0; k < script_.size(); ++k) {
    SCOPED_TRACE(k);
    a_ = std::make_shared<FakeBackend>(script_);
    b_ = std::make_shared<FakeBackend>(script_);
    directory_.Set({{.name = "a", .backend = a_}, {.name = "b", .backend = b_}});
    FakeSink sink;
    Start(Request(), &sink);
    ASSERT_EQ(a_->num_runs(), 1);
    if (k > 0) a_->last()->Emit(k);
    Kill("a", a_.get());
    ASSERT_EQ(b_->num_runs(), 1);
    EXPECT_EQ(a_->last()->start.run_number() + 1, b_->last()->start.run_number());
    EXPECT_EQ(a_->last()->start.request_id(), b_->last()->start.request_id());
    EXPECT_EQ(b_->last()->start.generated_ids_size(), static_cast<int>(k));
    b_->last()->EmitRest();
    ExpectWholeAnswer(sink);
  }
}

class ReplayedStatusTest : public SessionReplayTest,
                           public ::testing::WithParamInterface<StatusCode> {};

TEST_P(ReplayedStatusTest, RunsOnAnotherNode) {
  FakeSink sink;
  Start(Request(), &sink);
  a_->last()->Emit(2);
  a_->last()->End(Status(GetParam(), "a node's trouble"));
  ASSERT_EQ(b_->num_runs(), 1);
  b_->last()->EmitRest();
  ExpectWholeAnswer(sink);
}

INSTANTIATE_TEST_SUITE_P(Codes, ReplayedStatusTest,
                         ::testing::Values(StatusCode::kUnavailable, StatusCode::kInternal,
                                           StatusCode::kUnknown, StatusCode::kDataLoss,
                                           StatusCode::kCancelled, StatusCode::kAborted,
                                           StatusCode::kResourceExhausted,
                                           StatusCode::kFailedPrecondition),
                         [](const auto& info) { return absl::StatusCodeToString(info.param); });

TEST_F(SessionReplayTest, AnEndWithoutAFinishReasonIsAFailure) {
  FakeSink sink;
  Start(Request(), &sink);
  a_->last()->Emit(2);
  a_->last()->End(absl::OkStatus());
  ASSERT_EQ(b_->num_runs(), 1);
  b_->last()->EmitRest();
  ExpectWholeAnswer(sink);
}

TEST_F(SessionReplayTest, AnswersThatBreakTheContractAreNotBelieved) {
  const auto too_many = [](FakeRun* run) { return run->Next(run->script.size()); };
  const auto no_logprobs = [](FakeRun* run) {
    pb::RunResponse response = run->Next(1);
    response.clear_logprobs();
    return response;
  };
  const auto no_prompt_logprobs = [](FakeRun* run) {
    pb::RunResponse response = run->Next(1);
    response.clear_prompt_logprobs();
    return response;
  };
  for (const std::function<pb::RunResponse(FakeRun*)>& bad :
       {std::function<pb::RunResponse(FakeRun*)>(too_many), {no_logprobs}, {no_prompt_logprobs}}) {
    a_ = std::make_shared<FakeBackend>(script_);
    b_ = std::make_shared<FakeBackend>(script_);
    directory_.Set({{.name = "a", .backend = a_}, {.name = "b", .backend = b_}});
    FakeSink sink;
    ResolvedRequest request = TestRequest({0, 320, 292}, script_.size() - 1);
    request.start.set_logprobs(0);
    request.start.set_prompt_logprobs(0);
    Start(request, &sink);
    a_->last()->Say(bad(a_->last()));
    EXPECT_TRUE(sink.deltas.empty());
    ASSERT_EQ(b_->num_runs(), 1);
    b_->last()->EmitRest();
    EXPECT_EQ(sink.Ids(), Ids(script_.begin(), script_.end() - 1));
  }
}

TEST_F(SessionReplayTest, ANodeWithoutProgressIsLeftAndItsLateTokensAreDropped) {
  FakeSink sink;
  Start(Request(), &sink);
  const auto stalled = a_->Runs()[0];
  stalled->Emit(2);
  scheduler_.Advance(options_.progress_timeout - absl::Seconds(1));
  EXPECT_EQ(b_->num_runs(), 0);
  attention::RunObserver* fenced = stalled->observer;
  b_->on_start = [&](FakeRun*) {
    fenced->OnResponse(stalled->Next(1));
  };  // late, before its Run is destroyed
  scheduler_.Advance(absl::Seconds(1));
  ASSERT_EQ(b_->num_runs(), 1);
  EXPECT_TRUE(stalled->cancelled);
  EXPECT_EQ(sink.Ids().size(), 2);
  b_->last()->EmitRest();
  ExpectWholeAnswer(sink);
}

TEST_F(SessionReplayTest, ALongPromptHasLongerForItsFirstToken) {
  FakeSink sink;
  Start(TestRequest(Ids(1000, 400), script_.size()), &sink);  // 200 s more
  scheduler_.Advance(options_.progress_timeout + absl::Seconds(199));
  EXPECT_EQ(b_->num_runs(), 0);
  a_->last()->Emit(1);
  scheduler_.Advance(options_.progress_timeout);  // after it, no longer than others
  ASSERT_EQ(b_->num_runs(), 1);
  b_->last()->EmitRest();
  ExpectWholeAnswer(sink);
}

TEST_F(SessionReplayTest, EachTokenGivesANewProgressTimeout) {
  FakeSink sink;
  Start(Request(), &sink);
  for (int i = 0; i < 5; ++i) {
    scheduler_.Advance(options_.progress_timeout - absl::Seconds(1));
    a_->last()->Emit(1);
  }
  EXPECT_EQ(b_->num_runs(), 0);
  a_->last()->EmitRest();
  ExpectWholeAnswer(sink);
}

TEST_F(SessionReplayTest, WhileItsNodeAnswersOthersARunWaitsForItsTurn) {
  directory_.Remove("b");
  FakeSink first, second;
  Start(Request(), &first);
  Start(Request(), &second);
  ASSERT_EQ(a_->num_runs(), 2);
  for (int i = 0; i < 4; ++i) {
    scheduler_.Advance(options_.progress_timeout - absl::Seconds(1));
    a_->Runs()[0]->Emit(1);
  }
  EXPECT_FALSE(a_->Runs()[1]->cancelled);
  a_->Runs()[0]->EmitRest();
  a_->Runs()[1]->EmitRest();
  ExpectWholeAnswer(second);
}

TEST_F(SessionReplayTest, ThreeLostNodesSinceTheLastTokenEndIt) {
  auto c = std::make_shared<FakeBackend>(script_);
  auto d = std::make_shared<FakeBackend>(script_);
  directory_.Add("c", c);
  directory_.Add("d", d);
  FakeSink sink;
  Start(Request(), &sink);
  Kill("a", a_.get());
  b_->last()->Emit(1);  // the count begins anew
  Kill("b", b_.get());
  Kill("c", c.get());
  ASSERT_EQ(d->num_runs(), 1);
  EXPECT_FALSE(sink.done());
  Kill("d", d.get());
  ASSERT_TRUE(sink.done());
  EXPECT_EQ(sink.code(), StatusCode::kInternal);
  EXPECT_FALSE(sink.ends[0].retry_after.has_value());
}

TEST_F(SessionReplayTest, TheThirdLossCountsThoughTheDirectoryHearsOfItLate) {
  auto c = std::make_shared<FakeBackend>(script_);
  auto d = std::make_shared<FakeBackend>(script_);
  directory_.Add("c", c);
  directory_.Add("d", d);
  FakeSink sink;
  Start(Request(), &sink);
  a_->last()->End(Unavailable("socket closed"));
  b_->last()->End(Unavailable("socket closed"));
  c->last()->End(Unavailable("socket closed"));
  EXPECT_EQ(d->num_runs(), 0);  // not a fourth one before it is known
  for (const char* name : {"a", "b", "c"}) directory_.Remove(name);
  DirectoryChanged();
  ASSERT_TRUE(sink.done());
  EXPECT_EQ(sink.code(), StatusCode::kInternal);
  EXPECT_EQ(d->num_runs(), 0);
}

TEST_F(SessionReplayTest, NodesThatCannotBeReachedForAMomentAreNotLost) {
  directory_.Remove("b");
  FakeSink sink;
  Start(Request(), &sink);
  a_->last()->Emit(1);
  for (int i = 0; i < 6; ++i) {
    a_->last()->End(Unavailable("connection refused"));
    const int before = a_->num_runs();
    scheduler_.Advance(absl::Seconds(2));
    ASSERT_GT(a_->num_runs(), before);
  }
  Kill("a", a_.get());  // one node: one loss
  EXPECT_FALSE(sink.done());
  directory_.Add("b", b_);
  DirectoryChanged();
  ASSERT_EQ(b_->num_runs(), 1);
  b_->last()->EmitRest();
  ExpectWholeAnswer(sink);
}

TEST_F(SessionReplayTest, ADrainingNodeIsNoLoss) {
  auto c = std::make_shared<FakeBackend>(script_);
  auto d = std::make_shared<FakeBackend>(script_);
  directory_.Add("c", c);
  directory_.Add("d", d);
  FakeSink sink;
  Start(Request(), &sink);
  for (const auto& [name, node] : {std::pair{"a", a_}, {"b", b_}, {"c", c}}) {
    directory_.SetDraining(name);
    node->last()->End(Unavailable("draining"));
  }
  ASSERT_EQ(d->num_runs(), 1);
  d->last()->EmitRest();
  ExpectWholeAnswer(sink);
}

TEST_F(SessionReplayTest, ARequestWaitsForANode) {
  directory_.Set({});
  FakeSink sink;
  Start(Request(), &sink);
  scheduler_.Advance(options_.coverage_timeout - absl::Seconds(1));
  EXPECT_FALSE(sink.done());
  directory_.Add("a", a_);
  DirectoryChanged();
  ASSERT_EQ(a_->num_runs(), 1);
  a_->last()->EmitRest();
  ExpectWholeAnswer(sink);
}

TEST_F(SessionReplayTest, NoNodeForTheCoverageTimeoutIsUnavailable) {
  directory_.Set({});
  FakeSink sink;
  Start(Request(), &sink);
  scheduler_.Advance(options_.coverage_timeout);
  ASSERT_TRUE(sink.done());
  EXPECT_EQ(sink.code(), StatusCode::kUnavailable);
  EXPECT_TRUE(sink.ends[0].retry_after.has_value());
}

TEST_F(SessionReplayTest, ARestartedNodeIsAnotherNode) {
  directory_.Remove("b");
  FakeSink sink;
  Start(Request(), &sink);
  a_->last()->Emit(1);
  Kill("a", a_.get());
  scheduler_.Advance(absl::Milliseconds(1));
  directory_.Add("a", b_);
  DirectoryChanged();
  ASSERT_EQ(b_->num_runs(), 1);  // at once, whatever the old one did
  b_->last()->EmitRest();
  ExpectWholeAnswer(sink);
}

TEST_F(SessionReplayTest, ExpertsMissingLongerThanTheCoverageTimeoutIsUnavailable) {
  FakeSink sink;
  Start(Request(), &sink);
  scheduler_.Advance(options_.coverage_timeout);
  a_->last()->End(Unavailable("experts missing"));  // the node lives on, and says so
  scheduler_.Advance(absl::Seconds(1));
  ASSERT_TRUE(sink.done());
  EXPECT_EQ(sink.code(), StatusCode::kUnavailable);
  EXPECT_TRUE(sink.ends[0].retry_after.has_value());
  EXPECT_NE(std::string(sink.ends[0].status.message()).find("experts missing"), std::string::npos);
  EXPECT_EQ(b_->num_runs(), 0);
}

TEST_F(SessionReplayTest, ANodeKilledInALongPrefillIsReplaced) {
  FakeSink sink;
  Start(Request(), &sink);
  scheduler_.Advance(options_.coverage_timeout + absl::Seconds(5));
  a_->last()->End(Unavailable("socket closed"));
  EXPECT_FALSE(sink.done());
  directory_.Remove("a");
  DirectoryChanged();
  ASSERT_EQ(b_->num_runs(), 1);
  b_->last()->EmitRest();
  ExpectWholeAnswer(sink);
}

TEST_F(SessionReplayTest, AllQueuesFullIsResourceExhausted) {
  FakeSink sink;
  Start(Request(), &sink);
  a_->last()->End(ResourceExhausted("queue full"));
  ASSERT_EQ(b_->num_runs(), 1);
  b_->last()->End(ResourceExhausted("queue full"));
  ASSERT_TRUE(sink.done());
  EXPECT_EQ(sink.code(), StatusCode::kResourceExhausted);
  EXPECT_TRUE(sink.ends[0].retry_after.has_value());
}

TEST_F(SessionReplayTest, ARequestThatHasBegunWaitsForRoom) {
  FakeSink sink;
  Start(Request(), &sink);
  a_->last()->Emit(1);
  Kill("a", a_.get());
  for (int i = 0; i < 10; ++i) {
    b_->last()->End(ResourceExhausted("queue full"));
    EXPECT_FALSE(sink.done());
    scheduler_.Advance(absl::Seconds(2));
    ASSERT_EQ(b_->num_runs(), i + 2);
  }
  b_->last()->EmitRest();
  ExpectWholeAnswer(sink);
}

TEST_F(SessionReplayTest, ARefusalByAllNodesIsTold) {
  FakeSink sink;
  Start(Request(), &sink);
  a_->last()->End(FailedPrecondition("another revision"));
  b_->last()->End(FailedPrecondition("another revision"));
  ASSERT_TRUE(sink.done());
  EXPECT_EQ(sink.code(), StatusCode::kFailedPrecondition);
}

TEST_F(SessionReplayTest, PromptLogprobsComeOnceThroughAReplay) {
  for (const int emitted : {0, 2}) {
    SCOPED_TRACE(emitted);
    a_ = std::make_shared<FakeBackend>(script_);
    b_ = std::make_shared<FakeBackend>(script_);
    directory_.Set({{.name = "a", .backend = a_}, {.name = "b", .backend = b_}});
    FakeSink sink;
    ResolvedRequest request = Request();
    request.start.set_prompt_logprobs(3);
    Start(request, &sink);
    if (emitted > 0) a_->last()->Emit(emitted);
    Kill("a", a_.get());
    EXPECT_EQ(b_->last()->start.prompt_logprobs(), emitted > 0 ? -1 : 3);
    b_->last()->EmitRest();
    ExpectWholeAnswer(sink);
    EXPECT_EQ(sink.deltas[0].prompt_logprobs_size(), 2);
    for (size_t i = 1; i < sink.deltas.size(); ++i)
      EXPECT_EQ(sink.deltas[i].prompt_logprobs_size(), 0);
  }
}

TEST_F(SessionReplayTest, CancellingWhileWaitingForANodeEndsIt) {
  directory_.Set({});
  FakeSink sink;
  const auto session = Start(Request(), &sink);
  session->Cancel();
  ASSERT_TRUE(sink.done());
  EXPECT_EQ(sink.code(), StatusCode::kCancelled);
}

}  // namespace
}  // namespace atl::front_door
