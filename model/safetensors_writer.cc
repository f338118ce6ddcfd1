#include "model/safetensors_writer.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <utility>

#include "base/check.h"

namespace atl::model {
namespace {

Status WriteAll(int fd, int64_t offset, const void* data, int64_t bytes, const std::string& path) {
  const char* from = static_cast<const char*>(data);
  int64_t done = 0;
  while (done < bytes) {
    const ssize_t n = pwrite(fd, from + done, bytes - done, offset + done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoStatus(errno, "write " + path);
    done += n;
  }
  return absl::OkStatus();
}

}  // namespace

StatusOr<SafetensorsWriter> SafetensorsWriter::Create(
    const std::string& path, std::vector<SafetensorsEntry> tensors,
    const std::map<std::string, std::string>& metadata) {
  SafetensorsWriter writer;
  const std::string header = MakeSafetensorsHeader(tensors, metadata);
  writer.tensors_ = std::move(tensors);
  writer.data_offset_ = static_cast<int64_t>(header.size());
  writer.path_ = path;
  const std::string part = path + ".part";
  writer.fd_ = open(part.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (writer.fd_ < 0) return ErrnoStatus(errno, "open " + part);
  const int64_t size =
      writer.data_offset_ + (writer.tensors_.empty() ? 0 : writer.tensors_.back().end);
  const int error = posix_fallocate(writer.fd_, 0, size);
  if (error != 0) return ErrnoStatus(error, absl::StrFormat("reserve %d bytes for %s", size, part));
  ATL_RETURN_IF_ERROR(WriteAll(writer.fd_, 0, header.data(), writer.data_offset_, part));
  return writer;
}

SafetensorsWriter::~SafetensorsWriter() {
  if (fd_ < 0) return;
  close(fd_);
  unlink((path_ + ".part").c_str());
}

SafetensorsWriter::SafetensorsWriter(SafetensorsWriter&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)),
      data_offset_(other.data_offset_),
      path_(std::move(other.path_)),
      tensors_(std::move(other.tensors_)) {}

SafetensorsWriter& SafetensorsWriter::operator=(SafetensorsWriter&& other) noexcept {
  std::swap(fd_, other.fd_);
  std::swap(data_offset_, other.data_offset_);
  std::swap(path_, other.path_);
  std::swap(tensors_, other.tensors_);
  return *this;
}

Status SafetensorsWriter::WriteAt(size_t index, int64_t offset, const void* data,
                                  int64_t bytes) const {
  const SafetensorsEntry& tensor = tensors_[index];
  ATL_DCHECK(offset >= 0 && bytes >= 0 && tensor.begin + offset + bytes <= tensor.end);
  return WriteAll(fd_, data_offset_ + tensor.begin + offset, data, bytes, path_);
}

Status SafetensorsWriter::Finish() {
  ATL_CHECK(fd_ >= 0);
  const std::string part = path_ + ".part";
  const int fd = std::exchange(fd_, -1);
  // Errors of delayed writing show at close on some file systems.
  if (close(fd) != 0 || rename(part.c_str(), path_.c_str()) != 0) {
    const int error = errno;
    unlink(part.c_str());
    return ErrnoStatus(error, "finish " + path_);
  }
  return absl::OkStatus();
}

}  // namespace atl::model
