#include "tests/unit/model/checkpoint_edit.h"

#include <cstring>
#include <filesystem>

#include "base/check.h"
#include "base/file.h"
#include "tests/support/golden.h"

namespace atl::model {
namespace {

using Json = nlohmann::ordered_json;

// Bytes of the header's JSON.
uint64_t HeaderBytes(const std::string& file) {
  uint64_t size = 0;
  ATL_CHECK(file.size() >= 8);
  std::memcpy(&size, file.data(), 8);
  ATL_CHECK(8 + size <= file.size());
  return size;
}

}  // namespace

CheckpointCopy::CheckpointCopy(const std::string& preset) {
  std::filesystem::copy(atl::testing::GoldenCheckpointDir(preset), path());
}

void CheckpointCopy::EditJson(const std::string& name,
                              const std::function<void(Json&)>& edit) const {
  Json json = Json::parse(Read(name));
  edit(json);
  Write(name, json.dump());
}

void CheckpointCopy::EditHeader(const std::string& name,
                                const std::function<void(Json&)>& edit) const {
  const std::string file = Read(name);
  const uint64_t old_bytes = HeaderBytes(file);
  Json json = Json::parse(file.substr(8, old_bytes));
  edit(json);
  const std::string text = json.dump();
  const uint64_t new_bytes = text.size();
  std::string size(8, '\0');
  std::memcpy(size.data(), &new_bytes, 8);
  Write(name, size + text + file.substr(8 + old_bytes));
}

void CheckpointCopy::PatchTensor(const std::string& name, const std::string& tensor, int64_t offset,
                                 const std::string& bytes) const {
  std::string file = Read(name);
  const uint64_t header_bytes = HeaderBytes(file);
  const Json header = Json::parse(file.substr(8, header_bytes));
  ATL_CHECK(header.contains(tensor));
  const int64_t begin = header[tensor]["data_offsets"][0];
  const int64_t end = header[tensor]["data_offsets"][1];
  ATL_CHECK(begin + offset + static_cast<int64_t>(bytes.size()) <= end);
  file.replace(8 + header_bytes + begin + offset, bytes.size(), bytes);
  Write(name, file);
}

void CheckpointCopy::Truncate(const std::string& name, int64_t fewer_bytes) const {
  std::filesystem::resize_file(File(name), std::filesystem::file_size(File(name)) - fewer_bytes);
}

void CheckpointCopy::Remove(const std::string& name) const {
  ATL_CHECK(std::filesystem::remove(File(name)));
}

void CheckpointCopy::Write(const std::string& name, const std::string& text) const {
  ATL_CHECK(WriteFileAtomically(File(name), text).ok());
}

std::string CheckpointCopy::Read(const std::string& name) const {
  StatusOr<std::string> text = ReadFile(File(name));
  ATL_CHECK(text.ok());
  return *std::move(text);
}

}  // namespace atl::model
