#include "base/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

namespace atl {

StatusOr<std::string> ReadFile(const std::string& path, int64_t max_bytes) {
  ATL_ASSIGN_OR_RETURN(RandomAccessFile file, RandomAccessFile::Open(path));
  if (file.size() > max_bytes) {
    return ResourceExhausted("%s has %d bytes, expected at most %d", path, file.size(), max_bytes);
  }
  std::string data(file.size(), '\0');
  ATL_RETURN_IF_ERROR(file.ReadAt(0, file.size(), data.data()));
  return data;
}

Status WriteFileAtomically(const std::string& path, const std::string& data) {
  const std::string temporary = absl::StrFormat("%s.%d.tmp", path, getpid());
  const int fd = open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) return ErrnoStatus(errno, "open " + temporary);
  size_t written = 0;
  while (written < data.size()) {
    const ssize_t n = write(fd, data.data() + written, data.size() - written);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      const int error = errno;
      close(fd);
      unlink(temporary.c_str());
      return ErrnoStatus(error, "write " + temporary);
    }
    written += n;
  }
  close(fd);
  if (rename(temporary.c_str(), path.c_str()) != 0) {
    const int error = errno;
    unlink(temporary.c_str());
    return ErrnoStatus(error, "rename " + temporary + " to " + path);
  }
  return absl::OkStatus();
}

bool FileExists(const std::string& path) { return access(path.c_str(), F_OK) == 0; }

StatusOr<RandomAccessFile> RandomAccessFile::Open(const std::string& path) {
  RandomAccessFile file;
  // O_NONBLOCK: a pipe, which is refused below, would wait for a writer.
  file.fd_ = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (file.fd_ < 0) return ErrnoStatus(errno, "open " + path);
  struct stat info;
  if (fstat(file.fd_, &info) != 0) return ErrnoStatus(errno, "stat " + path);
  if (!S_ISREG(info.st_mode)) return InvalidArgument("%s is not a regular file", path);
  file.size_ = info.st_size;
  file.path_ = path;
  return file;
}

RandomAccessFile::~RandomAccessFile() {
  if (fd_ >= 0) close(fd_);
}

RandomAccessFile::RandomAccessFile(RandomAccessFile&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)), size_(other.size_), path_(std::move(other.path_)) {}

RandomAccessFile& RandomAccessFile::operator=(RandomAccessFile&& other) noexcept {
  std::swap(fd_, other.fd_);
  std::swap(size_, other.size_);
  std::swap(path_, other.path_);
  return *this;
}

Status RandomAccessFile::ReadAt(int64_t offset, int64_t size, void* out) const {
  auto* to = static_cast<char*>(out);
  int64_t done = 0;
  while (done < size) {
    const ssize_t n = pread(fd_, to + done, size - done, offset + done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus(errno, "read " + path_);
    if (n == 0) {
      return DataLoss("%s ends at byte %d, expected %d bytes from %d", path_, offset + done, size,
                      offset);
    }
    done += n;
  }
  return absl::OkStatus();
}

StatusOr<Buffer> RandomAccessFile::Map(int64_t size) const {
  if (size < 1 || size > size_) {
    return OutOfRange("%s: mapping of %d bytes, expected 1 to %d", path_, size, size_);
  }
  void* const begin = mmap(nullptr, size, PROT_READ, MAP_SHARED, fd_, 0);
  if (begin == MAP_FAILED) return ErrnoStatus(errno, "map " + path_);
  return Buffer::OfMapping(begin, size);
}

void RandomAccessFile::WillNeed(int64_t offset, int64_t size) const {
  posix_fadvise(fd_, offset, size, POSIX_FADV_WILLNEED);
}

}  // namespace atl
