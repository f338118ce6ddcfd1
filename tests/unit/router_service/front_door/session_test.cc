// A request's life on nodes that do not fail.
#include "router_service/front_door/session.h"

#include "tests/unit/router_service/front_door/session_fixture.h"

namespace atl::front_door {
namespace {

namespace pb = atollpb::v1;

class SessionTest : public SessionFixture {};

TEST_F(SessionTest, DeltasAddUpToTheAnswer) {
  FakeSink sink;
  ResolvedRequest request = Request();
  request.start.set_logprobs(2);
  Start(request, &sink);
  ASSERT_EQ(a_->num_runs(), 1);
  EXPECT_TRUE(sink.deltas.empty());
  a_->last()->Emit(1);
  a_->last()->Emit(3);
  a_->last()->EmitRest();
  ASSERT_TRUE(sink.done());
  EXPECT_TRUE(sink.ends[0].ok());
  EXPECT_EQ(sink.ends.size(), 1);
  const pb::GenerateResponse sum = sink.Sum();
  EXPECT_EQ(sum.text(), Text(script_));
  EXPECT_EQ(sink.Ids(), script_);
  EXPECT_EQ(sum.logprobs_size(), static_cast<int>(script_.size()));
  EXPECT_EQ(sum.finish_reason(), pb::FINISH_REASON_LENGTH);
  EXPECT_EQ(sum.request_id(), "r");
  EXPECT_EQ(sum.seed(), 7);
  EXPECT_EQ(sum.usage().prompt_tokens(), 3);
  EXPECT_EQ(sum.usage().generated_tokens(), script_.size());
}

TEST_F(SessionTest, TheFirstDeltaNamesTheRequestAndTheLastAloneEndsIt) {
  FakeSink sink;
  Start(Request(), &sink);
  a_->last()->Emit(1);
  a_->last()->Emit(1);
  a_->last()->EmitRest();
  ASSERT_EQ(sink.deltas.size(), 3);
  EXPECT_EQ(sink.deltas[0].request_id(), "r");
  EXPECT_EQ(sink.deltas[1].request_id(), "");
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(sink.deltas[i].finish_reason(), pb::FINISH_REASON_UNSPECIFIED);
    EXPECT_FALSE(sink.deltas[i].has_usage());
    EXPECT_GT(sink.deltas[i].token_ids_size(), 0);
  }
  EXPECT_TRUE(sink.deltas[2].has_timings());
}

TEST_F(SessionTest, ANodeMayAnswerFromInsideStart) {
  a_->on_start = [](FakeRun* run) { run->EmitRest(); };
  FakeSink sink;
  Start(Request(), &sink);
  ASSERT_TRUE(sink.done());
  EXPECT_EQ(sink.Ids(), script_);
}

TEST_F(SessionTest, AStopStringCancelsTheRunAndDropsWhatFollows) {
  FakeSink sink;
  ResolvedRequest request = Request();
  request.stop = {" rotary"};
  Start(request, &sink);
  const auto run = a_->Runs()[0];
  run->Say(
      run->Next(script_.size() - 1));  // in one response: tokens after the stop string are in it
  ASSERT_TRUE(sink.done());
  EXPECT_TRUE(run->cancelled);
  const pb::GenerateResponse sum = sink.Sum();
  EXPECT_EQ(sum.text(), "Only that latent and a short");
  EXPECT_EQ(sum.finish_reason(), pb::FINISH_REASON_STOP);
  EXPECT_EQ(Text(sink.Ids()), "Only that latent and a short rotary");
  EXPECT_EQ(sum.usage().generated_tokens(), sum.token_ids_size());
  scheduler_.RunDue();
  EXPECT_EQ(run->observer, nullptr);  // the run is destroyed
}

TEST_F(SessionTest, TimingsAreMeasuredFromArrival) {
  FakeSink sink;
  Start(Request(), &sink);
  scheduler_.Advance(absl::Seconds(3));
  pb::RunResponse first = a_->last()->Next(1);
  first.set_queue_s(0.5);
  first.set_cached_prompt_tokens(2);
  a_->last()->Say(first);
  scheduler_.Advance(absl::Seconds(10));
  pb::RunResponse second = a_->last()->Next(2);
  second.set_finish_reason(pb::FINISH_REASON_STOP);
  scheduler_.Advance(absl::Seconds(2));
  a_->last()->Say(second);
  const pb::GenerateResponse sum = sink.Sum();
  EXPECT_DOUBLE_EQ(sum.timings().queue_s(), 0.5);
  EXPECT_DOUBLE_EQ(sum.timings().ttft_s(), 3);
  EXPECT_DOUBLE_EQ(sum.timings().tpot_s(), 6);  // 12 s for the two tokens after the first
  EXPECT_DOUBLE_EQ(sum.timings().total_s(), 15);
  EXPECT_EQ(sum.usage().cached_prompt_tokens(), 2);
}

TEST_F(SessionTest, NoTokensAreAskedForAndPromptLogprobsCome) {
  FakeSink sink;
  ResolvedRequest request = TestRequest({0, 320, 292}, 0);
  request.start.set_prompt_logprobs(0);
  Start(request, &sink);
  a_->last()->EmitRest();
  ASSERT_TRUE(sink.done());
  ASSERT_EQ(sink.deltas.size(), 1);
  EXPECT_EQ(sink.deltas[0].finish_reason(), pb::FINISH_REASON_LENGTH);
  ASSERT_EQ(sink.deltas[0].prompt_logprobs_size(), 2);
  EXPECT_EQ(sink.deltas[0].prompt_logprobs(0).id(), 320);
  EXPECT_EQ(sink.deltas[0].seed(), 7);
}

TEST_F(SessionTest, ResumedTokensCountAndAreNotSentAgain) {
  directory_.Remove("b");
  for (size_t k = 1; k < script_.size(); ++k) {
    SCOPED_TRACE(k);
    FakeSink sink;
    ResolvedRequest request = Request();
    request.start.mutable_generated_ids()->Add(script_.begin(), script_.begin() + k);
    Start(request, &sink);
    EXPECT_EQ(a_->last()->start.generated_ids_size(), static_cast<int>(k));
    a_->last()->EmitRest();
    ASSERT_TRUE(sink.done());
    EXPECT_EQ(sink.Ids(), Ids(script_.begin() + k, script_.end()));
    EXPECT_EQ(Text(Ids(script_.begin(), script_.begin() + k)) + sink.Sum().text(), Text(script_));
    EXPECT_EQ(sink.Sum().usage().generated_tokens(), script_.size());
  }
}

struct EndedCase {
  const char* name;
  Ids resumed;
  std::vector<std::string> stop;
  uint32_t max_tokens;
  pb::FinishReason reason;
};

class EndedByResumeTest : public SessionFixture, public ::testing::WithParamInterface<EndedCase> {};

TEST_P(EndedByResumeTest, OneMessageWithoutTokens) {
  FakeSink sink;
  ResolvedRequest request = TestRequest({0, 320}, GetParam().max_tokens);
  request.start.mutable_generated_ids()->Add(GetParam().resumed.begin(), GetParam().resumed.end());
  request.stop = GetParam().stop;
  Start(request, &sink);
  ASSERT_TRUE(sink.done());
  EXPECT_TRUE(sink.ends[0].ok());
  ASSERT_EQ(sink.deltas.size(), 1);
  EXPECT_EQ(sink.deltas[0].token_ids_size(), 0);
  EXPECT_EQ(sink.deltas[0].text(), "");
  EXPECT_EQ(sink.deltas[0].finish_reason(), GetParam().reason);
  EXPECT_EQ(sink.deltas[0].usage().generated_tokens(), GetParam().resumed.size());
  EXPECT_EQ(a_->num_runs() + b_->num_runs(), 0);
}

INSTANTIATE_TEST_SUITE_P(
    Reasons, EndedByResumeTest,
    ::testing::Values(EndedCase{"StopId", {320, 1}, {}, 10, pb::FINISH_REASON_STOP},
                      EndedCase{"StopString", {320, 48, 49}, {"NO"}, 10, pb::FINISH_REASON_STOP},
                      EndedCase{"MaxTokens", {320, 292}, {}, 2, pb::FINISH_REASON_LENGTH},
                      EndedCase{
                          "StopIdAsLastOfMaxTokens", {320, 1}, {}, 2, pb::FINISH_REASON_STOP}),
    [](const auto& info) { return info.param.name; });

TEST_F(SessionTest, TheDeadlineEndsARunAfterItsTokensWereStreamed) {
  FakeSink sink;
  Start(Request(), &sink, absl::Seconds(5));
  a_->last()->Emit(2);
  scheduler_.Advance(absl::Seconds(4));
  EXPECT_FALSE(sink.done());
  scheduler_.Advance(absl::Seconds(1));
  ASSERT_TRUE(sink.done());
  EXPECT_EQ(sink.code(), StatusCode::kDeadlineExceeded);
  EXPECT_EQ(sink.Ids(), Ids(script_.begin(), script_.begin() + 2));
  EXPECT_TRUE(a_->last()->cancelled);
}

TEST_F(SessionTest, ADeadlineThatHasPassedStartsNothing) {
  FakeSink sink;
  Start(Request(), &sink, absl::Seconds(-1));
  ASSERT_TRUE(sink.done());
  EXPECT_EQ(sink.code(), StatusCode::kDeadlineExceeded);
  EXPECT_EQ(a_->num_runs(), 0);
}

TEST_F(SessionTest, AClientThatGoesEndsItsRunAtOnce) {
  FakeSink sink;
  const auto session = Start(Request(), &sink);
  a_->last()->Emit(1);
  session->Cancel();
  ASSERT_TRUE(sink.done());
  EXPECT_EQ(sink.code(), StatusCode::kCancelled);
  EXPECT_TRUE(a_->last()->cancelled);
  a_->last()->Emit(1);  // says on until it notices
  session->Cancel();
  EXPECT_EQ(sink.ends.size(), 1);
  EXPECT_EQ(sink.deltas.size(), 1);
  EXPECT_EQ(sessions().num_running(), 0);
}

TEST_F(SessionTest, EndingFromInsideASendIsSafe) {
  FakeSink sink;
  std::shared_ptr<Session> session;
  sink.on_send = [&] { session->Cancel(); };
  session = Start(Request(), &sink);
  a_->last()->Emit(1);
  ASSERT_TRUE(sink.done());
  EXPECT_EQ(sink.code(), StatusCode::kCancelled);
}

TEST_F(SessionTest, EndAllSaysWhenToComeBack) {
  FakeSink sink, late;
  Start(Request(), &sink);
  sessions().StopAdmitting();
  Start(Request(), &late);
  EXPECT_FALSE(sink.done());
  ASSERT_TRUE(late.done());
  EXPECT_EQ(late.code(), StatusCode::kUnavailable);
  EXPECT_TRUE(late.ends[0].retry_after.has_value());
  sessions().EndAll();
  ASSERT_TRUE(sink.done());
  EXPECT_EQ(sink.code(), StatusCode::kUnavailable);
  EXPECT_TRUE(sink.ends[0].retry_after.has_value());
}

}  // namespace
}  // namespace atl::front_door
