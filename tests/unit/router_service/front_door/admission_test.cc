// How many requests run, who waits, who is refused.
#include "router_service/front_door/session.h"
#include "tests/unit/router_service/front_door/session_fixture.h"

namespace atl::front_door {
namespace {

class AdmissionTest : public SessionFixture {
 protected:
  AdmissionTest() {
    options_.max_concurrent_requests = 2;
    options_.max_queued_requests = 2;
    directory_.Remove("b");
  }

  FakeSink sinks_[5];  // outlives what a test leaves running
};

TEST_F(AdmissionTest, AFullQueueSaysWhenToComeBack) {
  for (FakeSink& sink : sinks_) Start(Request(), &sink);
  EXPECT_EQ(a_->num_runs(), 2);
  EXPECT_EQ(sessions().num_running(), 2);
  EXPECT_EQ(sessions().num_queued(), 2);
  ASSERT_TRUE(sinks_[4].done());
  EXPECT_EQ(sinks_[4].code(), StatusCode::kResourceExhausted);
  EXPECT_GT(sinks_[4].ends[0].retry_after.value(), absl::ZeroDuration());
  EXPECT_EQ(sessions().CheckAdmission().status.code(), StatusCode::kResourceExhausted);
}

TEST_F(AdmissionTest, TextIsTokenizedUpToABoundAndIdsAlways) {
  constexpr int64_t kMiB = int64_t{1} << 20;
  ASSERT_TRUE(sessions().BeginTokenizing(10 * kMiB));
  ASSERT_TRUE(sessions().BeginTokenizing(6 * kMiB));
  EXPECT_FALSE(sessions().BeginTokenizing(1));
  EXPECT_TRUE(sessions().BeginTokenizing(0)) << "a prompt of ids";
  sessions().EndTokenizing(0);
  sessions().EndTokenizing(6 * kMiB);
  EXPECT_FALSE(sessions().BeginTokenizing(6 * kMiB + 1)) << "refused text leaves nothing behind";
  EXPECT_TRUE(sessions().BeginTokenizing(6 * kMiB));
  sessions().EndTokenizing(6 * kMiB);
  sessions().EndTokenizing(10 * kMiB);
  EXPECT_TRUE(sessions().BeginTokenizing(100 * kMiB)) << "alone";
  EXPECT_FALSE(sessions().BeginTokenizing(1));
  EXPECT_TRUE(sessions().BeginTokenizing(0));
}

TEST_F(AdmissionTest, FirstComeFirstServed) {
  for (int i = 0; i < 4; ++i) {
    ResolvedRequest request = Request();
    request.start.set_request_id(std::to_string(i));
    Start(request, &sinks_[i]);
  }
  scheduler_.Advance(absl::Seconds(4));
  a_->Runs()[1]->EmitRest();
  scheduler_.RunDue();
  ASSERT_EQ(a_->num_runs(), 3);
  EXPECT_EQ(a_->last()->start.request_id(), "2");
  a_->last()->EmitRest();
  EXPECT_DOUBLE_EQ(sinks_[2].Sum().timings().queue_s(), 4);
  scheduler_.RunDue();
  ASSERT_EQ(a_->num_runs(), 4);
  EXPECT_EQ(a_->last()->start.request_id(), "3");
  EXPECT_EQ(sessions().num_running(), 2);
  EXPECT_EQ(sessions().num_queued(), 0);
}

TEST_F(AdmissionTest, DeadlineAndCancellationAreObeyedInTheQueue) {
  FakeSink &late = sinks_[2], &gone = sinks_[3];
  Start(Request(), &sinks_[0]);
  Start(Request(), &sinks_[1]);
  Start(Request(), &late, absl::Seconds(3));
  const auto session = Start(Request(), &gone);
  session->Cancel();
  EXPECT_EQ(gone.code(), StatusCode::kCancelled);
  EXPECT_EQ(sessions().num_queued(), 1);
  scheduler_.Advance(absl::Seconds(3));
  EXPECT_EQ(late.code(), StatusCode::kDeadlineExceeded);
  EXPECT_EQ(sessions().num_queued(), 0);
  EXPECT_EQ(a_->num_runs(), 2);
  EXPECT_TRUE(sessions().CheckAdmission().ok());
}

TEST_F(AdmissionTest, APlaceIsFreeBeforeTheClientHearsOfTheEnd) {
  struct AskAgain : FakeSink {
    std::function<void()> on_done;
    void Done(const RequestError& error) override {
      FakeSink::Done(error);
      on_done();
    }
  };
  options_.max_concurrent_requests = 1;
  options_.max_queued_requests = 0;
  AskAgain first;
  FakeSink& second = sinks_[0];
  first.on_done = [&] { Start(Request(), &second); };
  Start(Request(), &first);
  a_->last()->EmitRest();
  EXPECT_EQ(a_->num_runs(), 2);
  EXPECT_FALSE(second.done());
}

TEST_F(AdmissionTest, EndAllEndsTheQueueToo) {
  for (int i = 0; i < 4; ++i) Start(Request(), &sinks_[i]);
  sessions().StopAdmitting();
  sessions().EndAll();
  scheduler_.RunDue();
  for (int i = 0; i < 4; ++i) {
    ASSERT_EQ(sinks_[i].ends.size(), 1);
    EXPECT_EQ(sinks_[i].code(), StatusCode::kUnavailable);
  }
  EXPECT_EQ(sessions().num_running() + sessions().num_queued(), 0);
  EXPECT_EQ(a_->num_runs(), 2);  // none of the queued was begun
}

TEST_F(AdmissionTest, StatsAddUp) {
  ResolvedRequest resumed = Request();
  resumed.start.mutable_generated_ids()->Add(script_.begin(), script_.begin() + 2);
  Start(resumed, &sinks_[0]);
  const auto gone = Start(Request(), &sinks_[1]);
  scheduler_.Advance(absl::Seconds(2));
  atollpb::v1::RunResponse first = a_->Runs()[0]->Next(1);
  first.set_cached_prompt_tokens(1);
  a_->Runs()[0]->Say(first);
  a_->Runs()[0]->End(Internal("once"));
  scheduler_.Advance(absl::Seconds(1));
  a_->last()->EmitRest();
  gone->Cancel();
  const FrontDoorStats stats = sessions().stats();
  EXPECT_EQ(stats.requests.at(StatusCode::kOk), 1);
  EXPECT_EQ(stats.requests.at(StatusCode::kCancelled), 1);
  EXPECT_EQ(stats.prompt_tokens, 3);
  EXPECT_EQ(stats.cached_prompt_tokens, 1);
  EXPECT_EQ(stats.replays, 1);
}

// What two requests took: one that is replayed after its first new token, one that goes.
TEST_F(AdmissionTest, HistogramsCountRequestsAndTokens) {
  ResolvedRequest resumed = Request();
  resumed.start.mutable_generated_ids()->Add(script_.begin(), script_.begin() + 2);
  Start(resumed, &sinks_[0]);
  const auto gone = Start(Request(), &sinks_[1]);
  scheduler_.Advance(absl::Seconds(2));
  atollpb::v1::RunResponse first = a_->Runs()[0]->Next(1);
  first.set_queue_s(0.5);
  a_->Runs()[0]->Say(first);
  a_->Runs()[0]->End(Internal("once"));
  scheduler_.Advance(absl::Seconds(4));
  a_->last()->EmitRest();  // in one response: they come together
  gone->Cancel();
  const RequestHistograms& h = sessions().histograms();
  const size_t tokens = script_.size() - 2;
  EXPECT_EQ(h.first_token_seconds.Read().count(), 1u);
  EXPECT_DOUBLE_EQ(h.first_token_seconds.Read().sum, 2);
  EXPECT_EQ(h.inter_token_seconds.Read().count(), tokens - 1);
  EXPECT_DOUBLE_EQ(h.inter_token_seconds.Read().sum, 4);
  EXPECT_EQ(h.inter_token_seconds.Read().counts.front(), tokens - 2) << "0 s apart";
  EXPECT_EQ(h.queue_seconds.Read().count(), 1u);
  EXPECT_DOUBLE_EQ(h.queue_seconds.Read().sum, 0.5);
  EXPECT_EQ(h.token_seconds.Read().count(), 1u);
  EXPECT_DOUBLE_EQ(h.token_seconds.Read().sum, 4.0 / static_cast<double>(tokens - 1));
  EXPECT_EQ(h.request_seconds.Read().count(), 1u) << "the other one was not answered";
  EXPECT_DOUBLE_EQ(h.request_seconds.Read().sum, 6);
  EXPECT_DOUBLE_EQ(h.prompt_tokens.Read().sum, 3);
  EXPECT_DOUBLE_EQ(h.generated_tokens.Read().sum, static_cast<double>(tokens));
}

TEST_F(AdmissionTest, OneTokenHasNoGap) {
  Start(TestRequest({0, 320, 292}, 1), &sinks_[0]);
  scheduler_.Advance(absl::Seconds(1));
  atollpb::v1::RunResponse only = a_->last()->Next(1);
  only.set_finish_reason(atollpb::v1::FINISH_REASON_LENGTH);
  a_->last()->Say(only);
  const RequestHistograms& h = sessions().histograms();
  EXPECT_EQ(h.first_token_seconds.Read().count(), 1u);
  EXPECT_EQ(h.inter_token_seconds.Read().count(), 0u);
  EXPECT_EQ(h.token_seconds.Read().count(), 0u);
  EXPECT_EQ(h.generated_tokens.Read().sum, 1);
}

TEST_F(AdmissionTest, ALongQueueThatFailsDrainsWithoutRecursion) {
  options_.max_concurrent_requests = 1;
  options_.max_queued_requests = 20000;
  std::vector<FakeSink> sinks(20001);
  for (FakeSink& sink : sinks) Start(Request(), &sink);
  a_->on_start = [](FakeRun* run) { run->EmitRest(); };
  a_->last()->EmitRest();
  scheduler_.RunDue();
  for (const FakeSink& sink : sinks) ASSERT_TRUE(sink.done());
}

}  // namespace
}  // namespace atl::front_door
