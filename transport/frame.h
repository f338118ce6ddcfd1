// The data plane's frame: a fixed little-endian header, then the payload. Drawn once in
// docs/wire.md.
#pragma once

#include <cstdint>
#include <span>

#include "absl/time/time.h"
#include "base/buffer.h"
#include "base/dtype.h"
#include "base/status.h"

namespace atl::transport {

inline constexpr uint32_t kFrameMagic = 0x4c4c5441;  // "ATLL"
inline constexpr uint8_t kProtocolVersion = 1;
inline constexpr uint32_t kMaxPayloadBytes = 256u << 20;

enum class FrameType : uint8_t {
  kHello = 1,     // first frame of a connection: the one-time ticket, 16 bytes
  kDispatch = 2,  // attention -> router   x [rows, D]
  kWork = 3,  // router -> expert      x [rows, D], then pairs (row u32, expert id u32), by expert
              // id, then row
  kOuts = 4,  // expert -> router      out [pairs, D] in the order of the pairs
  kCombined = 5,  // router -> attention   y [rows, D]
  kCancel = 6,    // of call_id: nobody waits for it any more
  kPing = 7,
  kPong = 8,
  kError = 9,    // of call_id: payload is the status message, `layer` its canonical code
  kLoad = 10,    // rows = rows queued, pairs = rows a second: piggybacked by experts
  kCredit = 11,  // pairs = payload bytes that the receiver has consumed
};

// Flags of a frame.
inline constexpr uint16_t kFlagAlone =
    1;  // kWork: was on nodes that died, compute it with no other caller's
inline constexpr uint16_t kFlagTryAnother =
    2;  // kError: this peer is shutting down, another one would do it

// 56 bytes on the wire, little-endian, in this order (static_assert in frame.cc).
struct FrameHeader {
  uint32_t magic = kFrameMagic;
  uint8_t version = kProtocolVersion;
  FrameType type = FrameType::kPing;
  uint16_t flags = 0;
  uint64_t call_id = 0;  // unique on its link
  uint16_t layer = 0;
  uint16_t micro_batch = 0;
  uint32_t rows = 0;
  uint32_t pairs = 0;
  DType dtype = DType::kUnspecified;
  uint8_t reserved[3] = {0, 0, 0};
  uint32_t payload_bytes = 0;
  uint32_t time_left_us = 0;  // never a clock; 0: no deadline
  uint64_t bias_version = 0;  // of every row in the frame
  uint32_t payload_crc = 0;   // CRC32C of the payload on `tcp`, else 0
  uint32_t header_crc = 0;    // CRC32C of all bytes before it
};
inline constexpr int64_t kFrameHeaderBytes = 56;

struct Frame {
  FrameHeader header;
  Buffer payload;
};

// One (row of this frame, expert id) of a kWork frame.
struct WorkPair {
  uint32_t row = 0;
  uint32_t expert = 0;
};
static_assert(sizeof(WorkPair) == 8);

// Fills `out` [kFrameHeaderBytes], header_crc included.
void EncodeHeader(const FrameHeader& header, std::byte* out);
// InvalidArgument with the field, expected and found: magic, version, type, dtype, reserved,
// payload size, header_crc.
StatusOr<FrameHeader> DecodeHeader(std::span<const std::byte> bytes);

uint32_t Crc32c(std::span<const std::byte> bytes);

// What a receiver must check against its model before it uses a frame: payload_bytes is exactly
// what rows, pairs, D and dtype say; layer is a MoE layer; and for kWork every pair's row < rows,
// expert < num_experts, order strictly ascending by (expert, row).
struct PayloadShape {
  int64_t hidden_size = 0;
  int64_t num_layers = 0;
  int64_t num_experts = 0;  // ids, the shared one included
  DType wire = DType::kF32;
};
Status CheckPayload(const PayloadShape& shape, const Frame& frame);

// View into a checked kWork frame.
std::span<const WorkPair> WorkPairs(const Frame& frame);

// kError of `call_id`, not OK; the message is cut at 64 KiB.
Frame MakeErrorFrame(uint64_t call_id, const Status& error);
// The status of a checked kError frame.
Status ErrorOf(const Frame& frame);

// time_left_us of a call that must end at `deadline`: at least 1, at most what 32 bits hold; 0 for
// InfiniteFuture. And back.
uint32_t TimeLeftUs(absl::Time deadline);
absl::Time DeadlineOf(const FrameHeader& header);

}  // namespace atl::transport
