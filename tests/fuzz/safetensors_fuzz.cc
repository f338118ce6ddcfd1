// The JSON of a safetensors header: what is taken tiles the data, and written anew reads the same.

#include <string>

#include "base/check.h"
#include "model/safetensors.h"
#include "tests/fuzz/input.h"

namespace atl::model {
namespace {

bool WholeBytes(const SafetensorsHeader& header) {
  for (const SafetensorsEntry& tensor : header.tensors) {
    if (SafetensorsDTypeBits(tensor.dtype) % 8 != 0) return false;
  }
  return true;
}

void CheckTiles(const SafetensorsHeader& header, int64_t data_bytes) {
  int64_t at = 0;
  for (const SafetensorsEntry& tensor : header.tensors) {
    ATL_CHECK(tensor.begin == at && tensor.end >= at);
    at = tensor.end;
  }
  ATL_CHECK(at == data_bytes);
}

void CheckWrittenAnew(SafetensorsHeader header, int64_t data_bytes) {
  const std::string bytes = MakeSafetensorsHeader(header.tensors, header.metadata);
  ATL_CHECK(bytes.size() % 8 == 0);
  const StatusOr<SafetensorsHeader> again =
      ParseSafetensorsHeader(std::string_view(bytes).substr(8), data_bytes, "again");
  ATL_CHECK(again.ok());
  ATL_CHECK(again->metadata == header.metadata);
  ATL_CHECK(again->tensors.size() == header.tensors.size());
  for (size_t i = 0; i < header.tensors.size(); ++i) {
    ATL_CHECK(again->tensors[i].name == header.tensors[i].name);
    ATL_CHECK(again->tensors[i].dtype == header.tensors[i].dtype);
    ATL_CHECK(again->tensors[i].shape == header.tensors[i].shape);
    ATL_CHECK(again->tensors[i].begin == header.tensors[i].begin);
  }
}

// The first four bytes are the size of the file's data, which a header must tile exactly.
void TryHeader(fuzz::Input input) {
  const int64_t data_bytes = input.Number<uint32_t>();
  const std::string_view json = input.Rest();
  const StatusOr<SafetensorsHeader> header = ParseSafetensorsHeader(json, data_bytes, "fuzz");
  if (!header.ok()) return;
  CheckTiles(*header, data_bytes);
  if (WholeBytes(*header)) CheckWrittenAnew(*header, data_bytes);
}

}  // namespace
}  // namespace atl::model

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  atl::model::TryHeader({data, size});
  return 0;
}
