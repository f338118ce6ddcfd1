#include "router_service/front_door/inference_service.h"

#include <thread>

#include "absl/time/clock.h"
#include "rpc/status.h"
#include "tests/support/eventually.h"
#include "tests/unit/router_service/front_door/service_fixture.h"

namespace atl::front_door {
namespace {

using testing::Eventually;

constexpr absl::Duration kPatience = absl::Seconds(60);

namespace pb = atollpb::v1;

class InferenceServiceTest : public ServiceFixture {};

TEST_F(InferenceServiceTest, AStreamAddsUpToTheUnaryAnswer) {
  AnswerAtOnce();
  StartServer();
  pb::GenerateRequest request = Request();
  request.set_logprobs(1);
  request.mutable_sampling()->set_seed(99);
  request.set_request_id("mine");
  pb::GenerateResponse answer;
  grpc::Status status = Generate(request, &answer);
  ASSERT_TRUE(status.ok()) << status.error_message();
  std::vector<pb::GenerateStreamResponse> deltas;
  status = Stream(request, &deltas);
  ASSERT_TRUE(status.ok()) << status.error_message();
  pb::GenerateResponse sum;
  for (const auto& delta : deltas) AppendDelta(delta, &sum);
  EXPECT_EQ(answer.text(), "Only that latent and a short rotary key are cached.");
  EXPECT_EQ(answer.request_id(), "mine");
  EXPECT_EQ(answer.seed(), 99);
  EXPECT_EQ(answer.finish_reason(), pb::FINISH_REASON_LENGTH);
  sum.clear_timings();
  answer.clear_timings();
  EXPECT_EQ(sum.SerializeAsString(), answer.SerializeAsString());
}

TEST_F(InferenceServiceTest, ThePromptIsTokenizedAndDefaultsComeFromTheCheckpoint) {
  AnswerAtOnce();
  StartServer();
  pb::GenerateRequest text = Request();
  pb::GenerateRequest chat = Request();
  auto* message = chat.mutable_messages()->add_messages();
  message->set_role("user");
  message->set_content("What is MLA?");
  pb::GenerateRequest ids = Request();
  ids.mutable_token_ids()->add_ids(5);
  pb::GenerateResponse answer;
  for (const auto& request : {text, chat, ids}) {
    const grpc::Status status = Generate(request, &answer);
    ASSERT_TRUE(status.ok()) << status.error_message();
  }
  const auto prompt = [&](int run) {
    const auto& prompt_ids = node_->Runs()[run]->start.prompt_ids();
    return Ids(prompt_ids.begin(), prompt_ids.end());
  };
  EXPECT_EQ(prompt(0), served_.tokenizer->Encode("What is cached?", true));
  EXPECT_EQ(prompt(0)[0], 0);                                     // add_bos_token
  EXPECT_EQ(prompt(1), (Ids{0, 2046, 320, 292, 590, 33, 2047}));  // models/demo/expected.json
  EXPECT_EQ(prompt(2), Ids{5});
  EXPECT_EQ(node_->last()->start.sampling().temperature(), 0);  // "do_sample": false
  EXPECT_EQ(node_->last()->start.stop_token_ids(0), 1);
  EXPECT_EQ(node_->last()->start.revision(), checkpoint_->revision());
  EXPECT_NE(answer.request_id(), "");
}

TEST_F(InferenceServiceTest, BadFieldsAreNamedInBadRequest) {
  StartServer();
  pb::GenerateRequest request = Request();
  request.mutable_sampling()->set_top_p(7);
  request.set_logprobs(21);
  pb::GenerateResponse answer;
  std::vector<pb::GenerateStreamResponse> deltas;
  for (const grpc::Status& status : {Generate(request, &answer), Stream(request, &deltas)}) {
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    google::rpc::BadRequest detail;
    ASSERT_TRUE(GetDetail(status, &detail));
    ASSERT_EQ(detail.field_violations_size(), 2);
    EXPECT_EQ(detail.field_violations(0).field(), "sampling.top_p");
    EXPECT_EQ(detail.field_violations(0).description(), "expected a number in (0, 1], found 7");
    EXPECT_EQ(detail.field_violations(1).field(), "logprobs");
  }
  EXPECT_TRUE(deltas.empty());
  EXPECT_EQ(node_->num_runs(), 0);
}

TEST_F(InferenceServiceTest, APromptLongerThanTheContextIsRefusedWithBothNumbers) {
  options_.context_length = 10;
  StartServer();
  pb::GenerateRequest request = Request();
  for (int i = 0; i < 11; ++i) request.mutable_token_ids()->add_ids(5);
  pb::GenerateResponse answer;
  google::rpc::BadRequest detail;
  ASSERT_TRUE(GetDetail(Generate(request, &answer), &detail));
  EXPECT_EQ(detail.field_violations(0).field(), "token_ids.ids");
  EXPECT_EQ(detail.field_violations(0).description(),
            "expected at most the context of 10 tokens, found 11");
}

TEST_F(InferenceServiceTest, AFullQueueCarriesRetryInfo) {
  options_.max_concurrent_requests = 1;
  options_.max_queued_requests = 0;
  StartServer();
  grpc::ClientContext context;
  const auto running = inference_->GenerateStream(&context, Request());
  ASSERT_TRUE(Eventually([&] { return node_->num_runs() == 1; }));
  pb::GenerateResponse answer;
  const grpc::Status status = Generate(Request(), &answer);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(rpc::RetryDelay(status), kQueueFullRetry);
  context.TryCancel();
  ASSERT_TRUE(front_door_->WaitUntilIdle(kPatience));
  EXPECT_TRUE(node_->last()->cancelled);
}

TEST_F(InferenceServiceTest, WhatFailsBeforeItsFirstTokenCanBeRetriedByTheChannel) {
  // A client's channel retries only calls that have got no headers.
  node_->on_start = [this](FakeRun* run) {
    if (node_->num_runs() == 1) {
      run->End(ResourceExhausted("queue full"));
    } else {
      run->EmitRest();
    }
  };
  StartServer();
  grpc::ChannelArguments args;
  args.SetServiceConfigJSON(R"({"methodConfig": [{"name": [{}], "retryPolicy": {
      "maxAttempts": 2, "initialBackoff": "0.01s", "maxBackoff": "0.01s", "backoffMultiplier": 1,
      "retryableStatusCodes": ["RESOURCE_EXHAUSTED"]}}]})");
  inference_ = pb::InferenceService::NewStub(
      grpc::CreateCustomChannel(server_->address(), grpc::InsecureChannelCredentials(), args));
  std::vector<pb::GenerateStreamResponse> deltas;
  const grpc::Status status = Stream(Request(), &deltas);
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(node_->num_runs(), 2);
}

