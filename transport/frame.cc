#include "transport/frame.h"

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstring>
#include <limits>
#include <string>

#include "absl/time/clock.h"

namespace atl::transport {
namespace {

// The struct is the wire layout: encoding is a copy.
static_assert(std::endian::native == std::endian::little);
static_assert(sizeof(FrameHeader) == kFrameHeaderBytes);
static_assert(offsetof(FrameHeader, version) == 4);
static_assert(offsetof(FrameHeader, type) == 5);
static_assert(offsetof(FrameHeader, flags) == 6);
static_assert(offsetof(FrameHeader, call_id) == 8);
static_assert(offsetof(FrameHeader, layer) == 16);
static_assert(offsetof(FrameHeader, micro_batch) == 18);
static_assert(offsetof(FrameHeader, rows) == 20);
static_assert(offsetof(FrameHeader, pairs) == 24);
static_assert(offsetof(FrameHeader, dtype) == 28);
static_assert(offsetof(FrameHeader, reserved) == 29);
static_assert(offsetof(FrameHeader, payload_bytes) == 32);
static_assert(offsetof(FrameHeader, time_left_us) == 36);
static_assert(offsetof(FrameHeader, bias_version) == 40);
static_assert(offsetof(FrameHeader, payload_crc) == 48);
static_assert(offsetof(FrameHeader, header_crc) == 52);

constexpr uint32_t kMaxErrorBytes = 64u << 10;
constexpr int kMaxStatusCode = 16;  // UNAUTHENTICATED

int TypeNumber(FrameType type) { return static_cast<int>(type); }

Status CheckSize(const Frame& frame, int64_t expected) {
  if (frame.header.payload_bytes == expected &&
      frame.payload.size() == static_cast<size_t>(expected)) {
    return absl::OkStatus();
  }
  return InvalidArgument(
      "frame type %d: payload of %d bytes (%d received), expected %d for rows %d, pairs %d",
      TypeNumber(frame.header.type), frame.header.payload_bytes, frame.payload.size(), expected,
      frame.header.rows, frame.header.pairs);
}

// `count` vectors [D] of the wire type, plus `extra_bytes`.
Status CheckVectors(const PayloadShape& shape, const Frame& frame, const char* what, int64_t count,
                    int64_t extra_bytes) {
  const FrameHeader& h = frame.header;
  if (h.dtype != shape.wire) {
    return InvalidArgument("frame type %d: dtype %s, expected %s", TypeNumber(h.type),
                           DTypeName(h.dtype), DTypeName(shape.wire));
  }
  if (h.layer >= shape.num_layers) {
    return InvalidArgument("frame type %d: layer %d, expected less than %d", TypeNumber(h.type),
                           h.layer, shape.num_layers);
  }
  if (count == 0)
    return InvalidArgument("frame type %d: 0 %s, expected at least 1", TypeNumber(h.type), what);
  return CheckSize(frame, count * shape.hidden_size * DTypeBytes(shape.wire) + extra_bytes);
}

Status CheckWorkPairs(const PayloadShape& shape, const Frame& frame) {
  const std::span<const WorkPair> pairs = WorkPairs(frame);
  for (size_t i = 0; i < pairs.size(); ++i) {
    const WorkPair p = pairs[i];
    if (p.row >= frame.header.rows) {
      return InvalidArgument("pair %d: row %d, expected less than %d", i, p.row, frame.header.rows);
    }
    if (p.expert >= shape.num_experts) {
      return InvalidArgument("pair %d: expert %d, expected less than %d", i, p.expert,
                             shape.num_experts);
    }
    if (i == 0) continue;
    const WorkPair q = pairs[i - 1];
    if (p.expert < q.expert || (p.expert == q.expert && p.row <= q.row)) {
      return InvalidArgument(
          "pair %d: (expert %d, row %d) after (%d, %d), expected strictly ascending", i, p.expert,
          p.row, q.expert, q.row);
    }
  }
  return absl::OkStatus();
}

}  // namespace

void EncodeHeader(const FrameHeader& header, std::byte* out) {
  std::memcpy(out, &header, kFrameHeaderBytes);
  const uint32_t crc = Crc32c({out, offsetof(FrameHeader, header_crc)});
  std::memcpy(out + offsetof(FrameHeader, header_crc), &crc, sizeof(crc));
}

StatusOr<FrameHeader> DecodeHeader(std::span<const std::byte> bytes) {
  if (bytes.size() != kFrameHeaderBytes) {
    return InvalidArgument("frame header of %d bytes, expected %d", bytes.size(),
                           kFrameHeaderBytes);
  }
  FrameHeader h;
  std::memcpy(&h, bytes.data(), kFrameHeaderBytes);
  if (h.magic != kFrameMagic)
    return InvalidArgument("frame magic %#x, expected %#x", h.magic, kFrameMagic);
  if (h.version != kProtocolVersion) {
    return InvalidArgument("frame version %d, expected %d", h.version, kProtocolVersion);
  }
  const uint32_t crc = Crc32c(bytes.first(offsetof(FrameHeader, header_crc)));
  if (h.header_crc != crc)
    return InvalidArgument("frame header_crc %#x, expected %#x", h.header_crc, crc);
  if (h.type < FrameType::kHello || h.type > FrameType::kCredit) {
    return InvalidArgument("frame type %d, expected %d to %d", TypeNumber(h.type),
                           TypeNumber(FrameType::kHello), TypeNumber(FrameType::kCredit));
  }
  if (h.dtype > DType::kF8E4M3) {
    return InvalidArgument("frame dtype %d, expected 0 to %d", static_cast<int>(h.dtype),
                           static_cast<int>(DType::kF8E4M3));
  }
  if (h.reserved[0] != 0 || h.reserved[1] != 0 || h.reserved[2] != 0) {
    return InvalidArgument("frame reserved bytes %d %d %d, expected 0", h.reserved[0],
                           h.reserved[1], h.reserved[2]);
  }
  if (h.payload_bytes > kMaxPayloadBytes) {
    return InvalidArgument("frame payload of %d bytes, expected at most %d", h.payload_bytes,
                           kMaxPayloadBytes);
  }
  return h;
}

Status CheckPayload(const PayloadShape& shape, const Frame& frame) {
  const FrameHeader& h = frame.header;
  switch (h.type) {
    case FrameType::kHello:
      return CheckSize(frame, 16);
    case FrameType::kDispatch:
    case FrameType::kCombined:
      return CheckVectors(shape, frame, "rows", h.rows, 0);
    case FrameType::kWork: {
      if (h.pairs == 0) return InvalidArgument("work of 0 pairs, expected at least 1");
      if (h.rows * shape.hidden_size * DTypeBytes(shape.wire) % alignof(WorkPair) != 0) {
        return InvalidArgument(
            "work of %d rows of %d values: the pairs behind them are not aligned", h.rows,
            shape.hidden_size);
      }
      ATL_RETURN_IF_ERROR(
          CheckVectors(shape, frame, "rows", h.rows, int64_t{h.pairs} * sizeof(WorkPair)));
      return CheckWorkPairs(shape, frame);
    }
    case FrameType::kOuts:
      return CheckVectors(shape, frame, "pairs", h.pairs, 0);
    case FrameType::kError:
      if (h.layer < 1 || h.layer > kMaxStatusCode) {
        return InvalidArgument("error frame with code %d, expected 1 to %d", h.layer,
                               kMaxStatusCode);
      }
      if (h.payload_bytes > kMaxErrorBytes) {
        return InvalidArgument("error frame of %d bytes, expected at most %d", h.payload_bytes,
                               kMaxErrorBytes);
      }
      return CheckSize(frame, h.payload_bytes);
    case FrameType::kCancel:
    case FrameType::kPing:
    case FrameType::kPong:
    case FrameType::kLoad:
    case FrameType::kCredit:
      return CheckSize(frame, 0);
  }
  return InvalidArgument("frame type %d is unknown", TypeNumber(h.type));
}

std::span<const WorkPair> WorkPairs(const Frame& frame) {
  const size_t bytes = frame.header.pairs * sizeof(WorkPair);
  return {reinterpret_cast<const WorkPair*>(frame.payload.data() + frame.payload.size() - bytes),
          frame.header.pairs};
}

Frame MakeErrorFrame(uint64_t call_id, const Status& error) {
  Frame frame;
  const size_t bytes = std::min<size_t>(error.message().size(), kMaxErrorBytes);
  frame.payload = Buffer(bytes);
  if (bytes > 0) std::memcpy(frame.payload.data(), error.message().data(), bytes);
  frame.header = {.type = FrameType::kError,
                  .call_id = call_id,
                  .layer = static_cast<uint16_t>(error.code()),
                  .payload_bytes = static_cast<uint32_t>(bytes)};
  return frame;
}

Status ErrorOf(const Frame& frame) {
  return Status(static_cast<absl::StatusCode>(frame.header.layer),
                std::string(frame.payload.as<char>(), frame.payload.size()));
}

uint32_t TimeLeftUs(absl::Time deadline) {
  if (deadline == absl::InfiniteFuture()) return 0;
  const int64_t us = absl::ToInt64Microseconds(deadline - absl::Now());
  return static_cast<uint32_t>(std::clamp<int64_t>(us, 1, std::numeric_limits<uint32_t>::max()));
}

absl::Time DeadlineOf(const FrameHeader& header) {
  return header.time_left_us == 0 ? absl::InfiniteFuture()
                                  : absl::Now() + absl::Microseconds(header.time_left_us);
}

}  // namespace atl::transport
