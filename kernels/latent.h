// A block of latent cache as the kernels read it. Private to kernels/ and its tests.
#pragma once

#include <cstddef>

#include "kernels/cpu/table.h"
#include "kernels/mla.h"

namespace atl::kernels {

// `block`: CacheBlockBytes(shape) bytes.
BlockKeys KeysOf(const MlaShape& shape, const std::byte* block);

}  // namespace atl::kernels
