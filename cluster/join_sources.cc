#include "cluster/join_sources.h"

#include <netdb.h>
#include <sys/socket.h>

#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "base/file.h"
#include "base/log.h"
#include "rpc/address.h"

namespace atl::cluster {
namespace {

constexpr int64_t kMaxFileBytes = 1 << 20;

StatusOr<std::vector<std::string>> LookUp(const std::string& name_and_port) {
  ATL_ASSIGN_OR_RETURN(const rpc::HostPort where, rpc::ParseHostPort(name_and_port));
  const addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
  addrinfo* found = nullptr;
  const int error = getaddrinfo(where.host.c_str(), nullptr, &hints, &found);
  if (error != 0) return Unavailable("look up %s: %s", where.host, gai_strerror(error));
  std::vector<std::string> addresses;
  for (const addrinfo* a = found; a != nullptr; a = a->ai_next) {
    char host[NI_MAXHOST];
    if (getnameinfo(a->ai_addr, a->ai_addrlen, host, sizeof(host), nullptr, 0, NI_NUMERICHOST) != 0)
      continue;
    addresses.push_back(rpc::HostPort{.host = host, .port = where.port}.ToString());
  }
  freeaddrinfo(found);
  return addresses;
}

StatusOr<std::vector<std::string>> ReadList(const std::string& path) {
  ATL_ASSIGN_OR_RETURN(const std::string text, ReadFile(path, kMaxFileBytes));
  std::vector<std::string> addresses;
  for (const absl::string_view piece : absl::StrSplit(text, '\n')) {
    const std::string line(absl::StripAsciiWhitespace(piece));
    if (line.empty() || line[0] == '#') continue;
    const StatusOr<rpc::HostPort> parsed = rpc::ParseHostPort(line);
    if (!parsed.ok()) return Annotate(parsed.status(), path);
    addresses.push_back(line);
  }
  return addresses;
}

}  // namespace

StatusOr<JoinSources> JoinSources::Parse(const std::vector<std::string>& entries) {
  JoinSources sources;
  for (const std::string& entry : entries) {
    if (absl::StartsWith(entry, "file:")) {
      sources.entries_.push_back({.kind = Kind::kFile, .text = entry.substr(5)});
      continue;
    }
    const bool dns = absl::StartsWith(entry, "dns:");
    const std::string text = dns ? entry.substr(4) : entry;
    const StatusOr<rpc::HostPort> parsed = rpc::ParseHostPort(text);
    if (!parsed.ok() || parsed->host.empty() || parsed->port == 0) {
      return InvalidArgument("join '%s': expected HOST:PORT, dns:NAME:PORT or file:PATH", entry);
    }
    sources.entries_.push_back({.kind = dns ? Kind::kDns : Kind::kFixed, .text = text});
  }
  return sources;
}

StatusOr<std::vector<std::string>> JoinSources::Read(const Entry& entry) {
  switch (entry.kind) {
    case Kind::kFixed:
      return std::vector<std::string>{entry.text};
    case Kind::kDns:
      return LookUp(entry.text);
    case Kind::kFile:
      return ReadList(entry.text);
  }
  return Internal("join source of kind %d", static_cast<int>(entry.kind));
}

std::vector<std::string> JoinSources::Resolve() {
  std::set<std::string> all;
  for (Entry& entry : entries_) {
    StatusOr<std::vector<std::string>> read = Read(entry);
    if (read.ok()) {
      entry.addresses = *std::move(read);
      entry.last_error.clear();
    } else if (entry.last_error != read.status().message()) {
      entry.last_error = std::string(read.status().message());
      LogWarning("join: %s", entry.last_error);
    }
    all.insert(entry.addresses.begin(), entry.addresses.end());
  }
  return {all.begin(), all.end()};
}

bool JoinSources::changes() const {
  return std::any_of(entries_.begin(), entries_.end(),
                     [](const Entry& e) { return e.kind != Kind::kFixed; });
}

}  // namespace atl::cluster
