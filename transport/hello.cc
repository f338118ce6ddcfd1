#include "transport/hello.h"

#include <cstring>

namespace atl::transport {
namespace {

StatusOr<FrameHeader> DecodeHelloHeader(std::span<const std::byte> bytes, int64_t payload_bytes) {
  ATL_ASSIGN_OR_RETURN(const FrameHeader header, DecodeHeader(bytes));
  if (header.type != FrameType::kHello || header.payload_bytes != payload_bytes) {
    return InvalidArgument("first frame of type %d with %d bytes, expected a hello with %d",
                           static_cast<int>(header.type), header.payload_bytes, payload_bytes);
  }
  if (header.pairs == 0) return InvalidArgument("hello with a window of 0 bytes");
  return header;
}

}  // namespace

HelloBytes EncodeHello(const Hello& hello) {
  HelloBytes out;
  const std::span<const std::byte> ticket = std::as_bytes(std::span(hello.ticket));
  const FrameHeader header = {.type = FrameType::kHello,
                              .pairs = static_cast<uint32_t>(hello.window_bytes),
                              .payload_bytes = sizeof(Ticket),
                              .payload_crc = Crc32c(ticket)};
  EncodeHeader(header, out.data());
  std::memcpy(out.data() + kFrameHeaderBytes, ticket.data(), ticket.size());
  return out;
}

StatusOr<Hello> DecodeHello(std::span<const std::byte> bytes) {
  ATL_ASSIGN_OR_RETURN(const FrameHeader header,
                       DecodeHelloHeader(bytes.first(kFrameHeaderBytes), sizeof(Ticket)));
  const std::span<const std::byte> ticket = bytes.subspan(kFrameHeaderBytes, sizeof(Ticket));
  const uint32_t crc = Crc32c(ticket);
  if (header.payload_crc != crc)
    return DataLoss("hello payload_crc %#x, expected %#x", header.payload_crc, crc);
  Hello hello{.window_bytes = header.pairs};
  std::memcpy(hello.ticket.data(), ticket.data(), ticket.size());
  return hello;
}

HelloAnswerBytes EncodeHelloAnswer(const Status& status, int64_t window_bytes) {
  HelloAnswerBytes out;
  FrameHeader header;
  if (status.ok()) {
    header.type = FrameType::kHello;
    header.pairs = static_cast<uint32_t>(window_bytes);
  } else {
    header.type = FrameType::kError;
    header.layer = static_cast<uint16_t>(status.code());
  }
  EncodeHeader(header, out.data());
  return out;
}

StatusOr<int64_t> DecodeHelloAnswer(std::span<const std::byte> bytes) {
  ATL_ASSIGN_OR_RETURN(FrameHeader header, DecodeHeader(bytes));
  if (header.type == FrameType::kError && header.payload_bytes == 0 && header.layer != 0) {
    return Status(static_cast<absl::StatusCode>(header.layer), "the listener refused the ticket");
  }
  ATL_ASSIGN_OR_RETURN(header, DecodeHelloHeader(bytes, 0));
  return header.pairs;
}

}  // namespace atl::transport
