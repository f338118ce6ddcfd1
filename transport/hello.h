// The first frame each way on a fresh connection: kHello with the one-time ticket, answered by
// kHello, or by kError with the status code. Both hellos carry the sender's window in `pairs`.
#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "transport/endpoint.h"

namespace atl::transport {

inline constexpr int64_t kHelloBytes = kFrameHeaderBytes + static_cast<int64_t>(sizeof(Ticket));
using HelloBytes = std::array<std::byte, kHelloBytes>;
using HelloAnswerBytes = std::array<std::byte, kFrameHeaderBytes>;

struct Hello {
  Ticket ticket;
  int64_t window_bytes = 0;
};

HelloBytes EncodeHello(const Hello& hello);
StatusOr<Hello> DecodeHello(std::span<const std::byte> bytes);  // [kHelloBytes]

// `status` OK: a hello with our window; else an error frame with its code.
HelloAnswerBytes EncodeHelloAnswer(const Status& status, int64_t window_bytes);
// The listener's window, or the status it refused with, or InvalidArgument for anything else.
StatusOr<int64_t> DecodeHelloAnswer(std::span<const std::byte> bytes);  // [kFrameHeaderBytes]

}  // namespace atl::transport
