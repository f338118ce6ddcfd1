#include "rpc/address.h"

#include <arpa/inet.h>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"

namespace atl::rpc {

std::string HostPort::ToString() const {
  const bool v6 = host.find(':') != std::string::npos;
  return absl::StrFormat(v6 ? "[%s]:%d" : "%s:%d", host, port);
}

StatusOr<HostPort> ParseHostPort(const std::string& text) {
  const size_t colon = text.rfind(':');
  HostPort result;
  if (colon == std::string::npos || !absl::SimpleAtoi(text.substr(colon + 1), &result.port) ||
      result.port < 0 || result.port > 65535) {
    return InvalidArgument("address '%s': expected HOST:PORT with a port from 0 to 65535", text);
  }
  result.host = text.substr(0, colon);
  if (result.host.size() >= 2 && result.host.front() == '[' && result.host.back() == ']') {
    result.host = result.host.substr(1, result.host.size() - 2);
  } else if (result.host.find(':') != std::string::npos) {
    return InvalidArgument("address '%s': an IPv6 host is written in brackets, [::1]:50051", text);
  }
  return result;
}

bool IsLocal(const std::string& address) {
  if (absl::StartsWith(address, "unix:")) return true;
  const StatusOr<HostPort> parsed = ParseHostPort(address);
  if (!parsed.ok()) return false;
  if (parsed->host == "localhost") return true;
  in_addr v4;
  if (inet_pton(AF_INET, parsed->host.c_str(), &v4) == 1) return (ntohl(v4.s_addr) >> 24) == 127;
  in6_addr v6;
  return inet_pton(AF_INET6, parsed->host.c_str(), &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
}

Status CheckPlaintext(const std::string& what, const std::string& address, bool insecure) {
  if (insecure || IsLocal(address)) return absl::OkStatus();
  return FailedPrecondition(
      "%s %s leaves this machine in plaintext: expected a loopback address or a unix socket, or "
      "--insecure",
      what, address);
}

}  // namespace atl::rpc
