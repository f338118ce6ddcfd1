#include "bench/product_roof.h"

namespace atl::bench {

using kernels::Isa;

std::optional<Arithmetic> ProductArithmetic(Isa isa, bool quantized) {
  switch (isa) {
    case Isa::kPortable:
      return std::nullopt;
    case Isa::kAvx2:
      return quantized ? Arithmetic::kInt8Avx2 : Arithmetic::kFmaAvx2;
    case Isa::kAvx512:
      return quantized ? Arithmetic::kInt8Avx512 : Arithmetic::kFmaAvx512;
    case Isa::kAvx512Vnni:
      return quantized ? Arithmetic::kInt8Vnni : Arithmetic::kFmaAvx512;
  }
  return std::nullopt;
}

}  // namespace atl::bench
