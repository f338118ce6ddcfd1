// Prints how long a payload takes there and back over each kind of link, blocking, two threads
// (inproc-direct: one).
//   link_bench [--rows 64] [--hidden-size 2048] [--seconds 1] [--rounds 1] [--spin-us 0] [--apart]
//     [--kind inproc-direct,inproc,shm,unix,tcp]
// Kinds take turns, one in each round. One JSON line a kind: percentiles of the round trip in
// microseconds, payload bytes each way, GB/s both ways together.
#include <sched.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "bench/link/link_ends.h"
#include "transport/link.h"

namespace atl::transport {
namespace {

double NowUs() {
  return std::chrono::duration<double, std::micro>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

// Binds this thread to the n-th of the cores that the process might use when this was first called.
void BindTo(int n) {
  static const cpu_set_t allowed = [] {
    cpu_set_t cores;
    CPU_ZERO(&cores);
    sched_getaffinity(0, sizeof(cores), &cores);
    return cores;
  }();
  cpu_set_t one;
  CPU_ZERO(&one);
  for (int core = 0; core < CPU_SETSIZE; ++core) {
    if (CPU_ISSET(core, &allowed) && n-- == 0) CPU_SET(core, &one);
  }
  if (sched_setaffinity(0, sizeof(one), &one) != 0) std::perror("sched_setaffinity");
}

struct Options {
  double seconds = 1;
  int rounds = 1;
  int spin_us = 0;
  bool apart = false;
};

// inproc-direct has both ends on the near loop.
StatusOr<bench::LinkEnds> MakeEnds(const std::string& kind, EventLoop* near_loop,
                                   EventLoop* far_loop) {
  if (kind == "inproc-direct") return bench::MakeLinkEnds(LinkKind::kInproc, near_loop, near_loop);
  ATL_ASSIGN_OR_RETURN(const LinkKind known, ParseLinkKind(kind));
  return bench::MakeLinkEnds(known, near_loop, far_loop);
}

void Echo(Link* link) {
  link->SetCallbacks(
      [link](Frame frame) {
        const Status sent = link->Send(frame.header, std::move(frame.payload));
        if (!sent.ok()) std::fprintf(stderr, "%s\n", sent.ToString().c_str());
      },
      [](const Status&) {});
}

// Round trips for `seconds`, after a tenth of that to warm up; microseconds.
std::vector<double> RoundTrips(Link* link, EventLoop* loop, size_t bytes, double seconds) {
  Buffer payload(bytes);
  bool back = false;
  bool closed = false;
  link->SetCallbacks(
      [&](Frame frame) {
        payload = std::move(frame.payload);
        back = true;
      },
      [&](const Status& why) {
        std::fprintf(stderr, "%s\n", why.ToString().c_str());
        closed = true;
      });
  std::vector<double> times;
  const double begin = NowUs();
  while (!closed && (times.empty() || NowUs() < begin + seconds * 1.1e6)) {
    const double sent = NowUs();
    back = false;
    if (!link->Send({.type = FrameType::kDispatch, .rows = 1}, std::move(payload)).ok()) break;
    while (!back && !closed) loop->RunOnce(absl::Seconds(1));
    if (sent > begin + seconds * 1e5) times.push_back(NowUs() - sent);
  }
  return times;
}

// Adds round trips over a new link of that kind.
Status Measure(const std::string& kind, size_t bytes, const Options& options,
               std::vector<double>* us) {
  EventLoop near_loop, far_loop;
  near_loop.SetSpin(absl::Microseconds(options.spin_us));
  far_loop.SetSpin(absl::Microseconds(options.spin_us));
  ATL_ASSIGN_OR_RETURN(bench::LinkEnds ends, MakeEnds(kind, &near_loop, &far_loop));
  std::atomic<bool> stop{false};
  if (options.apart) BindTo(0);
  Echo(ends.far.get());
  std::thread far_thread;
  if (kind != "inproc-direct") {
    far_thread = std::thread([&] {
      if (options.apart) BindTo(1);
      while (!stop.load(std::memory_order_relaxed)) far_loop.RunOnce(absl::Milliseconds(50));
    });
  }
  const std::vector<double> times = RoundTrips(ends.near.get(), &near_loop, bytes, options.seconds);
  stop.store(true);
  if (far_thread.joinable()) far_thread.join();
  if (times.empty()) return Internal("%s: no round trip in %g s", kind, options.seconds);
  us->insert(us->end(), times.begin(), times.end());
  return absl::OkStatus();
}

void Print(const std::string& kind, size_t bytes, std::vector<double> us) {
  std::sort(us.begin(), us.end());
  const auto percentile = [&](double p) {
    return us[static_cast<size_t>(p * static_cast<double>(us.size() - 1))];
  };
  std::printf(
      "{\"bench\": \"link\", \"kind\": \"%s\", \"bytes_each_way\": %zu, \"round_trips\": %zu, "
      "\"p10_us\": %.1f, \"p50_us\": %.1f, \"p99_us\": %.1f, \"gb_per_s\": %.2f}\n",
      kind.c_str(), bytes, us.size(), percentile(0.1), percentile(0.5), percentile(0.99),
      2e-3 * static_cast<double>(bytes) / percentile(0.5));
}

}  // namespace
}  // namespace atl::transport

int main(int argc, char** argv) {
  CLI::App app{"How long rows take there and back over each kind of link."};
  int64_t rows = 64;
  int64_t hidden_size = 2048;
  atl::transport::Options options;
  std::vector<std::string> kinds = {"inproc-direct", "inproc", "shm", "unix", "tcp"};
  app.add_option("--rows", rows, "Rows of a payload")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app.add_option("--hidden-size", hidden_size, "bf16 values of a row")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app.add_option("--seconds", options.seconds, "For each kind, in each round")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--rounds", options.rounds, "Turns of each kind")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  app.add_option("--spin-us", options.spin_us, "Before a thread sleeps")
      ->check(CLI::Range(0, 1'000'000))
      ->capture_default_str();
  app.add_flag("--apart", options.apart, "Bind the two threads to two cores");
  app.add_option("--kind", kinds, "Kinds to measure")->delimiter(',')->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  const size_t bytes = static_cast<size_t>(rows * hidden_size * 2);
  std::map<std::string, std::vector<double>> us;
  for (int round = 0; round < options.rounds; ++round) {
    for (const std::string& kind : kinds) {
      const atl::Status status = atl::transport::Measure(kind, bytes, options, &us[kind]);
      if (status.ok()) continue;
      std::fprintf(stderr, "%s\n", status.ToString().c_str());
      return 1;
    }
  }
  for (const std::string& kind : kinds) atl::transport::Print(kind, bytes, us[kind]);
  return 0;
}
