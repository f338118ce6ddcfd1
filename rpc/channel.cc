#include "rpc/channel.h"

#include <grpc/support/log.h>
#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/channel_arguments.h>

#include <chrono>
#include <cstdlib>
#include <mutex>

#include "base/log.h"

namespace atl::rpc {
namespace {

// Calls that may be sent twice; their streams and state changes may not (Generate makes tokens,
// Load has a term).
constexpr char kServiceConfig[] = R"({"methodConfig": [{
  "name": [
    {"service": "atollpb.v1.ExpertService", "method": "Describe"},
    {"service": "atollpb.v1.ExpertService", "method": "Forward"},
    {"service": "atollpb.v1.ClusterService", "method": "GetSnapshot"},
    {"service": "atollpb.v1.RouterService"},
    {"service": "atollpb.v1.ModelService"},
    {"service": "atollpb.v1.LinkService"},
    {"service": "atollpb.v1.AttentionService", "method": "GetAttentionStats"},
    {"service": "grpc.health.v1.Health", "method": "Check"}
  ],
  "retryPolicy": {
    "maxAttempts": 4, "initialBackoff": "0.05s", "maxBackoff": "0.5s", "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"]
  }
}]})";

void LogFromGrpc(gpr_log_func_args* args) {
  LogDebug("grpc %s:%d %s", args->file, args->line, args->message);
}

}  // namespace

void QuietGrpc() {
  static std::once_flag once;
  std::call_once(once, [] {
    if (std::getenv("GRPC_VERBOSITY") == nullptr) gpr_set_log_function(&LogFromGrpc);
  });
}

std::shared_ptr<grpc::Channel> MakeChannel(const std::string& address) {
  QuietGrpc();
  grpc::ChannelArguments args;
  args.SetMaxReceiveMessageSize(kMaxMessageBytes);
  args.SetMaxSendMessageSize(kMaxMessageBytes);
  args.SetServiceConfigJSON(kServiceConfig);
  args.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS,
              static_cast<int>(absl::ToInt64Milliseconds(kKeepaliveTime)));
  args.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS,
              static_cast<int>(absl::ToInt64Milliseconds(kKeepaliveTimeout)));
  args.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);  // any number
  args.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 50);
  args.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS,
              2000);  // which in fact bounds one attempt to connect
  args.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 500);
  args.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);  // peers are peers
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), args);
}

void SetDeadline(grpc::ClientContext* context, absl::Duration timeout) {
  context->set_deadline(std::chrono::system_clock::now() + absl::ToChronoNanoseconds(timeout));
}

}  // namespace atl::rpc
