// Servers as this project sets them: health and reflection on every one, keepalive, message limits,
// no shared ports.
#pragma once

#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/impl/service_type.h>
#include <grpcpp/server.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "base/status.h"

namespace atl::rpc {

struct ServerOptions {
  std::string listen = "127.0.0.1:0";  // HOST:PORT; port 0 takes a free one
  std::string health_listen;           // a port with health alone; empty: none
  bool insecure = false;               // plaintext may leave this machine; health may always
};

// One gRPC server with its services, health ("liveness", "readiness", "" and `role`) and
// reflection. Thread-safe after Start.
class Server {
 public:
  // AlreadyExists if the port is in use, naming it; FailedPrecondition for plaintext on an address
  // that is not local. `services` must outlive the server.
  static StatusOr<std::unique_ptr<Server>> Start(const ServerOptions& options,
                                                 const std::string& role,
                                                 const std::vector<grpc::Service*>& services);
  ~Server();  // Stop(0)

  // HOST:PORT in fact listened on.
  const std::string& address() const { return address_; }
  const std::string& health_address() const { return health_address_; }
  // "readiness", "" and `role` follow this; "liveness" serves from the start.
  void SetReady(bool ready);
  // No new calls; those running have `grace` to end, then are cancelled. Health goes last.
  void Stop(absl::Duration grace);

 private:
  Server() = default;
  std::string role_;
  std::string address_;
  std::string health_address_;
  std::unique_ptr<grpc::CallbackGenericService> health_only_;  // outlives the servers
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<grpc::Server> health_server_;  // null: none
};

}  // namespace atl::rpc
