#include "kernels/context.h"

#include "kernels_testing.h"

namespace atl::kernels {
namespace {

TEST(Context, NamesGoRoundTrip) {
  for (Isa isa : {Isa::kPortable, Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Vnni})
    EXPECT_EQ(*ParseIsa(IsaName(isa)), isa);
  EXPECT_EQ(*ParseIsa("auto"), BestIsa());
  const auto unknown = ParseIsa("sse9");
  EXPECT_EQ(unknown.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(unknown.status().ToString().find("sse9"), std::string::npos);
}

TEST(Context, BestIsSupportedAndTablesDiffer) {
  EXPECT_TRUE(IsaSupported(Isa::kPortable));
  EXPECT_TRUE(IsaSupported(BestIsa()));
  const KernelTable* last = nullptr;
  for (Isa isa : SupportedIsas()) {
    const auto ctx = MakeKernelContext(isa, nullptr);
    ASSERT_TRUE(ctx.ok());
    EXPECT_NE(ctx->table, last);
    last = ctx->table;
  }
}

TEST(Context, AnUnsupportedIsaIsRefused) {
  for (Isa isa : {Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Vnni}) {
    EXPECT_EQ(MakeKernelContext(isa, nullptr).ok(), IsaSupported(isa));
  }
}

}  // namespace
}  // namespace atl::kernels
