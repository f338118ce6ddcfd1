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
  EXPECT_EQ(stats.generated_tokens, script_.size() - 2);
  EXPECT_EQ(stats.replays, 1);
  EXPECT_EQ(stats.first_tokens, 1);
  EXPECT_DOUBLE_EQ(stats.ttft_s, 2);
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
