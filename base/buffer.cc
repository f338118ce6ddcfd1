#include "base/buffer.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>

namespace atl {
namespace {

constexpr size_t kHugePageBytes = size_t{2} << 20;

size_t RoundUp(size_t value, size_t unit) { return (value + unit - 1) / unit * unit; }

}  // namespace

Buffer::Buffer(size_t size) : size_(size) {
  if (size == 0) return;
  if (size < kHugePageBytes) {
    data_ = static_cast<std::byte*>(std::aligned_alloc(64, RoundUp(size, 64)));
    if (data_ == nullptr) throw std::bad_alloc();
    std::memset(data_, 0, RoundUp(size, 64));
    return;
  }
  mapped_bytes_ = RoundUp(size, kHugePageBytes);
  // One huge page more than needed, so that an aligned piece can be cut out; the rest is given
  // back.
  const size_t reserved = mapped_bytes_ + kHugePageBytes;
  void* raw = mmap(nullptr, reserved, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (raw == MAP_FAILED) throw std::bad_alloc();
  auto* begin = static_cast<std::byte*>(raw);
  auto* aligned =
      reinterpret_cast<std::byte*>(RoundUp(reinterpret_cast<size_t>(begin), kHugePageBytes));
  if (aligned != begin) munmap(begin, aligned - begin);
  const size_t tail = reserved - (aligned - begin) - mapped_bytes_;
  if (tail != 0) munmap(aligned + mapped_bytes_, tail);
  madvise(aligned, mapped_bytes_, MADV_HUGEPAGE);  // a hint: without it the pages are small
  data_ = aligned;
}

void Buffer::Grow(size_t size) {
  if (size_ >= size) return;
  *this = Buffer();  // not both at once
  *this = Buffer(std::max(size, size_t{1} << 16));
}

void Buffer::Free() {
  if (mapped_bytes_ != 0) {
    munmap(data_, mapped_bytes_);
  } else {
    std::free(data_);
  }
  data_ = nullptr;
}

}  // namespace atl
