// HOST:PORT texts, and the rule of where plaintext may go.
#pragma once

#include <string>

#include "base/status.h"

namespace atl::rpc {

struct HostPort {
  std::string host;  // without brackets; empty: every interface
  int port = 0;      // 0 to 65535

  std::string ToString() const;  // IPv6 hosts in brackets
  bool wildcard() const { return host.empty() || host == "0.0.0.0" || host == "::"; }
};

// "127.0.0.1:50051", "[::1]:50051", "name:50051", ":50051". InvalidArgument says what was expected.
StatusOr<HostPort> ParseHostPort(const std::string& text);

// Loopback (127.0.0.0/8, ::1, localhost) or a unix socket ("unix:...").
bool IsLocal(const std::string& address);

// Plaintext stays on this machine: FailedPrecondition for any other address unless `insecure`.
// `what` names the flag.
Status CheckPlaintext(const std::string& what, const std::string& address, bool insecure);

}  // namespace atl::rpc
