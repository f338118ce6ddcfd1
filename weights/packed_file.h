// One piece of packed weights as a file: checked when it is read, and never half a file under its
// name.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "base/file.h"
#include "base/status.h"
#include "base/thread_pool.h"

namespace atl::weights {

// The bytes of a piece are in the front, so that a mapping of them begins with a page:
//
//   payload     as it lies in memory
//   checksums   XXH3-64 of each 256 KiB of the payload, 8 bytes each
//   key         text: what the payload was made from, and how
//   trailer     PackedFileTrailer
//
// Numbers are little-endian.
struct PackedFileTrailer {
  char magic[8];           // kPackedFileMagic
  uint64_t payload_bytes;  // at least 1
  uint32_t chunk_bytes;    // 256 KiB
  uint32_t key_bytes;
  uint64_t checksum;  // XXH3-64 of checksums, key and the fields above
};
static_assert(sizeof(PackedFileTrailer) == 32);
inline constexpr char kPackedFileMagic[8] = {'A', 'T', 'O', 'L', 'L', 'P', 'K', '1'};

// A file that was written for the key that is asked for. Thread-compatible.
class PackedFile {
 public:
  // Reads all but the payload.
  //   NotFound: no such file.  DataLoss: damaged, cut short, or something else.
  //   FailedPrecondition: a sound file of another key or size.  Else: it cannot be read.
  static StatusOr<PackedFile> Open(const std::string& path, const std::string& key,
                                   int64_t payload_bytes);

  // Fills `memory`, of `payload_bytes`, on `pool`'s threads (null: the caller's). DataLoss:
  // damaged; what `memory` then holds is not to be used.
  Status CopyTo(ThreadPool* pool, Buffer* memory) const;
  // The payload where it lies, read-only, every byte read and checked. DataLoss: damaged.
  StatusOr<Buffer> Map(ThreadPool* pool) const;

 private:
  PackedFile() = default;
  Status CheckChunk(int64_t chunk, const std::byte* bytes, int64_t size) const;

  RandomAccessFile file_;
  int64_t payload_bytes_ = 0;
  std::vector<uint64_t> checksums_;
};

// What a file that is being written is called: PATH, ".", 16 hex digits, and this.
inline constexpr char kUnfinishedSuffix[] = ".tmp";

// Writes PATH whole: under another name in the same folder, to the disk, then renamed. Several
// processes may do so at once; readers see one file or the other, and what they have open or mapped
// stays as it is. On an error nothing is left behind.
Status WritePackedFile(const std::string& path, const std::string& key, const Buffer& payload,
                       ThreadPool* pool);

}  // namespace atl::weights
