#include "cli/program.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <stdexcept>
#include <system_error>

#include "cli/flag_set.h"

namespace atl::cli {
namespace {

using ::testing::HasSubstr;

TEST(RunProgramTest, GivesTheCodeBack) {
  EXPECT_EQ(RunProgram("atoll", [] { return 7; }), 7);
}

TEST(RunProgramTest, WhatIsThrownIsAMessage) {
  ::testing::internal::CaptureStderr();
  EXPECT_EQ(RunProgram("atoll-a", []() -> int { throw std::bad_alloc(); }), kExitFailure);
  EXPECT_EQ(RunProgram("atoll-b",
                       []() -> int {
                         throw std::system_error(
                             std::make_error_code(std::errc::resource_unavailable_try_again));
                       }),
            kExitFailure);
  EXPECT_EQ(RunProgram("atoll-c", []() -> int { throw std::runtime_error("odd"); }), kExitFailure);
  const std::string said = ::testing::internal::GetCapturedStderr();
  EXPECT_THAT(said, HasSubstr("atoll-a: memory has run out\n"));
  EXPECT_THAT(said, HasSubstr("atoll-b: the system refuses a thread"));
  EXPECT_THAT(said, HasSubstr("atoll-c: odd\n"));
}

}  // namespace
}  // namespace atl::cli
