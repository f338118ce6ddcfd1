#include "rpc/server.h"

#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <string>

#include "absl/synchronization/notification.h"
#include "atollpb/v1/expert.grpc.pb.h"
#include "rpc/channel.h"
#include "rpc/status.h"

namespace atl::rpc {
namespace {

namespace pb = atollpb::v1;

// A call by name, bytes in and out: health and reflection have no stubs here.
grpc::Status Call(const std::string& address, const std::string& method, const std::string& request,
                  std::string* response) {
  grpc::GenericStub stub(MakeChannel(address));
  grpc::ClientContext context;
  SetDeadline(&context, absl::Seconds(10));
  const grpc::Slice slice(request);
  grpc::ByteBuffer in(&slice, 1), out;
  grpc::Status status;
  absl::Notification done;
  stub.UnaryCall(&context, method, grpc::StubOptions(), &in, &out, [&](grpc::Status s) {
    status = s;
    done.Notify();
  });
  done.WaitForNotification();  // bounded by the call's deadline
  if (status.ok()) {
    grpc::Slice whole;
    EXPECT_TRUE(out.DumpToSingleSlice(&whole).ok());
    *response = std::string(reinterpret_cast<const char*>(whole.begin()), whole.size());
  }
  return status;
}

// "SERVING", "NOT_SERVING", or the code's number.
std::string Health(const std::string& address, const std::string& service) {
  const std::string request = std::string("\x0a") + static_cast<char>(service.size()) + service;
  std::string response;
  const grpc::Status status = Call(address, "/grpc.health.v1.Health/Check", request, &response);
  if (!status.ok()) return std::to_string(status.error_code());
  if (response == std::string("\x08\x01", 2)) return "SERVING";
  if (response == std::string("\x08\x02", 2)) return "NOT_SERVING";
  return "?" + response;
}

class Described : public pb::ExpertService::CallbackService {
 public:
  grpc::ServerUnaryReactor* Describe(grpc::CallbackServerContext* context,
                                     const pb::DescribeRequest*,
                                     pb::DescribeResponse* response) override {
    response->set_name("me");
    auto* reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }
};

StatusOr<std::unique_ptr<Server>> StartServer(const ServerOptions& options, Described* service) {
  return Server::Start(options, "expert", {service});
}

TEST(ServerTest, ServesItsServicesAndReflection) {
  Described service;
  auto server = StartServer({}, &service);
  ASSERT_TRUE(server.ok()) << server.status();
  auto stub = pb::ExpertService::NewStub(MakeChannel((*server)->address()));
  grpc::ClientContext context;
  SetDeadline(&context, absl::Seconds(10));
  pb::DescribeResponse response;
  const grpc::Status status = stub->Describe(&context, {}, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response.name(), "me");

  // ServerReflectionRequest{list_services: "*"}; the answer names every service.
  grpc::GenericStub generic(MakeChannel((*server)->address()));
  std::string listed;
  ASSERT_TRUE(Call((*server)->address(),
                   "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
                   std::string("\x3a\x01*", 3), &listed)
                  .ok());
  for (const char* name :
       {"atollpb.v1.ExpertService", "grpc.health.v1.Health", "grpc.reflection.v1alpha"}) {
    EXPECT_NE(listed.find(name), std::string::npos) << name;
  }
  // {file_containing_symbol: NAME}: what a client without a proto file asks before it calls.
  for (const std::string name : {"atollpb.v1.ExpertService", "grpc.health.v1.Health"}) {
    std::string file;
    std::string ask = {'\x22', static_cast<char>(name.size())};
    ask += name;
    ASSERT_TRUE(Call((*server)->address(),
                     "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", ask, &file)
                    .ok());
    EXPECT_NE(file.find(".proto"), std::string::npos) << name;
  }
}

TEST(ServerTest, HealthFollowsReadinessOnBothPorts) {
  Described service;
  auto server = StartServer({.health_listen = "127.0.0.1:0"}, &service);
  ASSERT_TRUE(server.ok()) << server.status();
  const std::string main_port = (*server)->address(), health_port = (*server)->health_address();
  ASSERT_NE(main_port, health_port);
  for (const std::string& address : {main_port, health_port}) {
    EXPECT_EQ(Health(address, "liveness"), "SERVING");
    for (const char* name : {"readiness", "", "expert"})
      EXPECT_EQ(Health(address, name), "NOT_SERVING") << name;
    EXPECT_EQ(Health(address, "router"), "5");  // NOT_FOUND
  }
  for (const bool ready : {true, false}) {
    (*server)->SetReady(ready);
    for (const std::string& address : {main_port, health_port}) {
      for (const char* name : {"readiness", "", "expert"}) {
        EXPECT_EQ(Health(address, name), ready ? "SERVING" : "NOT_SERVING") << name;
      }
      EXPECT_EQ(Health(address, "liveness"), "SERVING");
    }
  }
  std::string response;
  EXPECT_EQ(Call(health_port, "/atollpb.v1.ExpertService/Describe", "", &response).error_code(),
            grpc::StatusCode::UNIMPLEMENTED);
  EXPECT_EQ(Call(health_port, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
                 std::string("\x3a\x01*", 3), &response)
                .error_code(),
            grpc::StatusCode::UNIMPLEMENTED);
}

TEST(ServerTest, APortInUseIsNamed) {
  Described first, second;
  auto server = StartServer({}, &first);
  ASSERT_TRUE(server.ok()) << server.status();
  const auto again = StartServer({.listen = (*server)->address()}, &second);
  EXPECT_EQ(again.status().code(), absl::StatusCode::kAlreadyExists) << again.status();
  EXPECT_NE(again.status().message().find((*server)->address()), std::string::npos)
      << again.status();
  const auto health = StartServer({.health_listen = (*server)->address()}, &second);
  EXPECT_EQ(health.status().code(), absl::StatusCode::kAlreadyExists) << health.status();
}

TEST(ServerTest, RefusesAddressesThatAreNone) {
  Described service;
  EXPECT_EQ(StartServer({.listen = "here"}, &service).status().code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(StartServer({.listen = "here", .insecure = true}, &service).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(StartServer({.listen = "203.0.113.7:0", .insecure = true}, &service).status().code(),
            absl::StatusCode::kInternal);  // EADDRNOTAVAIL: an address of documentation, nobody's
}

TEST(ServerTest, PlaintextOffThisMachineNeedsInsecure) {
  Described service;
  EXPECT_EQ(StartServer({.listen = "0.0.0.0:0"}, &service).status().code(),
            absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(StartServer({.listen = "0.0.0.0:0", .insecure = true}, &service).ok());
  EXPECT_TRUE(StartServer({.health_listen = "0.0.0.0:0"}, &service).ok());
}

// Answers UNAVAILABLE until the third attempt.
class Flaky : public pb::ExpertService::CallbackService {
 public:
  grpc::ServerUnaryReactor* Describe(grpc::CallbackServerContext* context,
                                     const pb::DescribeRequest*, pb::DescribeResponse*) override {
    auto* reactor = context->DefaultReactor();
    reactor->Finish(++describes < 3 ? ToGrpc(absl::UnavailableError("not yet")) : grpc::Status::OK);
    return reactor;
  }
  grpc::ServerUnaryReactor* Load(grpc::CallbackServerContext* context, const pb::LoadRequest*,
                                 pb::LoadResponse*) override {
    auto* reactor = context->DefaultReactor();
    ++loads;
    reactor->Finish(ToGrpc(absl::UnavailableError("not yet")));
    return reactor;
  }
  std::atomic<int> describes{0}, loads{0};
};

TEST(ServerTest, IdempotentCallsAreRetriedOthersAreNot) {
  Flaky service;
  auto server = Server::Start({}, "expert", {&service});
  ASSERT_TRUE(server.ok()) << server.status();
  auto stub = pb::ExpertService::NewStub(MakeChannel((*server)->address()));
  grpc::ClientContext describe, load;
  SetDeadline(&describe, absl::Seconds(10));
  SetDeadline(&load, absl::Seconds(10));
  pb::DescribeResponse described;
  EXPECT_TRUE(stub->Describe(&describe, {}, &described).ok());
  EXPECT_EQ(service.describes, 3);
  pb::LoadResponse loaded;
  EXPECT_EQ(stub->Load(&load, {}, &loaded).error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(service.loads, 1);
}

}  // namespace
}  // namespace atl::rpc
