// Where the routers are: the --join entries.
#pragma once

#include <string>
#include <vector>

#include "base/status.h"

namespace atl::cluster {

// Thread-compatible.
class JoinSources {
 public:
  // HOST:PORT, dns:NAME:PORT (every address of NAME), file:PATH (one HOST:PORT a line; blank lines
  // and # are passed over). InvalidArgument names the entry.
  static StatusOr<JoinSources> Parse(const std::vector<std::string>& entries);

  // HOST:PORT of all routers now, ascending, each once. An entry that cannot be read keeps what it
  // last gave. Blocks as long as the system's resolver does.
  std::vector<std::string> Resolve();
  // True if a later Resolve may answer otherwise.
  bool changes() const;

 private:
  enum class Kind { kFixed, kDns, kFile };
  struct Entry {
    Kind kind = Kind::kFixed;
    std::string text;  // HOST:PORT, NAME:PORT or PATH
    std::vector<std::string> addresses;
    std::string last_error;  // logged already
  };
  static StatusOr<std::vector<std::string>> Read(const Entry& entry);

  std::vector<Entry> entries_;
};

}  // namespace atl::cluster
