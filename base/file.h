// Files read and written whole or in ranges. All functions are thread-safe.
#pragma once

#include <cstdint>
#include <string>

#include "base/buffer.h"
#include "base/status.h"

namespace atl {

// Reads a whole file. NotFound, PermissionDenied, or ResourceExhausted if it is larger than
// `max_bytes`.
StatusOr<std::string> ReadFile(const std::string& path, int64_t max_bytes = int64_t{256} << 20);

// Writes through a temporary file in the same folder and a rename: readers see the old or the new,
// never a part.
Status WriteFileAtomically(const std::string& path, const std::string& data);

bool FileExists(const std::string& path);

// An open file, read by position. Movable; closes when destroyed. Any thread may call ReadAt.
class RandomAccessFile {
 public:
  static StatusOr<RandomAccessFile> Open(const std::string& path);
  RandomAccessFile() = default;
  ~RandomAccessFile();
  RandomAccessFile(RandomAccessFile&& other) noexcept;
  RandomAccessFile& operator=(RandomAccessFile&& other) noexcept;

  // Fills `out` with `size` bytes from `offset`. DataLoss if the file ends before that.
  Status ReadAt(int64_t offset, int64_t size, void* out) const;
  // Maps the first `size` bytes (1 to size()) read-only; the mapping outlives the file's
  // descriptor. Where the file is cut short later, or cannot be read, touching the mapping ends the
  // process.
  StatusOr<Buffer> Map(int64_t size) const;
  // Starts to read [offset, offset + size) ahead.
  void WillNeed(int64_t offset, int64_t size) const;
  int64_t size() const { return size_; }
  const std::string& path() const { return path_; }

 private:
  int fd_ = -1;
  int64_t size_ = 0;
  std::string path_;
};

}  // namespace atl
