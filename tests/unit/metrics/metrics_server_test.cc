#include "metrics/metrics_server.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <string>

namespace atl::metrics {
namespace {

std::string Get(const std::string& address) {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(static_cast<uint16_t>(std::stoi(address.substr(address.rfind(':') + 1))));
  inet_pton(AF_INET, "127.0.0.1", &to.sin_addr);
  EXPECT_EQ(connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof(to)), 0);
  const std::string request =
      "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
  EXPECT_EQ(write(fd, request.data(), request.size()), static_cast<ssize_t>(request.size()));
  std::string answer;
  char buffer[4096];
  for (ssize_t n; (n = read(fd, buffer, sizeof(buffer))) > 0;) answer.append(buffer, n);
  close(fd);
  return answer;
}

TEST(MetricsServerTest, TellsTheValuesOfTheMoment) {
  double steps = 1;
  auto server = MetricsServer::Start("127.0.0.1:0", [&] {
    return std::vector<Family>{Counter("atoll_steps_total", "Steps.", steps),
                               {.name = "atoll_rows",
                                .help = "Rows.",
                                .samples = {{.labels = {{"node", "expert-1"}}, .value = 2.5}}}};
  });
  ASSERT_TRUE(server.ok()) << server.status();
  EXPECT_NE(Get((*server)->address()).find("atoll_steps_total 1\n"), std::string::npos);
  steps = 7;
  const std::string later = Get((*server)->address());
  EXPECT_NE(later.find("# TYPE atoll_steps_total counter"), std::string::npos);
  EXPECT_NE(later.find("atoll_steps_total 7\n"), std::string::npos);
  EXPECT_NE(later.find("atoll_rows{node=\"expert-1\"} 2.5\n"), std::string::npos);
}

TEST(MetricsServerTest, TellsDistributionsAsHistograms) {
  constexpr std::array<double, 2> kBounds = {0.001, 0.25};
  Histogram waits(kBounds);
  for (const double value : {0.0005, 0.001, 0.125, 4.0}) waits.Record(value);
  auto server = MetricsServer::Start("127.0.0.1:0", [&] {
    std::vector<Family> all = {Counter("atoll_steps_total", "Steps.", 1)};
    Append({DistributionOf("atoll_wait_seconds", "Waits.", waits)}, &all);
    return all;
  });
  ASSERT_TRUE(server.ok()) << server.status();
  const std::string answer = Get((*server)->address());
  EXPECT_NE(answer.find("# HELP atoll_wait_seconds Waits.\n"
                        "# TYPE atoll_wait_seconds histogram\n"
                        "atoll_wait_seconds_count 4\n"
                        "atoll_wait_seconds_sum 4.1265\n"
                        "atoll_wait_seconds_bucket{le=\"0.001\"} 2\n"
                        "atoll_wait_seconds_bucket{le=\"0.25\"} 3\n"
                        "atoll_wait_seconds_bucket{le=\"+Inf\"} 4\n"),
            std::string::npos)
      << answer;
  EXPECT_NE(answer.find("atoll_steps_total 1\n"), std::string::npos);
}

TEST(MetricsServerTest, APortInUseIsAnError) {
  auto first = MetricsServer::Start("127.0.0.1:0", [] { return std::vector<Family>(); });
  ASSERT_TRUE(first.ok());
  EXPECT_EQ(MetricsServer::Start((*first)->address(), [] { return std::vector<Family>(); })
                .status()
                .code(),
            absl::StatusCode::kAlreadyExists);
}

// By itself the listener would look for its end every two seconds: four of them take 4 s on
// average.
TEST(MetricsServerTest, EndsAtOnce) {
  const auto begin = std::chrono::steady_clock::now();
  for (const char* listen : {"127.0.0.1:0", "0.0.0.0:0", "127.0.0.1:0", "0.0.0.0:0"}) {
    ASSERT_TRUE(MetricsServer::Start(listen, [] { return std::vector<Family>(); }).ok());
  }
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(3));
}

}  // namespace
}  // namespace atl::metrics
