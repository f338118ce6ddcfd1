#include "rpc/address.h"

#include <gtest/gtest.h>

namespace atl::rpc {
namespace {

TEST(AddressTest, ParsesHostsAndPorts) {
  const auto v4 = ParseHostPort("127.0.0.1:50051");
  ASSERT_TRUE(v4.ok()) << v4.status();
  EXPECT_EQ(v4->host, "127.0.0.1");
  EXPECT_EQ(v4->port, 50051);
  const auto v6 = ParseHostPort("[::1]:80");
  ASSERT_TRUE(v6.ok()) << v6.status();
  EXPECT_EQ(v6->host, "::1");
  EXPECT_EQ(v6->ToString(), "[::1]:80");
  const auto any = ParseHostPort(":0");
  ASSERT_TRUE(any.ok()) << any.status();
  EXPECT_TRUE(any->wildcard());
}

TEST(AddressTest, RefusesWhatIsNoAddress) {
  for (const char* bad : {"", "host", "host:", "host:x", "host:-1", "host:65536", "::1:80"}) {
    EXPECT_EQ(ParseHostPort(bad).status().code(), absl::StatusCode::kInvalidArgument) << bad;
  }
}

TEST(AddressTest, PlaintextStaysOnThisMachineUnlessAllowed) {
  for (const char* local :
       {"127.0.0.1:1", "127.8.9.1:1", "[::1]:1", "localhost:1", "unix:/run/a", "unix:@a"}) {
    EXPECT_TRUE(CheckPlaintext("listening on", local, false).ok()) << local;
  }
  for (const char* remote :
       {"0.0.0.0:1", ":1", "[::]:1", "10.0.0.1:1", "node-1:1", "128.0.0.1:1", "127.0.0.1"}) {
    const Status refused = CheckPlaintext("listening on", remote, false);
    EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition) << remote;
    EXPECT_NE(refused.message().find(remote), std::string::npos) << refused;
    EXPECT_TRUE(CheckPlaintext("listening on", remote, true).ok()) << remote;
  }
}

}  // namespace
}  // namespace atl::rpc
