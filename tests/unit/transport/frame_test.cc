#include "transport/frame.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "transport/crc32c.h"

namespace atl::transport {
namespace {

std::span<const std::byte> Bytes(const std::string& s) {
  return std::as_bytes(std::span(s.data(), s.size()));
}

TEST(Crc32cTest, KnownVectors) {
  // RFC 3720, B.4, and the check value of the CRC catalogue.
  const std::string zeros(32, '\0');
  const std::string ones(32, '\xff');
  std::string ascending(32, '\0');
  for (int i = 0; i < 32; ++i) ascending[i] = static_cast<char>(i);
  for (auto* crc : {&Crc32c, &Crc32cPortable}) {
    EXPECT_EQ(crc(Bytes("123456789")), 0xe3069283u);
    EXPECT_EQ(crc(Bytes(zeros)), 0x8a9136aau);
    EXPECT_EQ(crc(Bytes(ones)), 0x62a8ab43u);
    EXPECT_EQ(crc(Bytes(ascending)), 0x46dd794eu);
    EXPECT_EQ(crc({}), 0u);
  }
}

TEST(Crc32cTest, HardwareEqualsPortableAtEverySizeAndOffset) {
  if (!Crc32cHardwareSupported()) GTEST_SKIP() << "no SSE4.2";
  std::mt19937 rng(7);
  std::vector<std::byte> data(40'000);
  for (std::byte& b : data) b = static_cast<std::byte>(rng());
  for (size_t size = 0; size < 600; ++size) {
    const std::span<const std::byte> part(data.data() + size % 9, size);
    ASSERT_EQ(Crc32cHardware(part), Crc32cPortable(part)) << size;
  }
  for (size_t size :
       {3071, 3072, 3073, 6143, 6144, 9300, 30'720, 39'999}) {  // around the three-piece loop
    const std::span<const std::byte> part(data.data() + 1, size);
    ASSERT_EQ(Crc32cHardware(part), Crc32cPortable(part)) << size;
  }
}

FrameHeader SomeHeader() {
  return {.type = FrameType::kWork,
          .flags = 0x1234,
          .call_id = 0x0102030405060708,
          .layer = 7,
          .micro_batch = 1,
          .rows = 64,
          .pairs = 512,
          .dtype = DType::kBf16,
          .payload_bytes = 4096,
          .time_left_us = 250'000,
          .bias_version = 3,
          .payload_crc = 0xdeadbeef};
}

std::array<std::byte, kFrameHeaderBytes> Encode(const FrameHeader& header) {
  std::array<std::byte, kFrameHeaderBytes> bytes;
  EncodeHeader(header, bytes.data());
  return bytes;
}

TEST(FrameTest, HeaderComesBack) {
  const FrameHeader in = SomeHeader();
  const StatusOr<FrameHeader> out = DecodeHeader(Encode(in));
  ASSERT_TRUE(out.ok()) << out.status();
  EXPECT_EQ(out->type, in.type);
  EXPECT_EQ(out->flags, in.flags);
  EXPECT_EQ(out->call_id, in.call_id);
  EXPECT_EQ(out->layer, in.layer);
  EXPECT_EQ(out->micro_batch, in.micro_batch);
  EXPECT_EQ(out->rows, in.rows);
  EXPECT_EQ(out->pairs, in.pairs);
  EXPECT_EQ(out->dtype, in.dtype);
  EXPECT_EQ(out->payload_bytes, in.payload_bytes);
  EXPECT_EQ(out->time_left_us, in.time_left_us);
  EXPECT_EQ(out->bias_version, in.bias_version);
  EXPECT_EQ(out->payload_crc, in.payload_crc);
}

// The layout as other implementations would read it, byte by byte.
TEST(FrameTest, LayoutIsLittleEndianAtFixedPlaces) {
  const auto bytes = Encode(SomeHeader());
  const auto at = [&](int i) { return static_cast<int>(bytes[i]); };
  EXPECT_EQ(std::memcmp(bytes.data(), "ATLL", 4), 0);
  EXPECT_EQ(at(4), 1);     // version
  EXPECT_EQ(at(5), 3);     // type
  EXPECT_EQ(at(6), 0x34);  // flags
  EXPECT_EQ(at(8), 0x08);  // call_id
  EXPECT_EQ(at(15), 0x01);
  EXPECT_EQ(at(16), 7);     // layer
  EXPECT_EQ(at(18), 1);     // micro_batch
  EXPECT_EQ(at(20), 64);    // rows
  EXPECT_EQ(at(25), 2);     // pairs = 512
  EXPECT_EQ(at(28), 2);     // dtype
  EXPECT_EQ(at(33), 0x10);  // payload_bytes = 4096
  EXPECT_EQ(at(36), 0x90);  // time_left_us = 250000 = 0x3d090
  EXPECT_EQ(at(40), 3);     // bias_version
  EXPECT_EQ(at(51), 0xde);  // payload_crc
}

TEST(FrameTest, EveryBitMatters) {
  const auto good = Encode(SomeHeader());
  for (int bit = 0; bit < 8 * kFrameHeaderBytes; ++bit) {
    auto bad = good;
    bad[bit / 8] ^= std::byte{1} << (bit % 8);
    EXPECT_EQ(DecodeHeader(bad).status().code(), absl::StatusCode::kInvalidArgument)
        << "bit " << bit;
  }
}

// Fields that are wrong although the checksum is right: a peer that is mistaken or hostile, not a
// broken wire.
struct BadField {
  const char* name;  // must stand in the message
  void (*spoil)(FrameHeader*);
};

class BadFieldTest : public testing::TestWithParam<BadField> {};

TEST_P(BadFieldTest, IsRefusedByName) {
  FrameHeader header = SomeHeader();
  GetParam().spoil(&header);
  const Status status = DecodeHeader(Encode(header)).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr(GetParam().name));
}

INSTANTIATE_TEST_SUITE_P(
    Fields, BadFieldTest,
    testing::Values(BadField{"magic", [](FrameHeader* h) { h->magic = 0x20505448; }},
                    BadField{"version", [](FrameHeader* h) { h->version = 2; }},
                    BadField{"type", [](FrameHeader* h) { h->type = static_cast<FrameType>(0); }},
                    BadField{"type", [](FrameHeader* h) { h->type = static_cast<FrameType>(12); }},
                    BadField{"dtype", [](FrameHeader* h) { h->dtype = static_cast<DType>(5); }},
                    BadField{"reserved", [](FrameHeader* h) { h->reserved[1] = 1; }},
                    BadField{"payload",
                             [](FrameHeader* h) { h->payload_bytes = kMaxPayloadBytes + 1; }}));

TEST(FrameTest, HeaderOfAnotherSizeIsRefused) {
  const auto good = Encode(SomeHeader());
  EXPECT_FALSE(DecodeHeader(std::span(good).first(55)).ok());
  EXPECT_FALSE(DecodeHeader({}).ok());
}

TEST(FrameTest, RandomBytesNeverPass) {
  std::mt19937_64 rng(11);
  std::array<std::byte, kFrameHeaderBytes> bytes;
  for (int i = 0; i < 200'000; ++i) {
    for (std::byte& b : bytes) b = static_cast<std::byte>(rng());
    // Get past the first checks, so that the deeper ones are reached.
    const uint32_t magic = kFrameMagic;
    if (i % 2) std::memcpy(bytes.data(), &magic, 4);
    if (i % 4 == 3) bytes[4] = std::byte{kProtocolVersion};
    ASSERT_FALSE(DecodeHeader(bytes).ok());
  }
}

// Random fields under a right checksum: whatever passes obeys the stated bounds.
TEST(FrameTest, FuzzedFieldsThatPassAreInBounds) {
  std::mt19937_64 rng(13);
  int passed = 0;
  for (int i = 0; i < 200'000; ++i) {
    FrameHeader header = SomeHeader();
    std::byte raw[kFrameHeaderBytes];
    std::memcpy(raw, &header, sizeof(raw));
    for (uint64_t n = rng() % 3; n > 0; --n) raw[5 + rng() % 47] = static_cast<std::byte>(rng());
    std::memcpy(&header, raw, sizeof(raw));
    const StatusOr<FrameHeader> out = DecodeHeader(Encode(header));
    if (!out.ok()) continue;
    ++passed;
    ASSERT_GE(out->type, FrameType::kHello);
    ASSERT_LE(out->type, FrameType::kCredit);
    ASSERT_LE(out->dtype, DType::kF8E4M3);
    ASSERT_LE(out->payload_bytes, kMaxPayloadBytes);
  }
  EXPECT_GT(passed, 50'000);
}

const PayloadShape kShape = {
    .hidden_size = 4, .num_layers = 3, .num_experts = 9, .wire = DType::kBf16};

Frame WorkFrame(uint32_t rows, const std::vector<WorkPair>& pairs) {
  Frame frame;
  const size_t x_bytes = rows * 4 * 2;
  frame.payload = Buffer(x_bytes + pairs.size() * sizeof(WorkPair));
  if (!pairs.empty())
    std::memcpy(frame.payload.data() + x_bytes, pairs.data(), pairs.size() * sizeof(WorkPair));
  frame.header = {.type = FrameType::kWork,
                  .layer = 2,
                  .rows = rows,
                  .pairs = static_cast<uint32_t>(pairs.size()),
                  .dtype = DType::kBf16,
                  .payload_bytes = static_cast<uint32_t>(frame.payload.size())};
  return frame;
}

Frame VectorFrame(FrameType type, uint32_t rows, uint32_t pairs, size_t vectors) {
  Frame frame;
  frame.payload = Buffer(vectors * 8);
  frame.header = {.type = type,
                  .rows = rows,
                  .pairs = pairs,
                  .dtype = DType::kBf16,
                  .payload_bytes = static_cast<uint32_t>(frame.payload.size())};
  return frame;
}

TEST(PayloadTest, GoodFramesPass) {
  const std::vector<WorkPair> pairs = {
      {.row = 0, .expert = 1}, {.row = 1, .expert = 1}, {.row = 0, .expert = 8}};
  const Frame work = WorkFrame(2, pairs);
  EXPECT_TRUE(CheckPayload(kShape, work).ok());
  ASSERT_EQ(WorkPairs(work).size(), 3u);
  EXPECT_EQ(WorkPairs(work)[2].expert, 8u);
  EXPECT_EQ(WorkPairs(work)[1].row, 1u);
  EXPECT_TRUE(CheckPayload(kShape, VectorFrame(FrameType::kDispatch, 5, 0, 5)).ok());
  EXPECT_TRUE(CheckPayload(kShape, VectorFrame(FrameType::kCombined, 5, 0, 5)).ok());
  EXPECT_TRUE(CheckPayload(kShape, VectorFrame(FrameType::kOuts, 2, 3, 3)).ok());
  EXPECT_TRUE(CheckPayload(kShape, VectorFrame(FrameType::kPing, 0, 0, 0)).ok());
}

TEST(PayloadTest, WrongSizesAreRefused) {
  EXPECT_FALSE(CheckPayload(kShape, VectorFrame(FrameType::kDispatch, 5, 0, 4)).ok());
  EXPECT_FALSE(CheckPayload(kShape, VectorFrame(FrameType::kDispatch, 4, 0, 5)).ok());
  EXPECT_FALSE(CheckPayload(kShape, VectorFrame(FrameType::kDispatch, 0, 0, 0)).ok());
  EXPECT_FALSE(CheckPayload(kShape, VectorFrame(FrameType::kOuts, 3, 2, 3)).ok());
  EXPECT_FALSE(CheckPayload(kShape, VectorFrame(FrameType::kPing, 0, 0, 1)).ok());
  // 2^32 - 1 rows: the product must not wrap around to what is there.
  EXPECT_FALSE(CheckPayload(kShape, VectorFrame(FrameType::kDispatch, 0xffffffffu, 0, 1)).ok());
  Frame lies = VectorFrame(FrameType::kDispatch, 5, 0, 5);
  lies.payload = Buffer(8);
  EXPECT_FALSE(CheckPayload(kShape, lies).ok());
  Frame many = WorkFrame(1, {{0, 0}});
  many.header.pairs = 0xffffffffu;
  EXPECT_FALSE(CheckPayload(kShape, many).ok());
}

TEST(PayloadTest, WrongModelIsRefused) {
  Frame frame = VectorFrame(FrameType::kDispatch, 5, 0, 5);
  frame.header.layer = 3;
  EXPECT_FALSE(CheckPayload(kShape, frame).ok());
  frame.header.layer = 2;
  EXPECT_TRUE(CheckPayload(kShape, frame).ok());
  frame.header.dtype = DType::kF32;
  EXPECT_FALSE(CheckPayload(kShape, frame).ok());
}

TEST(PayloadTest, WrongPairsAreRefused) {
  EXPECT_FALSE(CheckPayload(kShape, WorkFrame(2, {})).ok());
  EXPECT_FALSE(CheckPayload(kShape, WorkFrame(2, {{2, 0}})).ok()) << "row";
  EXPECT_FALSE(CheckPayload(kShape, WorkFrame(2, {{0, 9}})).ok()) << "expert";
  EXPECT_FALSE(CheckPayload(kShape, WorkFrame(2, {{0, 1}, {0, 1}})).ok()) << "twice";
  EXPECT_FALSE(CheckPayload(kShape, WorkFrame(2, {{1, 1}, {0, 1}})).ok()) << "row order";
  EXPECT_FALSE(CheckPayload(kShape, WorkFrame(2, {{0, 2}, {1, 1}})).ok()) << "expert order";
}

TEST(PayloadTest, ErrorCodesAreCanonical) {
  Frame frame = VectorFrame(FrameType::kError, 0, 0, 1);
  for (int code : {0, 17, 65535}) {
    frame.header.layer = static_cast<uint16_t>(code);
    EXPECT_FALSE(CheckPayload(kShape, frame).ok()) << code;
  }
  frame.header.layer = 14;
  EXPECT_TRUE(CheckPayload(kShape, frame).ok());
}

TEST(PayloadTest, FuzzedFramesNeverReadOutOfBounds) {  // the sanitizers watch
  std::mt19937_64 rng(17);
  for (int i = 0; i < 100'000; ++i) {
    Frame frame = WorkFrame(2, {{0, 1}, {1, 1}, {0, 8}});
    std::byte raw[kFrameHeaderBytes];
    std::memcpy(raw, &frame.header, sizeof(raw));
    for (uint64_t n = rng() % 4; n > 0; --n) raw[16 + rng() % 20] = static_cast<std::byte>(rng());
    raw[5] = static_cast<std::byte>(rng() % 14);
    std::memcpy(&frame.header, raw, sizeof(raw));
    frame.payload.data()[rng() % frame.payload.size()] = static_cast<std::byte>(rng());
    if (!CheckPayload(kShape, frame).ok() || frame.header.type != FrameType::kWork) continue;
    for (const WorkPair& pair : WorkPairs(frame)) {
      ASSERT_LT(pair.row, frame.header.rows);
      ASSERT_LT(pair.expert, 9u);
    }
  }
}

}  // namespace
}  // namespace atl::transport
