// A unit of work: some panels times some rows, and what is done to the sums. Included by
// table_inl.h.
namespace atl::kernels::ATL_ISA {

// acc [m, ldacc] = x W^T.
static void RunUnit(const PanelUnit& u, float* acc, int64_t ldacc) {
  if (u.format == PanelFormat::kQ8 || u.format == PanelFormat::kQ4) {
    RunQuantPanels(u, acc, ldacc);
  } else if (u.format == PanelFormat::kFp8) {
    RunFp8Panels(u, acc, ldacc);
  } else {
    RunPanels(u, 16, acc, ldacc, /*first=*/true);
  }
}

static void MatMulUnit(const PanelUnit& u, float* y, int64_t ldy, int64_t cols, bool round_bf16) {
  alignas(64) float acc[kUnitRows * kUnitPanels * 16];
  const int64_t ldacc = u.num_panels * 16;
  RunUnit(u, acc, ldacc);
  for (int64_t i = 0; i < u.m; ++i) {
    for (int64_t c = 0; c < cols; c += 16)
      StoreAny(y + i * ldy + c, Round(Load(acc + i * ldacc + c), round_bf16), cols - c);
  }
}

static void SwigluUnit(const PanelUnit& u, float* h, int64_t ldh, int64_t cols, bool round_bf16) {
  alignas(64) float acc[kUnitRows * kUnitPanels * 16];
  const int64_t ldacc = u.num_panels * 16;
  RunUnit(u, acc, ldacc);
  for (int64_t i = 0; i < u.m; ++i) {
    for (int64_t c = 0; c < cols; c += 16) {
      const V gate = Load(acc + i * ldacc + 2 * c);
      const V up = Load(acc + i * ldacc + 2 * c + 16);
      const V act = Mul(Mul(gate, Sigmoid(gate)), up);
      StoreAny(h + i * ldh + c, Round(act, round_bf16), cols - c);
    }
  }
}

}  // namespace atl::kernels::ATL_ISA
