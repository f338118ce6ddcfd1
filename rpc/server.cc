#include "rpc/server.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/impl/server_builder_option.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server_builder.h>
#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <utility>

#include "grpc/health/v1/health.pb.h"
#include "rpc/address.h"
#include "rpc/channel.h"

namespace atl::rpc {
namespace {

// The reflection library adds itself to every builder: the health-only server takes it out again.
class WithoutPlugins : public grpc::ServerBuilderOption {
 public:
  void UpdateArguments(grpc::ChannelArguments*) override {}
  void UpdatePlugins(std::vector<std::unique_ptr<grpc::ServerBuilderPlugin>>* plugins) override {
    plugins->clear();
  }
};

void SetArguments(grpc::ServerBuilder* builder) {
  builder->SetMaxReceiveMessageSize(kMaxMessageBytes);
  builder->SetMaxSendMessageSize(kMaxMessageBytes);
  builder->AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS,
                              static_cast<int>(absl::ToInt64Milliseconds(kKeepaliveTime)));
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS,
                              static_cast<int>(absl::ToInt64Milliseconds(kKeepaliveTimeout)));
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  // Clients ping at kKeepaliveTime; a load tester may do so more often.
  builder->AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 500);
  builder->AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  // Only reflection is served by threads of its own; all else is callbacks.
  builder->SetSyncServerOption(grpc::ServerBuilder::NUM_CQS, 1);
  builder->SetSyncServerOption(grpc::ServerBuilder::MIN_POLLERS, 1);
  builder->SetSyncServerOption(grpc::ServerBuilder::MAX_POLLERS, 2);
}

// gRPC says only that it could not listen: binds the address once more to learn why.
Status WhyNotListening(const std::string& listen) {
  ATL_ASSIGN_OR_RETURN(const HostPort where, ParseHostPort(listen));
  const addrinfo hints = {.ai_flags = AI_PASSIVE, .ai_socktype = SOCK_STREAM};
  addrinfo* found = nullptr;
  const int error = getaddrinfo(where.host.empty() ? nullptr : where.host.c_str(),
                                std::to_string(where.port).c_str(), &hints, &found);
  if (error != 0) return InvalidArgument("listen on %s: %s", listen, gai_strerror(error));
  Status why = Unavailable("listen on %s: gRPC refused, and the port is free now", listen);
  for (const addrinfo* a = found; a != nullptr; a = a->ai_next) {
    const int fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC, 0);
    if (fd < 0) continue;
    const int one = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));  // as gRPC does
    if (bind(fd, a->ai_addr, a->ai_addrlen) != 0) why = ErrnoStatus(errno, "listen on " + listen);
    close(fd);
  }
  freeaddrinfo(found);
  return why;
}

// Builds, and tells HOST:PORT in fact listened on.
StatusOr<std::unique_ptr<grpc::Server>> Build(grpc::ServerBuilder* builder,
                                              const std::string& listen, std::string* address) {
  ATL_ASSIGN_OR_RETURN(HostPort where, ParseHostPort(listen));
  const std::string full = where.host.empty() ? "0.0.0.0" + listen : listen;
  int port = 0;
  builder->AddListeningPort(full, grpc::InsecureServerCredentials(), &port);
  std::unique_ptr<grpc::Server> server = builder->BuildAndStart();
  if (server == nullptr || port == 0) return WhyNotListening(listen);
  where.port = port;
  if (where.host.empty()) where.host = "0.0.0.0";
  *address = where.ToString();
  return server;
}

void ShutDown(grpc::Server* server, absl::Duration grace) {
  if (server != nullptr)
    server->Shutdown(std::chrono::system_clock::now() + absl::ToChronoMilliseconds(grace));
}

}  // namespace

StatusOr<std::unique_ptr<Server>> Server::Start(const ServerOptions& options,
                                                const std::string& role,
                                                const std::vector<grpc::Service*>& services) {
  QuietGrpc();
  ATL_RETURN_IF_ERROR(CheckPlaintext("listening on", options.listen, options.insecure));
  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::health::v1::HealthCheckRequest::descriptor();  // linked, so that reflection can describe it
  auto self = std::unique_ptr<Server>(new Server);
  self->role_ = role;

  grpc::ServerBuilder builder;
  SetArguments(&builder);
  for (grpc::Service* service : services) builder.RegisterService(service);
  ATL_ASSIGN_OR_RETURN(self->server_, Build(&builder, options.listen, &self->address_));

  if (!options.health_listen.empty()) {
    // A server needs a service: this one answers UNIMPLEMENTED to whatever is not health.
    grpc::ServerBuilder health_builder;
    SetArguments(&health_builder);
    health_builder.SetOption(std::make_unique<WithoutPlugins>());
    self->health_only_ = std::make_unique<grpc::CallbackGenericService>();
    health_builder.RegisterCallbackGenericService(self->health_only_.get());
    ATL_ASSIGN_OR_RETURN(self->health_server_,
                         Build(&health_builder, options.health_listen, &self->health_address_));
  }
  for (grpc::Server* server : {self->server_.get(), self->health_server_.get()}) {
    if (server != nullptr) server->GetHealthCheckService()->SetServingStatus("liveness", true);
  }
  self->SetReady(false);
  return self;
}

Server::~Server() { Stop(absl::ZeroDuration()); }

void Server::SetReady(bool ready) {
  for (grpc::Server* server : {server_.get(), health_server_.get()}) {
    if (server == nullptr) continue;
    for (const std::string& name : {std::string("readiness"), std::string(), role_}) {
      server->GetHealthCheckService()->SetServingStatus(name, ready);
    }
  }
}

void Server::Stop(absl::Duration grace) {
  ShutDown(server_.get(), grace);
  ShutDown(health_server_.get(), absl::ZeroDuration());
}

}  // namespace atl::rpc
