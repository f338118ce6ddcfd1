#include "cluster/host_id.h"

#include <unistd.h>

#include <cstdio>
#include <random>

#include "absl/strings/ascii.h"

namespace atl::cluster {

std::string HostId() {
  // Not ReadFile: files of /proc have no size.
  std::FILE* file = std::fopen("/proc/sys/kernel/random/boot_id", "re");
  if (file == nullptr) return "";
  char boot[64] = {};
  const bool read = std::fgets(boot, sizeof(boot), file) != nullptr;
  std::fclose(file);
  char space[64] = {};
  const ssize_t n = readlink("/proc/self/ns/net", space, sizeof(space) - 1);
  if (!read || n <= 0) return "";
  return std::string(absl::StripAsciiWhitespace(boot)) + "/" + std::string(space, n);
}

uint64_t RandomId() {
  std::random_device device;
  const uint64_t id = (uint64_t{device()} << 32) | device();
  return id == 0 ? 1 : id;
}

}  // namespace atl::cluster
