// The client against scripted servers: what it does when streams break, servers are missing, or the
// user cancels.
#include "cli/api_client.h"

#include <gmock/gmock.h>
#include <grpcpp/server_builder.h>
#include <gtest/gtest.h>

#include <thread>

#include "absl/synchronization/notification.h"

namespace atl::cli {
namespace {

namespace pb = atollpb::v1;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Answers with the ids 100, 101, ... 109, one a message, after those of resume_from; breaks off
// after `break_after` of them.
class ScriptedServer : public pb::InferenceService::Service {
 public:
  explicit ScriptedServer(int break_after,
                          grpc::Status end = grpc::Status(grpc::StatusCode::UNAVAILABLE, "killed"))
      : break_after_(break_after), end_(end) {
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port_);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
  }
  ~ScriptedServer() override { server_->Shutdown(std::chrono::system_clock::now()); }

  std::string address() const { return "127.0.0.1:" + std::to_string(port_); }
  std::vector<pb::GenerateRequest> requests;

  grpc::Status GenerateStream(grpc::ServerContext* context, const pb::GenerateRequest* request,
                              grpc::ServerWriter<pb::GenerateStreamResponse>* writer) override {
    requests.push_back(*request);
    const int first = request->resume_from().ids_size();
    for (int i = first; i < 10; ++i) {
      if (i - first == break_after_) return end_;
      pb::GenerateStreamResponse message;
      if (i == first) {
        message.set_request_id("r");
        message.set_seed(77);
        message.set_bias_version(5);
      }
      message.add_token_ids(100 + i);
      message.set_text(std::string(1, 'a' + i));
      if (i == 9) {
        message.set_finish_reason(pb::FINISH_REASON_STOP);
        message.mutable_usage()->set_generated_tokens(10);
      }
      writer->Write(message);
      if (hang_after == i) {
        hanging.Notify();
        while (!context->IsCancelled()) std::this_thread::yield();
        return grpc::Status::CANCELLED;
      }
    }
    return grpc::Status::OK;
  }

  int hang_after = -1;
  absl::Notification hanging;

 private:
  const int break_after_;
  const grpc::Status end_;
  int port_ = 0;
  std::unique_ptr<grpc::Server> server_;
};

constexpr int kNever = 1000;

pb::GenerateRequest Request() {
  pb::GenerateRequest request;
  request.set_text("hello");
  request.mutable_sampling()->set_temperature(0.5);
  return request;
}

TEST(ApiClientTest, ABrokenStreamGoesOnAtTheNextServer) {
  ScriptedServer first(/*break_after=*/4), second(kNever);
  ApiClient client({.addresses = {first.address(), second.address()}});
  std::string told;
  const auto answer =
      client.Stream(Request(), [&](const auto& message) { told += message.text(); });
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(told, "abcdefghij");
  EXPECT_EQ(answer->text(), "abcdefghij");
  EXPECT_THAT(answer->token_ids(), ElementsAre(100, 101, 102, 103, 104, 105, 106, 107, 108, 109));
  EXPECT_EQ(answer->usage().generated_tokens(), 10);
  EXPECT_EQ(answer->finish_reason(), pb::FINISH_REASON_STOP);
  ASSERT_EQ(second.requests.size(), 1);
  const pb::GenerateRequest& resumed = second.requests[0];
  EXPECT_THAT(resumed.resume_from().ids(), ElementsAre(100, 101, 102, 103));
  EXPECT_EQ(resumed.sampling().seed(), 77);
  EXPECT_EQ(resumed.bias_version(), 5);
  EXPECT_EQ(resumed.text(), "hello");
  EXPECT_EQ(resumed.sampling().temperature(), 0.5f);
  EXPECT_EQ(client.address(), second.address());
}

TEST(ApiClientTest, AStreamThatBreaksAgainAndAgainStillEnds) {
  ScriptedServer first(/*break_after=*/2), second(/*break_after=*/3);
  ApiClient client({.addresses = {first.address(), second.address()}});
  const auto answer = client.Stream(Request(), [](const auto&) {});
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->text(), "abcdefghij");
  EXPECT_EQ(first.requests.size() + second.requests.size(), 4);
}