TEST_F(InferenceServiceTest, TheDeadlineEndsACallAfterWhatWasGenerated) {
  node_->on_start = [](FakeRun* run) { run->Emit(2); };
  StartServer();
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(300));
  const auto reader = inference_->GenerateStream(&context, Request());
  pb::GenerateStreamResponse delta;
  int tokens = 0;
  while (reader->Read(&delta)) tokens += delta.token_ids_size();
  EXPECT_EQ(tokens, 2);
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  ASSERT_TRUE(front_door_->WaitUntilIdle(kPatience));
  EXPECT_TRUE(node_->last()->cancelled);
}

TEST_F(InferenceServiceTest, ClientsThatHangUpLeaveNothingBehind) {
  constexpr int kClients = 64;
  options_.max_concurrent_requests = kClients / 2;  // half of them wait in the queue
  node_->on_start = [](FakeRun* run) { run->Emit(1); };
  StartServer();
  std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
  std::vector<std::unique_ptr<grpc::ClientReader<pb::GenerateStreamResponse>>> readers;
  for (int i = 0; i < kClients; ++i) {
    contexts.push_back(std::make_unique<grpc::ClientContext>());
    readers.push_back(inference_->GenerateStream(contexts.back().get(), Request()));
  }
  ASSERT_TRUE(Eventually(
      [&] { return front_door_->num_running() + front_door_->num_queued() == kClients; }));
  for (const auto& context : contexts) context->TryCancel();
  for (const auto& reader : readers)
    EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::CANCELLED);
  ASSERT_TRUE(front_door_->WaitUntilIdle(kPatience));
  for (const auto& run : node_->Runs()) EXPECT_TRUE(run->cancelled);
  // And the next one is served.
  AnswerAtOnce();
  pb::GenerateResponse answer;
  EXPECT_TRUE(Generate(Request(), &answer).ok());
}

