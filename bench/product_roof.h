// Which arithmetic roof stands above products of packed weights.
#pragma once

#include <optional>

#include "bench/arithmetic_roof.h"
#include "kernels/context.h"

namespace atl::bench {

// The instructions that `isa`'s products of float or of quantised weights take; none: portable,
// where the compiler chooses.
std::optional<Arithmetic> ProductArithmetic(kernels::Isa isa, bool quantized);

}  // namespace atl::bench
