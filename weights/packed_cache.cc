#include "weights/packed_cache.h"

#include <chrono>
#include <filesystem>
#include <system_error>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "kernels/packed_matrix.h"
#include "weights/packed_file.h"

namespace atl::weights {
namespace {

namespace fs = std::filesystem;

// No writer is silent for so long.
constexpr std::chrono::hours kAbandoned{1};

// Files that were being written when their writers died.
void RemoveAbandoned(const std::string& folder) {
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    if (it->path().extension() != kUnfinishedSuffix) continue;
    std::error_code gone;  // another process may be faster
    const fs::file_time_type written = fs::last_write_time(it->path(), gone);
    if (!gone && fs::file_time_type::clock::now() - written > kAbandoned)
      fs::remove(it->path(), gone);
  }
}

StatusOr<PackedCache::Memory> Make(const PieceId& piece,
                                   absl::FunctionRef<Status(const PackedCache::Memory&)> make) {
  auto memory = std::make_shared<Buffer>(static_cast<size_t>(piece.bytes));
  ATL_RETURN_IF_ERROR(make(memory));
  return memory;
}

}  // namespace

Status CheckPackedCacheOptions(const PackedCacheOptions& options) {
  if (!options.map || !options.dir.empty()) return absl::OkStatus();
  return InvalidArgument("--map-weights maps files of --packed-cache DIR, which is not given");
}

PackedCache::PackedCache(const PackedCacheOptions& options, const std::string& revision,
                         const model::NumericProfile& profile)
    : options_(options), revision_(revision), profile_(model::BaseName(profile)) {
  if (options.dir.empty()) return;
  const std::string folder = absl::StrFormat("%s/%s-%s", options.dir, revision, profile_);
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) {
    GiveUpWriting(ErrnoStatus(error.value(), "create folder " + folder));
    return;
  }
  folder_ = folder;
  RemoveAbandoned(folder_);
}

std::string PackedCache::KeyOf(const PieceId& piece) const {
  return absl::StrFormat("layout %d\nprofile %s\nnumerics %d\nrevision %s\n%s\n%s",
                         kernels::kPackedLayoutVersion, profile_, model::kNumericsVersion,
                         revision_, piece.name, piece.contents);
}

StatusOr<PackedCache::Memory> PackedCache::Load(const PieceId& piece, ThreadPool* pool,
                                                absl::FunctionRef<Status(const Memory&)> make) {
  ATL_DCHECK(piece.bytes > 0 && piece.name.find('/') == std::string::npos);
  if (!folder_.empty()) {
    StatusOr<Memory> found = Read(piece, pool);
    if (found.ok()) {
      (options_.map ? stats_.mapped : stats_.copied) += piece.bytes;
      return found;
    }
    if (!absl::IsNotFound(found.status()))
      LogWarning("packed cache: made anew: %s", std::string(found.status().message()));
  }
  ATL_ASSIGN_OR_RETURN(Memory made, Make(piece, make));
  stats_.made += piece.bytes;
  if (folder_.empty() || !writable_) return made;
  const Status written = WritePackedFile(PathOf(piece), KeyOf(piece), *made, pool);
  if (!written.ok()) {
    GiveUpWriting(written);
    return made;
  }
  if (!options_.map) return made;
  StatusOr<Memory> mapped = Read(piece, pool);
  if (mapped.ok()) return mapped;
  LogWarning("packed cache: kept in memory: %s", std::string(mapped.status().message()));
  return made;
}

StatusOr<PackedCache::Memory> PackedCache::Read(const PieceId& piece, ThreadPool* pool) {
  ATL_ASSIGN_OR_RETURN(const PackedFile file,
                       PackedFile::Open(PathOf(piece), KeyOf(piece), piece.bytes));
  if (options_.map) {
    ATL_ASSIGN_OR_RETURN(Buffer mapped, file.Map(pool));
    return std::make_shared<Buffer>(std::move(mapped));
  }
  auto memory = std::make_shared<Buffer>(static_cast<size_t>(piece.bytes));
  ATL_RETURN_IF_ERROR(file.CopyTo(pool, memory.get()));
  return memory;
}

void PackedCache::GiveUpWriting(const Status& why) {
  if (writable_.exchange(false))
    LogWarning("packed cache: nothing is written: %s", std::string(why.message()));
}

std::string PackedCache::Summary(double seconds) const {
  const double mb = static_cast<double>(stats_.total()) / 1e6;
  std::string text = absl::StrFormat("%.1f MB of packed weights in %.3f s", mb, seconds);
  if (!folder_.empty()) {
    absl::StrAppendFormat(&text, ": %.1f MB made, %.1f MB copied and %.1f MB mapped from %s",
                          static_cast<double>(stats_.made) / 1e6,
                          static_cast<double>(stats_.copied) / 1e6,
                          static_cast<double>(stats_.mapped) / 1e6, folder_);
  }
  return text;
}

StatusOr<PackedCache::Memory> LoadMemory(
    PackedCache* cache, const PieceId& piece, ThreadPool* pool,
    absl::FunctionRef<Status(const PackedCache::Memory&)> make) {
  return cache != nullptr ? cache->Load(piece, pool, make) : Make(piece, make);
}

}  // namespace atl::weights
