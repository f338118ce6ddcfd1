// Owned bytes: aligned for vector loads, in huge pages when large.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

namespace atl {

// A movable block of bytes, aligned to 64; from 2 MiB on it is its own mapping, 2 MiB aligned, for
// which transparent huge pages are asked (fewer TLB misses; the kernel frees them 10 times faster
// when a process is killed). New memory is zero. Thread-compatible.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t size);
  ~Buffer() { Free(); }
  Buffer(Buffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)),
        size_(std::exchange(other.size_, 0)),
        mapped_bytes_(std::exchange(other.mapped_bytes_, 0)) {}
  Buffer& operator=(Buffer&& other) noexcept {
    if (this != &other) {
      Free();
      data_ = std::exchange(other.data_, nullptr);
      size_ = std::exchange(other.size_, 0);
      mapped_bytes_ = std::exchange(other.mapped_bytes_, 0);
    }
    return *this;
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  // Makes room for `size` bytes, at least 64 KiB: for scratch that grows to the largest use seen.
  // Where there was less, what was there is gone and the new memory is zero.
  void Grow(size_t size);

  std::byte* data() { return data_; }
  const std::byte* data() const { return data_; }
  size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }

  template <typename T>
  T* as() {
    return reinterpret_cast<T*>(data_);
  }
  template <typename T>
  const T* as() const {
    return reinterpret_cast<const T*>(data_);
  }
  template <typename T>
  std::span<T> span() {
    return {as<T>(), size_ / sizeof(T)};
  }

 private:
  void Free();

  std::byte* data_ = nullptr;
  size_t size_ = 0;
  size_t mapped_bytes_ = 0;  // 0: from aligned_alloc
};

}  // namespace atl
