#include "cli/cluster_layout.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <set>

namespace atl::cli {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// A socket that listens on a free port of 127.0.0.1.
class Listener {
 public:
  Listener() : fd_(socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    EXPECT_EQ(bind(fd_, reinterpret_cast<sockaddr*>(&address), size), 0);
    EXPECT_EQ(listen(fd_, 1), 0);
    EXPECT_EQ(getsockname(fd_, reinterpret_cast<sockaddr*>(&address), &size), 0);
    port_ = ntohs(address.sin_port);
  }
  ~Listener() { close(fd_); }
  int port() const { return port_; }

 private:
  int fd_;
  int port_;
};

TEST(ReservedPortTest, APortInUseIsRefusedAndNamed) {
  const Listener listener;
  const auto port = ReservedPort::Reserve({"127.0.0.1", listener.port()});
  ASSERT_TRUE(absl::IsAlreadyExists(port.status()));
  EXPECT_THAT(std::string(port.status().message()),
              HasSubstr(absl::StrFormat("port %d of 127.0.0.1 is in use", listener.port())));
}

TEST(ReservedPortTest, FreePortsDifferAndAreKeptUntilTheyAreGivenUp) {
  std::vector<ReservedPort> ports;
  std::set<int> numbers;
  for (int i = 0; i < 50; ++i) {
    auto port = ReservedPort::Reserve({"127.0.0.1", 0});
    ASSERT_TRUE(port.ok()) << port.status();
    numbers.insert(port->where().port);
    ports.push_back(*std::move(port));
  }
  EXPECT_EQ(numbers.size(), 50);
  const rpc::HostPort first = ports[0].where();
  EXPECT_TRUE(absl::IsAlreadyExists(ReservedPort::Reserve(first).status()));
  ports.clear();
  EXPECT_TRUE(ReservedPort::Reserve(first).ok());
}

TEST(ReservedPortTest, AHostThatDoesNotExistIsAnError) {
  EXPECT_TRUE(absl::IsInvalidArgument(ReservedPort::Reserve({"no.such.host.invalid", 0}).status()));
}

ClusterOptions SomeOptions() {
  ClusterOptions options;
  options.num_routers = 2;
  options.num_attention = 3;
  options.num_experts = 4;
  options.node.model_dir = "models/demo";
  options.node.profile = "bf16";
  options.node.listen = "127.0.0.1:0";
  options.dispatch = "inline";
  options.memory_budget_bytes = 77;
  return options;
}

TEST(ClusterLayoutTest, EveryChildKnowsEveryRouter) {
  const auto layout = LayOutCluster(SomeOptions());
  ASSERT_TRUE(layout.ok()) << layout.status();
  ASSERT_EQ(layout->router_addresses.size(), 2);
  const std::string join =
      "--join=" + layout->router_addresses[0] + "," + layout->router_addresses[1];
  std::vector<std::string> names;
  for (const ChildSpec& child : layout->children) {
    names.push_back(child.name);
    EXPECT_EQ(child.arguments[0], child.role);
    EXPECT_THAT(child.arguments, Contains(join));
    EXPECT_THAT(child.arguments, Contains("--name=" + child.name));
  }
  EXPECT_THAT(names, ElementsAre("router-0", "router-1", "attention-0", "attention-1",
                                 "attention-2", "expert-0", "expert-1", "expert-2", "expert-3"));
  EXPECT_THAT(layout->children[1].arguments, Contains("--rank=1"));
  EXPECT_THAT(layout->children[1].arguments, Contains("--listen=" + layout->router_addresses[1]));
  EXPECT_THAT(layout->children[2].arguments, Contains("--dispatch=inline"));
  EXPECT_THAT(layout->children[8].arguments, Contains("--memory-budget=77"));
}

TEST(ClusterLayoutTest, ThePackedCacheIsOfAttentionAndExpertProcesses) {
  ClusterOptions options = SomeOptions();
  options.packed_cache = {.dir = "kept", .map = true};
  const auto layout = LayOutCluster(options);
  ASSERT_TRUE(layout.ok()) << layout.status();
  for (const ChildSpec& child : layout->children) {
    const bool holds = child.role != "router";
    for (const char* flag : {"--packed-cache=kept", "--map-weights=true"}) {
      EXPECT_EQ(std::count(child.arguments.begin(), child.arguments.end(), flag), holds ? 1 : 0)
          << child.name << " " << flag;
    }
  }
  options.packed_cache.dir = "";
  EXPECT_THAT(std::string(CheckClusterOptions(options).message()), HasSubstr("--map-weights"));
}

TEST(ClusterLayoutTest, RoutersOnEveryInterfaceAreJoinedOverLoopback) {
  ClusterOptions options = SomeOptions();
  options.node.listen = "0.0.0.0:0";
  const auto layout = LayOutCluster(options);
  ASSERT_TRUE(layout.ok()) << layout.status();
  EXPECT_THAT(layout->router_addresses[0], HasSubstr("127.0.0.1:"));
  EXPECT_THAT(layout->children[0].arguments,
              Contains(absl::StrFormat("--listen=0.0.0.0:%d", layout->ports[0].where().port)));
}

TEST(ClusterLayoutTest, CountsOutsideTheirRangeAreNamed) {
  ClusterOptions options = SomeOptions();
  options.num_experts = 0;
  EXPECT_THAT(std::string(CheckClusterOptions(options).message()),
              HasSubstr("--experts: expected 1 to 256, found 0"));
  options = SomeOptions();
  options.num_routers = 257;
  EXPECT_THAT(std::string(CheckClusterOptions(options).message()), HasSubstr("--routers"));
  EXPECT_TRUE(CheckClusterOptions(SomeOptions()).ok());
}

TEST(RestartBackoffTest, DoublesToFiveSecondsAndBeginsAgainAfterALongLife) {
  RestartBackoff backoff;
  std::vector<int64_t> delays;
  for (int i = 0; i < 8; ++i)
    delays.push_back(absl::ToInt64Milliseconds(backoff.Next(absl::Seconds(1))));
  EXPECT_THAT(delays, ElementsAre(100, 200, 400, 800, 1600, 3200, 5000, 5000));
  EXPECT_EQ(backoff.Next(absl::Seconds(10)), absl::Milliseconds(100));
  EXPECT_EQ(backoff.Next(absl::ZeroDuration()), absl::Milliseconds(200));
}

}  // namespace
}  // namespace atl::cli
