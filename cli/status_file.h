// The file by which `atoll cluster` tells others what runs where.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "base/status.h"
#include "cluster/node_options.h"

namespace atl::cli {

struct ProcessEntry {
  std::string role;  // "router", "attention", "expert"
  std::string name;
  int pid = 0;
  cluster::NodeAddresses addresses;
  int64_t experts = 0;    // (layer, expert) pairs loaded
  int64_t sequences = 0;  // running and waiting
};

nlohmann::json AddressesToJson(const cluster::NodeAddresses& addresses);
// InvalidArgument if the text is no JSON object with four strings.
StatusOr<cluster::NodeAddresses> AddressesFromJson(const std::string& text);

// {"processes": [{"role", "name", "pid", "addresses": {"grpc", "data", "health", "metrics"},
// "holds": {"experts", "sequences"}}]}: the processes that run now. What is absent at a process
// ("health" where there is none) is "".
std::string FormatStatusFile(const std::vector<ProcessEntry>& processes);

// Writes the file whenever its text changes, by rename. Thread-compatible.
class StatusFile {
 public:
  // An empty path writes nothing. Takes away an older run's file; a link is followed. The error
  // says why the folder cannot be written; AlreadyExists: what is there is no status file, and is
  // kept.
  static StatusOr<StatusFile> Create(const std::string& path);
  Status Update(const std::vector<ProcessEntry>& processes);

 private:
  explicit StatusFile(const std::string& path) : path_(path) {}
  std::string path_;
  std::string written_;
};

}  // namespace atl::cli
