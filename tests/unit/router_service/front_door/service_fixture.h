// A front door over the demo checkpoint on a real gRPC server, with a fake attention node behind
// it.
#pragma once

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "atollpb/v1/inference.grpc.pb.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "router_service/front_door/front_door.h"
#include "rpc/server.h"
#include "tests/unit/router_service/front_door/fakes.h"

namespace atl::front_door {

using Ids = std::vector<uint32_t>;

// The detail of this type that a status carries; false if there is none.
template <typename Detail>
bool GetDetail(const grpc::Status& status, Detail* detail) {
  google::rpc::Status full;
  if (!full.ParseFromString(status.error_details())) return false;
  if (full.code() != status.error_code()) return false;
  for (const auto& any : full.details()) {
    if (any.UnpackTo(detail)) return true;
  }
  return false;
}

class ServiceFixture : public ::testing::Test {
 protected:
  void SetUp() override {
    auto checkpoint = model::Checkpoint::Open("models/demo");
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    checkpoint_ = *std::move(checkpoint);
    auto served = LoadServedModel(checkpoint_.get(), *model::FindProfile("bf16"));
    ASSERT_TRUE(served.ok()) << served.status();
    served_ = *std::move(served);
    script_ =
        served_.tokenizer->Encode("Only that latent and a short rotary key are cached.", false);
    node_ = std::make_shared<FakeBackend>(script_);
    directory_.Add("a", node_);
  }

  void StartServer() {
    front_door_ = std::make_unique<FrontDoor>(&served_, &directory_, options_);
    auto server = rpc::Server::Start({}, "router", front_door_->services());
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    const auto channel =
        grpc::CreateChannel(server_->address(), grpc::InsecureChannelCredentials());
    inference_ = atollpb::v1::InferenceService::NewStub(channel);
    models_ = atollpb::v1::ModelService::NewStub(channel);
  }

  void TearDown() override {
    if (front_door_ != nullptr) front_door_->EndAll();
    if (server_ != nullptr) server_->Stop(absl::Seconds(5));
    server_.reset();
    front_door_.reset();
  }

  // The node answers whole runs at once.
  void AnswerAtOnce() {
    node_->on_start = [](FakeRun* run) { run->EmitRest(); };
  }

  atollpb::v1::GenerateRequest Request() const {
    atollpb::v1::GenerateRequest request;
    request.set_text("What is cached?");
    request.set_max_tokens(static_cast<uint32_t>(script_.size()));
    return request;
  }

  grpc::Status Generate(const atollpb::v1::GenerateRequest& request,
                        atollpb::v1::GenerateResponse* response) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30));
    return inference_->Generate(&context, request, response);
  }

  grpc::Status Stream(const atollpb::v1::GenerateRequest& request,
                      std::vector<atollpb::v1::GenerateStreamResponse>* deltas) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(30));
    const auto reader = inference_->GenerateStream(&context, request);
    atollpb::v1::GenerateStreamResponse delta;
    while (reader->Read(&delta)) deltas->push_back(delta);
    return reader->Finish();
  }

  std::unique_ptr<model::Checkpoint> checkpoint_;
  ServedModel served_;
  Ids script_;
  std::shared_ptr<FakeBackend> node_;
  FakeDirectory directory_;
  FrontDoorOptions options_;
  std::unique_ptr<FrontDoor> front_door_;
  std::unique_ptr<rpc::Server> server_;
  std::unique_ptr<atollpb::v1::InferenceService::Stub> inference_;
  std::unique_ptr<atollpb::v1::ModelService::Stub> models_;
};

}  // namespace atl::front_door
