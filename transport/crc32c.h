// CRC32C (Castagnoli, RFC 3720 B.4): the implementations behind Crc32c, by name, so that tests can
// compare them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace atl::transport {

// Any CPU: 8 bytes a step over tables.
uint32_t Crc32cPortable(std::span<const std::byte> bytes);

// SSE4.2's crc32 instruction, three independent chains at a time. REQUIRES
// Crc32cHardwareSupported().
uint32_t Crc32cHardware(std::span<const std::byte> bytes);
bool Crc32cHardwareSupported();

}  // namespace atl::transport
