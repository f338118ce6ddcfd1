#include "weights/packed_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <random>
#include <utility>

#include "base/check.h"
#include "weights/jobs.h"

#if defined(__x86_64__)
#include <xxh_x86dispatch.h>  // XXH3 with the widest instructions that this CPU has
#else
#include <xxhash.h>
#endif

namespace atl::weights {
namespace {

static_assert(std::endian::native == std::endian::little);

// Small enough to be checked while it is in L2 from being copied.
constexpr int64_t kChunkBytes = int64_t{256} << 10;
// A job fills whole huge pages: two threads that touch a new one first both clear it.
constexpr int64_t kJobBytes = int64_t{2} << 20;
constexpr int64_t kMaxKeyBytes = int64_t{1} << 20;

uint64_t Checksum(const void* bytes, int64_t size) { return XXH3_64bits(bytes, size); }

int64_t NumChunks(int64_t payload_bytes) { return (payload_bytes + kChunkBytes - 1) / kChunkBytes; }

// fn(chunk, its first byte's place, size) for each chunk of the payload, in jobs of kJobBytes.
template <typename Fn>
Status ForEachChunk(ThreadPool* pool, int64_t payload_bytes, const Fn& fn) {
  return RunJobs(pool, (payload_bytes + kJobBytes - 1) / kJobBytes, [&](int64_t job) -> Status {
    const int64_t end = std::min((job + 1) * kJobBytes, payload_bytes);
    for (int64_t at = job * kJobBytes; at < end; at += kChunkBytes)
      ATL_RETURN_IF_ERROR(fn(at / kChunkBytes, at, std::min(kChunkBytes, end - at)));
    return absl::OkStatus();
  });
}

// Checksums, key and trailer, whose checksum is the last field.
std::string MakeTail(const std::vector<uint64_t>& checksums, const std::string& key,
                     int64_t payload_bytes) {
  PackedFileTrailer trailer = {.payload_bytes = static_cast<uint64_t>(payload_bytes),
                               .chunk_bytes = static_cast<uint32_t>(kChunkBytes),
                               .key_bytes = static_cast<uint32_t>(key.size())};
  std::memcpy(trailer.magic, kPackedFileMagic, sizeof trailer.magic);
  std::string tail(reinterpret_cast<const char*>(checksums.data()),
                   checksums.size() * sizeof(uint64_t));
  tail += key;
  tail.append(reinterpret_cast<const char*>(&trailer), offsetof(PackedFileTrailer, checksum));
  const uint64_t checksum = Checksum(tail.data(), static_cast<int64_t>(tail.size()));
  tail.append(reinterpret_cast<const char*>(&checksum), sizeof checksum);
  return tail;
}

// Bytes of checksums, key and trailer, if they and the payload make up the file.
StatusOr<int64_t> TailBytes(const RandomAccessFile& file, const PackedFileTrailer& trailer) {
  const int64_t size = file.size(), payload = static_cast<int64_t>(trailer.payload_bytes);
  if (std::memcmp(trailer.magic, kPackedFileMagic, sizeof trailer.magic) != 0)
    return DataLoss("%s does not end as packed weights do: cut short, or another file",
                    file.path());
  const int64_t key_bytes = trailer.key_bytes;
  if (payload < 1 || payload > size || trailer.chunk_bytes != kChunkBytes ||
      key_bytes > kMaxKeyBytes) {
    return DataLoss("%s: damaged trailer", file.path());
  }
  const int64_t tail = NumChunks(payload) * static_cast<int64_t>(sizeof(uint64_t)) + key_bytes +
                       static_cast<int64_t>(sizeof trailer);
  if (payload != size - tail) {
    return DataLoss("%s has %d bytes, expected %d as its trailer says", file.path(), size,
                    payload + tail);
  }
  return tail;
}

Status WriteAt(int fd, const std::string& path, int64_t offset, const void* bytes, int64_t size) {
  const auto* from = static_cast<const char*>(bytes);
  for (int64_t done = 0; done < size;) {
    const ssize_t n = pwrite(fd, from + done, size - done, offset + done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus(errno, absl::StrFormat("write %s at byte %d", path, offset));
    done += n;
  }
  return absl::OkStatus();
}

Status WriteAll(int fd, const std::string& path, const std::string& key, const Buffer& payload,
                ThreadPool* pool) {
  const int64_t size = static_cast<int64_t>(payload.size());
  std::vector<uint64_t> checksums(NumChunks(size));
  ATL_RETURN_IF_ERROR(ForEachChunk(pool, size, [&](int64_t chunk, int64_t at, int64_t bytes) {
    checksums[chunk] = Checksum(payload.data() + at, bytes);
    return WriteAt(fd, path, at, payload.data() + at, bytes);
  }));
  const std::string tail = MakeTail(checksums, key, size);
  ATL_RETURN_IF_ERROR(WriteAt(fd, path, size, tail.data(), static_cast<int64_t>(tail.size())));
  if (fsync(fd) != 0) return ErrnoStatus(errno, "fsync " + path);
  return absl::OkStatus();
}

}  // namespace

StatusOr<PackedFile> PackedFile::Open(const std::string& path, const std::string& key,
                                      int64_t payload_bytes) {
  PackedFile opened;
  ATL_ASSIGN_OR_RETURN(opened.file_, RandomAccessFile::Open(path));
  const RandomAccessFile& file = opened.file_;
  PackedFileTrailer trailer;
  constexpr int64_t kTrailer = sizeof trailer;
  if (file.size() < kTrailer) {
    return DataLoss("%s has %d bytes, expected at least %d", path, file.size(), kTrailer);
  }
  ATL_RETURN_IF_ERROR(file.ReadAt(file.size() - kTrailer, kTrailer, &trailer));
  ATL_ASSIGN_OR_RETURN(const int64_t tail_bytes, TailBytes(file, trailer));
  std::string tail(tail_bytes, '\0');
  ATL_RETURN_IF_ERROR(file.ReadAt(file.size() - tail_bytes, tail_bytes, tail.data()));
  if (Checksum(tail.data(), tail_bytes - 8) != trailer.checksum)
    return DataLoss("%s: the checksum of its end does not fit", path);
  opened.payload_bytes_ = static_cast<int64_t>(trailer.payload_bytes);
  opened.checksums_.resize(NumChunks(opened.payload_bytes_));
  const size_t checksum_bytes = opened.checksums_.size() * sizeof(uint64_t);
  std::memcpy(opened.checksums_.data(), tail.data(), checksum_bytes);
  if (tail.compare(checksum_bytes, trailer.key_bytes, key) != 0 ||
      opened.payload_bytes_ != payload_bytes) {
    return FailedPrecondition("%s was made from something else, or by another version", path);
  }
  return opened;
}

Status PackedFile::CheckChunk(int64_t chunk, const std::byte* bytes, int64_t size) const {
  if (Checksum(bytes, size) == checksums_[chunk]) return absl::OkStatus();
  return DataLoss("%s: the checksum of bytes %d to %d does not fit", file_.path(),
                  chunk * kChunkBytes, chunk * kChunkBytes + size - 1);
}

Status PackedFile::CopyTo(ThreadPool* pool, Buffer* memory) const {
  ATL_CHECK(static_cast<int64_t>(memory->size()) == payload_bytes_);
  file_.WillNeed(0, payload_bytes_);
  return ForEachChunk(pool, payload_bytes_, [&](int64_t chunk, int64_t at, int64_t size) -> Status {
    std::byte* const to = memory->data() + at;
    ATL_RETURN_IF_ERROR(file_.ReadAt(at, size, to));
    return CheckChunk(chunk, to, size);
  });
}

StatusOr<Buffer> PackedFile::Map(ThreadPool* pool) const {
  file_.WillNeed(0, payload_bytes_);
  ATL_ASSIGN_OR_RETURN(Buffer mapped, file_.Map(payload_bytes_));
  std::byte* const begin = mapped.data();
  madvise(begin, payload_bytes_, MADV_HUGEPAGE);  // a hint, for file systems that have such pages
  ATL_RETURN_IF_ERROR(
      ForEachChunk(pool, payload_bytes_, [&](int64_t chunk, int64_t at, int64_t size) -> Status {
#ifdef MADV_POPULATE_READ
        // All pages in one call, and what cannot be read is an error instead of a SIGBUS. Kernels
        // before 5.14 do not know it (EINVAL): there, pages come one by one.
        if (madvise(begin + at, size, MADV_POPULATE_READ) != 0 && errno != EINVAL)
          return ErrnoStatus(errno, absl::StrFormat("read %s at byte %d", file_.path(), at));
#endif
        return CheckChunk(chunk, begin + at, size);
      }));
  return mapped;
}

Status WritePackedFile(const std::string& path, const std::string& key, const Buffer& payload,
                       ThreadPool* pool) {
  ATL_CHECK(!payload.empty() && static_cast<int64_t>(key.size()) <= kMaxKeyBytes);
  std::random_device random;
  const std::string temporary =
      absl::StrFormat("%s.%08x%08x%s", path, random(), random(), kUnfinishedSuffix);
  const int fd = open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (fd < 0) return ErrnoStatus(errno, "create " + temporary);
  Status status = WriteAll(fd, temporary, key, payload, pool);
  if (close(fd) != 0 && status.ok()) status = ErrnoStatus(errno, "close " + temporary);
  // The folder is not synced: a rename that a crash undoes leaves no file, or the one before.
  if (status.ok() && rename(temporary.c_str(), path.c_str()) != 0)
    status = ErrnoStatus(errno, "rename " + temporary + " to " + path);
  if (!status.ok()) unlink(temporary.c_str());
  return status;
}

}  // namespace atl::weights
