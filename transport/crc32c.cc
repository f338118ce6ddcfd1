#include "transport/crc32c.h"

#include <array>
#include <cstring>

#include "transport/frame.h"

#if defined(__x86_64__)
#include <nmmintrin.h>
#endif

namespace atl::transport {
namespace {

constexpr uint32_t kPolynomial = 0x82f63b78;  // reflected 0x1edc6f41

// table[k][b]: what byte b does to the register when k more zero bytes follow it.
using ByteTables = std::array<std::array<uint32_t, 256>, 8>;

constexpr ByteTables MakeByteTables() {
  ByteTables t{};
  for (uint32_t b = 0; b < 256; ++b) {
    uint32_t crc = b;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? kPolynomial : 0);
    t[0][b] = crc;
  }
  for (int k = 1; k < 8; ++k) {
    for (uint32_t b = 0; b < 256; ++b) t[k][b] = (t[k - 1][b] >> 8) ^ t[0][t[k - 1][b] & 0xff];
  }
  return t;
}

constexpr ByteTables kTables = MakeByteTables();

uint32_t PortableUpdate(uint32_t crc, const std::byte* data, size_t size) {
  for (; size >= 8; data += 8, size -= 8) {
    uint64_t v;
    std::memcpy(&v, data, 8);
    v ^= crc;
    crc = 0;
    for (int k = 0; k < 8; ++k) crc ^= kTables[7 - k][(v >> (8 * k)) & 0xff];
  }
  for (; size > 0; ++data, --size)
    crc = (crc >> 8) ^ kTables[0][(crc ^ static_cast<uint32_t>(*data)) & 0xff];
  return crc;
}

#if defined(__x86_64__)

// The crc32 instruction takes 3 cycles but one can start each cycle: three pieces of kPiece bytes
// are summed side by side and joined by "the register after kPiece zero bytes", a linear map looked
// up byte by byte.
constexpr size_t kPiece = 1024;

using ShiftTables = std::array<std::array<uint32_t, 256>, 4>;

ShiftTables MakeShiftTables() {
  std::array<uint32_t, 32> image;  // of each bit of the register
  for (int bit = 0; bit < 32; ++bit) {
    uint32_t crc = uint32_t{1} << bit;
    for (size_t i = 0; i < kPiece; ++i) crc = (crc >> 8) ^ kTables[0][crc & 0xff];
    image[bit] = crc;
  }
  ShiftTables t{};
  for (int byte = 0; byte < 4; ++byte) {
    for (uint32_t v = 0; v < 256; ++v) {
      for (int bit = 0; bit < 8; ++bit) {
        if ((v >> bit) & 1) t[byte][v] ^= image[8 * byte + bit];
      }
    }
  }
  return t;
}

uint32_t Shift(const ShiftTables& t, uint32_t crc) {
  return t[0][crc & 0xff] ^ t[1][(crc >> 8) & 0xff] ^ t[2][(crc >> 16) & 0xff] ^ t[3][crc >> 24];
}

__attribute__((target("sse4.2"))) uint32_t HardwareUpdate(uint32_t crc, const std::byte* data,
                                                          size_t size) {
  static const ShiftTables shift = MakeShiftTables();
  const auto load = [](const std::byte* p) {
    uint64_t v;
    std::memcpy(&v, p, 8);
    return v;
  };
  for (; size >= 3 * kPiece; data += 3 * kPiece, size -= 3 * kPiece) {
    uint64_t a = crc, b = 0, c = 0;
    for (size_t i = 0; i < kPiece; i += 8) {
      a = _mm_crc32_u64(a, load(data + i));
      b = _mm_crc32_u64(b, load(data + kPiece + i));
      c = _mm_crc32_u64(c, load(data + 2 * kPiece + i));
    }
    crc = Shift(shift, static_cast<uint32_t>(a)) ^ static_cast<uint32_t>(b);
    crc = Shift(shift, crc) ^ static_cast<uint32_t>(c);
  }
  for (; size >= 8; data += 8, size -= 8)
    crc = static_cast<uint32_t>(_mm_crc32_u64(crc, load(data)));
  for (; size > 0; ++data, --size) crc = _mm_crc32_u8(crc, static_cast<uint8_t>(*data));
  return crc;
}

#endif

}  // namespace

uint32_t Crc32cPortable(std::span<const std::byte> bytes) {
  return ~PortableUpdate(0xffffffffu, bytes.data(), bytes.size());
}

#if defined(__x86_64__)
uint32_t Crc32cHardware(std::span<const std::byte> bytes) {
  return ~HardwareUpdate(0xffffffffu, bytes.data(), bytes.size());
}
bool Crc32cHardwareSupported() { return __builtin_cpu_supports("sse4.2"); }
#else
uint32_t Crc32cHardware(std::span<const std::byte> bytes) { return Crc32cPortable(bytes); }
bool Crc32cHardwareSupported() { return false; }
#endif

uint32_t Crc32c(std::span<const std::byte> bytes) {
  static const bool hardware = Crc32cHardwareSupported();
  return hardware ? Crc32cHardware(bytes) : Crc32cPortable(bytes);
}

}  // namespace atl::transport
