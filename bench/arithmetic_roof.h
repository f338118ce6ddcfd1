// What the cores can compute at most with operands in registers, by instruction.
#pragma once

#include <span>

#include "base/thread_pool.h"

namespace atl::bench {

enum class Arithmetic {
  kFmaAvx2,     // float32, vfmadd ymm
  kFmaAvx512,   // float32, vfmadd zmm
  kFp16Avx512,  // float16, vfmadd ph
  kBf16Avx512,  // pairs of bfloat16, vdpbf16ps
  kInt8Avx2,    // int8 widened to int16, vpmaddwd ymm
  kInt8Avx512,  // int8 widened to int16, vpmaddwd zmm
  kInt8Vnni,    // four int8 a lane, vpdpbusd zmm
};

std::span<const Arithmetic> AllArithmetic();
const char* ArithmeticName(Arithmetic kind);
bool ArithmeticSupported(Arithmetic kind);  // by this CPU

// All threads of `pool` at it for some milliseconds; returns the operations done (a multiplication
// and an addition are two). REQUIRES: supported.
double RunArithmetic(ThreadPool* pool, Arithmetic kind);
// The same, as billions of operations a second by the wall's clock.
double ArithmeticGops(ThreadPool* pool, Arithmetic kind);

}  // namespace atl::bench
