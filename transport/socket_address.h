// From an Endpoint to what the socket calls want.
#pragma once

#include <sys/socket.h>

#include <string>

#include "transport/endpoint.h"

namespace atl::transport {

struct SocketAddress {
  sockaddr_storage storage = {};
  socklen_t size = 0;
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }
};

// Numbers only; InvalidArgument for a host name or a path that is too long. kInproc has no address.
StatusOr<SocketAddress> ToSocketAddress(const Endpoint& endpoint);

// "HOST:PORT" or "[HOST]:PORT" of an internet address.
std::string FormatAddress(const SocketAddress& address);

}  // namespace atl::transport