TEST(ApiClientTest, AServerThatNeverGetsAnywhereIsGivenUpAfterPatience) {
  ScriptedServer server(/*break_after=*/0);
  std::vector<std::string> reasons;
  ApiClient client({.addresses = {server.address()},
                    .patience = absl::Seconds(3),
                    .on_retry = [&](const Status& why) { reasons.emplace_back(why.message()); }});
  const auto answer = client.Stream(Request(), [](const auto&) {});
  EXPECT_TRUE(absl::IsUnavailable(answer.status()));
  EXPECT_THAT(std::string(answer.status().message()), HasSubstr("killed"));
  EXPECT_GT(server.requests.size(), 1);
  EXPECT_EQ(reasons, std::vector<std::string>(server.requests.size() - 1, "killed"));
}

TEST(ApiClientTest, OtherErrorsAreNotTriedAgain) {
  ScriptedServer first(0, grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "empty prompt")),
      second(kNever);
  ApiClient client({.addresses = {first.address(), second.address()}});
  const auto answer = client.Stream(Request(), [](const auto&) {});
  EXPECT_TRUE(absl::IsInvalidArgument(answer.status()));
  EXPECT_TRUE(second.requests.empty());
}

TEST(ApiClientTest, WithoutAnyServerTheAddressesAreNamedAtOnce) {
  std::string gone;
  {
    ScriptedServer server(kNever);
    gone = server.address();
  }
  ApiClient client({.addresses = {gone}});
  const absl::Time begin = absl::Now();
  const auto answer = client.Stream(Request(), [](const auto&) {});
  EXPECT_TRUE(absl::IsUnavailable(answer.status()));
  EXPECT_THAT(std::string(answer.status().message()),
              HasSubstr("no Atoll server answers at " + gone));
  EXPECT_LT(absl::Now() - begin, absl::Seconds(10));  // not `patience`
}

TEST(ApiClientTest, ATimeoutTooShortToConnectIsNotAMissingServer) {
  ScriptedServer server(kNever);
  ApiClient client({.addresses = {server.address()}, .timeout = absl::Nanoseconds(1)});
  const Status status = client.Stream(Request(), [](const auto&) {}).status();
  EXPECT_TRUE(absl::IsDeadlineExceeded(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("no answer within 1ns (--timeout)"));
}

TEST(ApiClientTest, AMissingFirstServerIsPassedOver) {
  std::string gone;
  {
    ScriptedServer server(kNever);
    gone = server.address();
  }
  ScriptedServer second(kNever);
  ApiClient client({.addresses = {gone, second.address()}});
  EXPECT_TRUE(client.Stream(Request(), [](const auto&) {}).ok());
}

TEST(ApiClientTest, CancelEndsTheCallUnderWay) {
  ScriptedServer server(kNever);
  server.hang_after = 2;
  ApiClient client({.addresses = {server.address()}});
  std::thread canceller([&] {
    server.hanging.WaitForNotificationWithTimeout(absl::Seconds(30));
    client.Cancel();
  });
  const auto answer = client.Stream(Request(), [](const auto&) {});
  canceller.join();
  EXPECT_TRUE(absl::IsCancelled(answer.status())) << answer.status();
  EXPECT_EQ(server.requests.size(), 1);
}

TEST(ApiClientTest, TheTimeoutIsTheServersDeadline) {
  ScriptedServer server(kNever);
  server.hang_after = 0;
  ApiClient client({.addresses = {server.address()}, .timeout = absl::Milliseconds(300)});
  EXPECT_TRUE(absl::IsDeadlineExceeded(client.Stream(Request(), [](const auto&) {}).status()));
}

TEST(StreamProgressTest, AnswersOfAResumedRequestAreAddedToWhatItBeganWith) {
  pb::GenerateRequest request = Request();
  request.mutable_resume_from()->add_ids(1);
  StreamProgress progress(request);
  EXPECT_EQ(progress.NextRequest().SerializeAsString(), request.SerializeAsString());
  pb::GenerateStreamResponse message;
  message.add_token_ids(2);
  message.add_prompt_logprobs()->set_id(9);
  progress.Add(&message);
  EXPECT_THAT(progress.NextRequest().resume_from().ids(), ElementsAre(1, 2));
  progress.Add(&message);  // the first of a resumed stream: prompt_logprobs once more
  EXPECT_EQ(message.prompt_logprobs_size(), 0);
  EXPECT_EQ(progress.answer().prompt_logprobs_size(), 1);
}

}  // namespace
}  // namespace atl::cli
