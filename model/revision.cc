// The fingerprint of a checkpoint: enough bytes to tell two checkpoints apart, few enough to read
// at every start.
#include <openssl/evp.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "model/checkpoint_files.h"

namespace atl::model {
namespace {

constexpr int64_t kSampleBytes = 4096;
constexpr int64_t kSamplesPerFile = 64;

class Sha256 {
 public:
  Sha256() : context_(EVP_MD_CTX_new(), &EVP_MD_CTX_free) {
    ok_ = context_ != nullptr && EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) == 1;
  }

  void Add(const void* data, size_t size) {
    ok_ = ok_ && EVP_DigestUpdate(context_.get(), data, size) == 1;
  }
  void AddNumber(int64_t value) {
    unsigned char bytes[8];
    for (int i = 0; i < 8; ++i)
      bytes[i] = static_cast<unsigned char>(static_cast<uint64_t>(value) >> (8 * i));
    Add(bytes, sizeof(bytes));
  }
  // With its length, so that two texts never run together.
  void AddText(const std::string& text) {
    AddNumber(static_cast<int64_t>(text.size()));
    Add(text.data(), text.size());
  }

  // The first 8 bytes as 16 hex digits.
  StatusOr<std::string> Finish() {
    unsigned char digest[EVP_MAX_MD_SIZE];
    if (!ok_ || EVP_DigestFinal_ex(context_.get(), digest, nullptr) != 1)
      return Internal("SHA-256 failed");
    std::string hex;
    for (int i = 0; i < 8; ++i) absl::StrAppendFormat(&hex, "%02x", digest[i]);
    return hex;
  }

 private:
  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context_;
  bool ok_ = false;
};

// 64 pieces of 4 KiB, the first at the file's start, the last at its end; the whole of a smaller
// file.
Status AddSamples(const RandomAccessFile& file, Sha256& sha) {
  std::vector<char> buffer(kSampleBytes);
  const bool whole = file.size() <= kSamplesPerFile * kSampleBytes;
  const int64_t count = whole ? (file.size() + kSampleBytes - 1) / kSampleBytes : kSamplesPerFile;
  for (int64_t i = 0; i < count; ++i) {
    // Divided before multiplied: a file's size times 63 may not fit.
    const int64_t span = file.size() - kSampleBytes;
    const int64_t last = kSamplesPerFile - 1;
    const int64_t offset = whole ? i * kSampleBytes : span / last * i + span % last * i / last;
    const int64_t bytes = std::min(kSampleBytes, file.size() - offset);
    ATL_RETURN_IF_ERROR(file.ReadAt(offset, bytes, buffer.data()));
    sha.Add(buffer.data(), bytes);
  }
  return absl::OkStatus();
}

}  // namespace

StatusOr<std::string> ComputeRevision(const std::string& config_json,
                                      const CheckpointFiles& files) {
  Sha256 sha;
  sha.AddText(config_json);
  for (size_t i = 0; i < files.files.size(); ++i) {
    sha.AddText(files.names[i]);
    sha.AddText(files.raw_headers[i]);
    sha.AddNumber(files.files[i].size());
    ATL_RETURN_IF_ERROR(AddSamples(files.files[i], sha));
  }
  return sha.Finish();
}

}  // namespace atl::model
