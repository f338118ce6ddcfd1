// One frame: its header as it came and with a right checksum, and its payload against a model.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>

#include "base/check.h"
#include "tests/fuzz/input.h"
#include "transport/frame.h"
#include "transport/hello.h"

namespace atl::transport {
namespace {

using HeaderBytes = std::array<std::byte, kFrameHeaderBytes>;

constexpr PayloadShape kShapes[] = {
    {.hidden_size = 8, .num_layers = 3, .num_experts = 5, .wire = DType::kBf16},
    {.hidden_size = 2, .num_layers = 1, .num_experts = 1, .wire = DType::kF32}};

void TryPayload(const FrameHeader& header, std::string_view payload) {
  Frame frame{header, Buffer(payload.size())};
  if (!payload.empty()) std::memcpy(frame.payload.data(), payload.data(), payload.size());
  frame.header.payload_bytes = static_cast<uint32_t>(payload.size());
  for (const PayloadShape& shape : kShapes) {
    if (!CheckPayload(shape, frame).ok()) continue;
    if (header.type == FrameType::kError) ATL_CHECK(!ErrorOf(frame).ok());
    if (header.type != FrameType::kWork) continue;
    const std::span<const WorkPair> pairs = WorkPairs(frame);
    const size_t row_bytes = shape.hidden_size * DTypeBytes(shape.wire);
    ATL_CHECK(payload.size() == header.rows * row_bytes + pairs.size_bytes());
    for (const WorkPair& pair : pairs)
      ATL_CHECK(pair.row < header.rows && pair.expert < shape.num_experts);
  }
}

void TryHeader(HeaderBytes bytes, std::string_view payload) {
  const StatusOr<FrameHeader> header = DecodeHeader(bytes);
  (void)DecodeHelloAnswer(bytes);
  if (!header.ok()) return;
  HeaderBytes again;
  EncodeHeader(*header, again.data());
  ATL_CHECK(again == bytes);
  TryPayload(*header, payload);
}

void TryFrame(fuzz::Input input) {
  HeaderBytes bytes{};
  const std::string_view head = input.Bytes(bytes.size());
  if (!head.empty()) std::memcpy(bytes.data(), head.data(), head.size());
  const std::string_view payload = input.Rest();
  TryHeader(bytes, payload);

  FrameHeader header;
  std::memcpy(&header, bytes.data(), sizeof(header));
  header.magic = kFrameMagic;
  header.version = kProtocolVersion;
  EncodeHeader(header, bytes.data());
  TryHeader(bytes, payload);

  HelloBytes hello{};
  std::memcpy(hello.data(), bytes.data(), bytes.size());
  std::memcpy(hello.data() + bytes.size(), payload.data(),
              std::min(payload.size(), sizeof(Ticket)));
  (void)DecodeHello(hello);
}

}  // namespace
}  // namespace atl::transport

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  atl::transport::TryFrame({data, size});
  return 0;
}
