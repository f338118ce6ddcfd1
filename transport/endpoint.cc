#include "transport/endpoint.h"

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/in.h>
#include <sys/un.h>

#include <charconv>
#include <cstddef>
#include <cstring>
#include <optional>

#include "transport/socket_address.h"

namespace atl::transport {
namespace {

constexpr char kExpected[] = "expected tcp:HOST:PORT, or unix: or shm: and PATH or @NAME";

struct HostPort {
  std::string host;
  uint16_t port = 0;
};

StatusOr<HostPort> SplitHostPort(const std::string& address) {
  const size_t colon = address.rfind(':');
  if (colon == std::string::npos)
    return InvalidArgument("address '%s' has no port: expected HOST:PORT", address);
  HostPort out{.host = address.substr(0, colon)};
  const char* const begin = address.data() + colon + 1;
  const char* const end = address.data() + address.size();
  const auto [rest, error] = std::from_chars(begin, end, out.port);
  if (error != std::errc() || rest != end || begin == end) {
    return InvalidArgument("port of '%s': expected 0 to 65535", address);
  }
  if (out.host.size() >= 2 && out.host.front() == '[' && out.host.back() == ']') {
    out.host = out.host.substr(1, out.host.size() - 2);
  } else if (out.host.find(':') != std::string::npos) {
    return InvalidArgument("address '%s': expected brackets around an IPv6 host", address);
  }
  if (out.host.empty()) return InvalidArgument("address '%s' has no host", address);
  return out;
}

std::optional<SocketAddress> Numeric(const HostPort& hp) {
  SocketAddress out;
  auto* v4 = reinterpret_cast<sockaddr_in*>(&out.storage);
  if (inet_pton(AF_INET, hp.host.c_str(), &v4->sin_addr) == 1) {
    v4->sin_family = AF_INET;
    v4->sin_port = htons(hp.port);
    out.size = sizeof(sockaddr_in);
    return out;
  }
  auto* v6 = reinterpret_cast<sockaddr_in6*>(&out.storage);
  if (inet_pton(AF_INET6, hp.host.c_str(), &v6->sin6_addr) == 1) {
    v6->sin6_family = AF_INET6;
    v6->sin6_port = htons(hp.port);
    out.size = sizeof(sockaddr_in6);
    return out;
  }
  return std::nullopt;
}

StatusOr<SocketAddress> UnixAddress(const std::string& path) {
  SocketAddress out;
  auto* address = reinterpret_cast<sockaddr_un*>(&out.storage);
  if (path.empty() || path == "@" || path.size() >= sizeof(address->sun_path)) {
    return InvalidArgument("unix socket path '%s': expected 1 to %d bytes", path,
                           sizeof(address->sun_path) - 1);
  }
  address->sun_family = AF_UNIX;
  std::memcpy(address->sun_path, path.data(), path.size());
  out.size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size() + 1);
  if (path[0] == '@') {  // the abstract namespace: a leading zero, no trailing one
    address->sun_path[0] = '\0';
    --out.size;
  }
  return out;
}

}  // namespace

std::string Endpoint::ToString() const { return std::string(LinkKindName(kind)) + ":" + address; }

StatusOr<Endpoint> ParseEndpoint(const std::string& text) {
  const size_t colon = text.find(':');
  if (colon == std::string::npos) return InvalidArgument("endpoint '%s': %s", text, kExpected);
  const std::string scheme = text.substr(0, colon);
  Endpoint endpoint{.address = text.substr(colon + 1)};
  if (scheme == "tcp") {
    endpoint.kind = LinkKind::kTcp;
    ATL_RETURN_IF_ERROR(SplitHostPort(endpoint.address).status());
  } else if (scheme == "unix" || scheme == "shm") {
    endpoint.kind = scheme == "shm" ? LinkKind::kShm : LinkKind::kUnix;
    ATL_RETURN_IF_ERROR(UnixAddress(endpoint.address).status());
  } else {
    return InvalidArgument("endpoint '%s': %s", text, kExpected);
  }
  return endpoint;
}

StatusOr<Endpoint> ResolveEndpoint(const Endpoint& endpoint) {
  if (endpoint.kind != LinkKind::kTcp) return endpoint;
  ATL_ASSIGN_OR_RETURN(const HostPort hp, SplitHostPort(endpoint.address));
  if (Numeric(hp)) return endpoint;
  const addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
  addrinfo* found = nullptr;
  const int error = getaddrinfo(hp.host.c_str(), nullptr, &hints, &found);
  if (error != 0) return NotFound("host '%s': %s", hp.host, gai_strerror(error));
  SocketAddress address;
  std::memcpy(&address.storage, found->ai_addr, found->ai_addrlen);
  address.size = found->ai_addrlen;
  freeaddrinfo(found);
  // The port stands at the same place in both families.
  reinterpret_cast<sockaddr_in*>(&address.storage)->sin_port = htons(hp.port);
  static_assert(offsetof(sockaddr_in, sin_port) == offsetof(sockaddr_in6, sin6_port));
  return Endpoint{.kind = LinkKind::kTcp, .address = FormatAddress(address)};
}

StatusOr<SocketAddress> ToSocketAddress(const Endpoint& endpoint) {
  switch (endpoint.kind) {
    case LinkKind::kShm:
    case LinkKind::kUnix:
      return UnixAddress(endpoint.address);
    case LinkKind::kTcp: {
      ATL_ASSIGN_OR_RETURN(const HostPort hp, SplitHostPort(endpoint.address));
      if (std::optional<SocketAddress> address = Numeric(hp)) return *address;
      return InvalidArgument("host '%s' is a name, expected an IPv4 or IPv6 address", hp.host);
    }
    case LinkKind::kInproc:
      break;
  }
  return InvalidArgument("a link of kind %s has no socket", LinkKindName(endpoint.kind));
}

std::string FormatAddress(const SocketAddress& address) {
  char host[INET6_ADDRSTRLEN] = "";
  if (address.storage.ss_family == AF_INET) {
    const auto* v4 = reinterpret_cast<const sockaddr_in*>(&address.storage);
    inet_ntop(AF_INET, &v4->sin_addr, host, sizeof(host));
    return absl::StrFormat("%s:%d", host, ntohs(v4->sin_port));
  }
  const auto* v6 = reinterpret_cast<const sockaddr_in6*>(&address.storage);
  inet_ntop(AF_INET6, &v6->sin6_addr, host, sizeof(host));
  return absl::StrFormat("[%s]:%d", host, ntohs(v6->sin6_port));
}

}  // namespace atl::transport
