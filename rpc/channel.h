// Channels and servers as this project sets them: keepalive, reconnect backoff of 50 ms to 0.5 s, message limits, retry of
// idempotent unary calls, health and reflection on every server.
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "base/status.h"

namespace atl::rpc {

inline constexpr int kMaxMessageBytes = 64 << 20;

std::shared_ptr<grpc::Channel> MakeChannel(const std::string& address);

// A grpc::ClientContext deadline.
void SetDeadline(grpc::ClientContext* context, absl::Duration timeout);

struct ServerOptions {
  std::string listen = "127.0.0.1:0";  // HOST:PORT; port 0 takes a free one
  std::string health_listen;           // a port with health alone; empty: none
};

// One gRPC server with its services, health ("liveness", "readiness", "" and `role`) and reflection.
// Thread-safe after Start.
class Server {
 public:
  // AlreadyExists if the port is in use, naming it. `services` must outlive the server.
  static StatusOr<std::unique_ptr<Server>> Start(const ServerOptions& options, const std::string& role,
                                                 const std::vector<grpc::Service*>& services);
  ~Server();  // Stop(0)

  // HOST:PORT in fact listened on.
  const std::string& address() const { return address_; }
  const std::string& health_address() const { return health_address_; }
  // "readiness", "" and `role` follow this; "liveness" serves from the start.
  void SetReady(bool ready);
  // No new calls; those running have `grace` to end, then are cancelled.
  void Stop(absl::Duration grace);

 private:
  Server() = default;
  std::string role_;
  std::string address_;
  std::string health_address_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<grpc::Server> health_server_;
  std::unique_ptr<grpc::Service> health_only_;
};

}  // namespace atl::rpc
