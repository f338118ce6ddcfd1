// Elementary functions whose bits depend on nothing but their arguments: no libm, only IEEE +, -,
// *, /, sqrt, fma in a written order. The vector forms inside kernels/ use the same polynomials, so
// every Isa agrees with these.
#pragma once

#include <cstdint>

namespace atl::kernels {

float Exp(
    float x);  // within 2 ulp; 0 below -87.3 (no denormals), +inf above 88.72283; NaN in, NaN out
float Log(float x);  // natural logarithm, within 2 ulp for positive normal x; -inf at 0, NaN below
float Sigmoid(float x);  // 1 / (1 + Exp(-x)), for every x: 0 at -inf, 1 at +inf
double Exp64(double x);  // within 4 ulp where the result is normal
double Log64(double x);  // within 4 ulp for positive normal x; -inf at 0, NaN below
void SinCos64(double x, double* sin, double* cos);  // |x| < 2^31, absolute error < 1e-14

}  // namespace atl::kernels
