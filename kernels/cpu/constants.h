// Constants of the elementary functions, shared by the scalar and the vector forms.
#pragma once

namespace atl::kernels {

// 1.5 * 2^23: adding it rounds to an integer, ties to even, which is then in the low bits.
inline constexpr float kRoundMagic = 12582912.0f;

// exp: x = n ln2 + r; e^r = 1 + r + r^2 q(r), q of degree 4: minimax on |r| <= ln2 / 2, relative
// error 3.1e-9.
inline constexpr float kLog2e = 1.44269504088896341f;
inline constexpr float kLn2Hi =
    0.693147182464599609375f;  // float(ln 2): n * kLn2Hi needs no more bits inside an fma
inline constexpr float kLn2Lo = -1.904654323148236017e-9f;
inline constexpr float kExpC2 = 0.49999994f;
inline constexpr float kExpC3 = 0.16666521f;
inline constexpr float kExpC4 = 0.04166839f;
inline constexpr float kExpC5 = 0.008368745f;
inline constexpr float kExpC6 = 0.001381454f;
inline constexpr float kExpMax =
    88.72283172607421875f;                // the largest float with a finite exponential
inline constexpr float kExpMin = -87.3f;  // below: 0. Here e^x is still a normal number

// 2^-100 as bits: a group whose largest magnitude is smaller is quantised to zeros.
inline constexpr unsigned kQuantTinyBits = 0x0d800000u;

}  // namespace atl::kernels
