// What counting one value costs: our histogram beside prometheus-cpp's, from one thread and from
// all cores at once.
//   metrics_bench [--rounds N]
// Prints a row and a line of JSON a number of threads; nanoseconds a value and thread, the two turn
// by turn, medians.
#include <prometheus/histogram.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <thread>
#include <vector>

#include "bench/timing.h"
#include "metrics/histogram.h"

namespace atl::bench {
namespace {

constexpr int kValues = 200'000;  // a thread and measurement

// Nanoseconds a value while `threads` threads record at once.
template <typename Record>
double NsPerValue(int threads, const Record& record) {
  std::vector<std::thread> running;
  const double began = WallSeconds();
  for (int t = 0; t < threads; ++t) {
    running.emplace_back([&record] {
      for (int i = 0; i < kValues; ++i) record(1e-5 * (1 + (i * 7919) % 20'000));
    });
  }
  for (std::thread& thread : running) thread.join();
  return (WallSeconds() - began) * 1e9 / kValues;
}

void Measure(int threads, int rounds) {
  const std::vector<double> bounds(metrics::kSecondsBounds.begin(), metrics::kSecondsBounds.end());
  metrics::Histogram ours(bounds);
  prometheus::Histogram theirs{bounds};
  std::vector<double> ours_ns, theirs_ns;
  for (int i = 0; i < rounds; ++i) {
    ours_ns.push_back(NsPerValue(threads, [&](double value) { ours.Record(value); }));
    theirs_ns.push_back(NsPerValue(threads, [&](double value) { theirs.Observe(value); }));
  }
  std::printf("%d thread%s: %.1f ns a value, prometheus-cpp %.1f ns\n", threads,
              threads == 1 ? "" : "s", Median(ours_ns), Median(theirs_ns));
  std::printf(
      "{\"bench\": \"metrics\", \"threads\": %d, \"record_ns\": %.2f, \"prometheus_ns\": %.2f}\n",
      threads, Median(ours_ns), Median(theirs_ns));
}

}  // namespace
}  // namespace atl::bench

int main(int argc, char** argv) {
  int rounds = 15;
  CLI::App app("What counting one value costs");
  app.add_option("--rounds", rounds, "measurements of each")->check(CLI::Range(1, 1000));
  CLI11_PARSE(app, argc, argv);
  const int cores = static_cast<int>(std::thread::hardware_concurrency());
  atl::bench::Measure(1, rounds);
  if (cores > 1) atl::bench::Measure(cores, rounds);
  return 0;
}