TEST_F(InferenceServiceTest, ASlowClientHoldsUpNobodyAndGetsEverything) {
  options_.context_length = 2048;
  const Ids long_script(2000, 400);
  node_ = std::make_shared<FakeBackend>(long_script);
  directory_.Set({{.name = "a", .backend = node_}});
  // Token by token: far more messages than the client's window takes while it does not read.
  node_->on_start = [](FakeRun* run) {
    for (int i = 0; i < 1990; ++i) run->Emit(1);
    run->EmitRest();
  };
  StartServer();
  pb::GenerateRequest request = Request();
  request.set_max_tokens(2000);
  request.set_logprobs(20);
  grpc::ClientContext context;
  const auto slow = inference_->GenerateStream(&context, request);
  ASSERT_TRUE(
      Eventually([&] { return node_->num_runs() == 1 && front_door_->num_running() == 0; }));
  pb::GenerateResponse answer;
  EXPECT_TRUE(Generate(request, &answer).ok());  // meanwhile
  pb::GenerateResponse sum;
  pb::GenerateStreamResponse delta;
  while (slow->Read(&delta)) AppendDelta(delta, &sum);
  EXPECT_TRUE(slow->Finish().ok());
  EXPECT_EQ(sum.token_ids_size(), 2000);
  EXPECT_EQ(sum.text(), answer.text());
}

TEST_F(InferenceServiceTest, ARouterThatStopsSaysWhenToComeBack) {
  node_->on_start = [](FakeRun* run) { run->Emit(1); };
  StartServer();
  grpc::ClientContext context;
  const auto reader = inference_->GenerateStream(&context, Request());
  pb::GenerateStreamResponse delta;
  ASSERT_TRUE(reader->Read(&delta));
  front_door_->StopAdmitting();
  pb::GenerateResponse answer;
  grpc::Status status = Generate(Request(), &answer);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_GT(rpc::RetryDelay(status), absl::ZeroDuration());
  EXPECT_EQ(front_door_->num_running(), 1);
  front_door_->EndAll();
  EXPECT_FALSE(reader->Read(&delta));
  status = reader->Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_GT(rpc::RetryDelay(status), absl::ZeroDuration());
}

TEST_F(InferenceServiceTest, AWaitingRequestStartsWhenANodeComes) {
  AnswerAtOnce();
  directory_.Set({});
  StartServer();
  grpc::ClientContext context;
  const auto reader = inference_->GenerateStream(&context, Request());
  ASSERT_TRUE(Eventually([&] { return front_door_->num_running() == 1; }));
  directory_.Add("a", node_);
  front_door_->OnDirectoryChanged();
  pb::GenerateStreamResponse delta;
  EXPECT_TRUE(reader->Read(&delta));
  while (reader->Read(&delta)) {
  }
  EXPECT_TRUE(reader->Finish().ok());
}

TEST_F(InferenceServiceTest, ManyClientsThroughFailingNodesGetTheSameAnswer) {
  // Each first run ends after a few tokens, from another thread than the one that started it.
  auto other = std::make_shared<FakeBackend>(script_);
  other->on_start = [](FakeRun* run) { run->EmitRest(); };
  node_->on_start = [](FakeRun* run) { run->Emit(3); };
  StartServer();
  constexpr int kClients = 16;
  std::vector<pb::GenerateResponse> answers(kClients);
  std::vector<grpc::Status> ends(kClients);
  std::vector<std::thread> clients;
  for (int i = 0; i < kClients; ++i) {
    clients.emplace_back([&, i] { ends[i] = Generate(Request(), &answers[i]); });
  }
  ASSERT_TRUE(Eventually([&] { return node_->num_runs() == kClients; }));
  directory_.Set({{.name = "b", .backend = other}});
  for (const auto& run : node_->Runs()) run->End(Unavailable("killed"));
  for (std::thread& client : clients) client.join();
  for (int i = 0; i < kClients; ++i) {
    EXPECT_TRUE(ends[i].ok()) << ends[i].error_message();
    EXPECT_EQ(Ids(answers[i].token_ids().begin(), answers[i].token_ids().end()), script_);
    EXPECT_EQ(answers[i].text(), "Only that latent and a short rotary key are cached.");
  }
}

TEST_F(InferenceServiceTest, WithoutATokenizerIdsAreServedWithoutText) {
  AnswerAtOnce();
  served_.tokenizer = nullptr;
  served_.chat_template = nullptr;
  StartServer();
  pb::GenerateRequest request = Request();
  pb::GenerateResponse answer;
  const grpc::Status status = Generate(request, &answer);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_NE(status.error_message().find("tokenizer.json"), std::string::npos);
  request.mutable_token_ids()->add_ids(5);
  ASSERT_TRUE(Generate(request, &answer).ok());
  EXPECT_EQ(answer.text(), "");
  EXPECT_EQ(Ids(answer.token_ids().begin(), answer.token_ids().end()), script_);
}

}  // namespace
}  // namespace atl::front_door
