#include "transport/endpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace atl::transport {
namespace {

TEST(EndpointTest, ParsesWhatItPrints) {
  for (const char* text : {"tcp:127.0.0.1:7000", "tcp:[::1]:7000", "tcp:some.host:0",
                           "unix:/run/x.sock", "unix:@abc"}) {
    const StatusOr<Endpoint> endpoint = ParseEndpoint(text);
    ASSERT_TRUE(endpoint.ok()) << endpoint.status();
    EXPECT_EQ(endpoint->ToString(), text);
  }
  EXPECT_EQ(ParseEndpoint("unix:@abc")->kind, LinkKind::kUnix);
  EXPECT_EQ(ParseEndpoint("tcp:h:1")->kind, LinkKind::kTcp);
}

TEST(EndpointTest, RefusesWhatIsNone) {
  const std::string long_path = "unix:/" + std::string(200, 'x');
  for (const std::string& text :
       {std::string("tcp"), std::string("tcp:"), std::string("tcp:host"), std::string("tcp:host:"),
        std::string("tcp:host:70000"), std::string("tcp:host:1x"), std::string("tcp::1"),
        std::string("tcp:::1:5"), std::string("unix:"), std::string("unix:@"),
        std::string("udp:h:1"), std::string(""), long_path}) {
    EXPECT_EQ(ParseEndpoint(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
}

TEST(EndpointTest, ResolvesNamesAndLeavesNumbers) {
  const StatusOr<Endpoint> local =
      ResolveEndpoint({.kind = LinkKind::kTcp, .address = "localhost:7000"});
  ASSERT_TRUE(local.ok()) << local.status();
  EXPECT_THAT(local->address, testing::AnyOf("127.0.0.1:7000", "[::1]:7000"));
  EXPECT_EQ(ResolveEndpoint({.kind = LinkKind::kTcp, .address = "[::1]:70"})->address, "[::1]:70");
  EXPECT_EQ(ResolveEndpoint({.kind = LinkKind::kUnix, .address = "@x"})->address, "@x");
}

TEST(TicketBookTest, WorksOnceForItsPeer) {
  TicketBook book;
  const Ticket a = book.Issue("attention-0");
  const Ticket b = book.Issue("router-1");
  EXPECT_NE(a, b);
  EXPECT_EQ(book.Redeem(b).value(), "router-1");
  EXPECT_EQ(book.Redeem(a).value(), "attention-0");
  EXPECT_EQ(book.Redeem(a).status().code(), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(book.Redeem(Ticket{}).status().code(), absl::StatusCode::kPermissionDenied);
}

TEST(TicketBookTest, Expires) {
  TicketBook book(absl::ZeroDuration());
  EXPECT_EQ(book.Redeem(book.Issue("x")).status().code(), absl::StatusCode::kPermissionDenied);
}

TEST(TicketBookTest, KeepsTheNewest1024) {
  TicketBook book;
  const Ticket first = book.Issue("first");
  const Ticket second = book.Issue("second");
  for (int i = 0; i < 1023; ++i) book.Issue("other");
  EXPECT_FALSE(book.Redeem(first).ok());
  EXPECT_EQ(book.Redeem(second).value(), "second");
}

}  // namespace
}  // namespace atl::transport
