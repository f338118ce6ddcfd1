#include "cli/status_file.h"

#include <unistd.h>

#include <cerrno>
#include <nlohmann/json.hpp>

#include "base/file.h"

namespace atl::cli {

nlohmann::json AddressesToJson(const cluster::NodeAddresses& addresses) {
  return {{"grpc", addresses.grpc},
          {"data", addresses.data},
          {"health", addresses.health},
          {"metrics", addresses.metrics}};
}

StatusOr<cluster::NodeAddresses> AddressesFromJson(const std::string& text) {
  const nlohmann::json json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  cluster::NodeAddresses addresses;
  for (const auto& [name, field] :
       {std::pair{"grpc", &addresses.grpc}, std::pair{"data", &addresses.data},
        std::pair{"health", &addresses.health}, std::pair{"metrics", &addresses.metrics}}) {
    if (!json.is_object() || !json.contains(name) || !json[name].is_string()) {
      return InvalidArgument("expected a JSON object with the string \"%s\", found %s", name, text);
    }
    *field = json[name].get<std::string>();
  }
  return addresses;
}

std::string FormatStatusFile(const std::vector<ProcessEntry>& processes) {
  nlohmann::json list = nlohmann::json::array();
  for (const ProcessEntry& process : processes) {
    list.push_back({{"role", process.role},
                    {"name", process.name},
                    {"pid", process.pid},
                    {"addresses", AddressesToJson(process.addresses)},
                    {"holds", {{"experts", process.experts}, {"sequences", process.sequences}}}});
  }
  const nlohmann::json whole = {{"processes", list}};
  return whole.dump(1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

StatusOr<StatusFile> StatusFile::Create(const std::string& path) {
  if (!path.empty()) {
    const size_t slash = path.rfind('/');
    const std::string folder = slash == std::string::npos ? "." : path.substr(0, slash + 1);
    if (access(folder.c_str(), W_OK | X_OK) != 0) return ErrnoStatus(errno, "status file " + path);
    if (unlink(path.c_str()) != 0 && errno != ENOENT)
      return ErrnoStatus(errno, "status file " + path);
  }
  return StatusFile(path);
}

Status StatusFile::Update(const std::vector<ProcessEntry>& processes) {
  if (path_.empty()) return absl::OkStatus();
  std::string text = FormatStatusFile(processes);
  if (text == written_) return absl::OkStatus();
  ATL_RETURN_IF_ERROR(WriteFileAtomically(path_, text));
  written_ = std::move(text);
  return absl::OkStatus();
}

}  // namespace atl::cli
