// Client channels as this project sets them: keepalive, reconnect backoff of 50 ms to 0.5 s,
// message limits, retry of idempotent unary calls.
#pragma once

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>

#include <memory>
#include <string>

#include "absl/time/time.h"

namespace atl::rpc {

inline constexpr int kMaxMessageBytes = 64 << 20;

// A peer that answers no ping for this long is dead: its calls end with UNAVAILABLE.
inline constexpr absl::Duration kKeepaliveTime = absl::Seconds(2);
inline constexpr absl::Duration kKeepaliveTimeout = absl::Seconds(4);

// Plaintext, to HOST:PORT or unix:PATH. Connects when first used. Never fails.
std::shared_ptr<grpc::Channel> MakeChannel(const std::string& address);

// A grpc::ClientContext deadline.
void SetDeadline(grpc::ClientContext* context, absl::Duration timeout);

// gRPC's own log lines go to ours, as debug lines (GRPC_VERBOSITY in the environment leaves them as
// they are). MakeChannel and Server::Start call it. Thread-safe.
void QuietGrpc();

}  // namespace atl::rpc
