#include "cli/status_file.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
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

namespace {

constexpr int64_t kMaxStatusFileBytes = int64_t{16} << 20;

// An older run's file, or an empty one that somebody made for us.
bool IsStatusFile(const std::string& path) {
  struct stat info;
  if (stat(path.c_str(), &info) != 0 || !S_ISREG(info.st_mode)) return false;
  const StatusOr<std::string> text = ReadFile(path, kMaxStatusFileBytes);
  if (!text.ok()) return false;
  const nlohmann::json json = nlohmann::json::parse(*text, nullptr, /*allow_exceptions=*/false);
  return text->empty() || (json.is_object() && json.size() == 1 && json.contains("processes"));
}

}  // namespace

StatusOr<StatusFile> StatusFile::Create(const std::string& path) {
  if (path.empty()) return StatusFile(path);
  std::error_code missing;
  const std::filesystem::path target = std::filesystem::canonical(path, missing);
  const std::string name = missing ? path : target.string();
  const size_t slash = name.rfind('/');
  const std::string folder = slash == std::string::npos ? "." : name.substr(0, slash + 1);
  if (access(folder.c_str(), W_OK | X_OK) != 0) return ErrnoStatus(errno, "status file " + path);
  if (!missing && !IsStatusFile(name)) {
    return AlreadyExists("status file %s: expected none, or an older run's; found something else",
                         path);
  }
  if (unlink(name.c_str()) != 0 && errno != ENOENT)
    return ErrnoStatus(errno, "status file " + path);
  return StatusFile(name);
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
