// What this machine can do at most: reading DRAM, and arithmetic in registers by instruction.
//   roof_bench [--threads N,...] [--rounds N]
// Prints a table and one line of JSON. The values of one run take turns; medians.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <string>
#include <thread>
#include <vector>

#include "bench/arithmetic_roof.h"
#include "bench/roof.h"
#include "bench/timing.h"

namespace atl::bench {
namespace {

void Measure(int threads, int rounds, const Buffer& memory) {
  ThreadPool pool({.num_threads = threads, .spin = absl::Milliseconds(1)});
  std::vector<Arithmetic> kinds;
  for (const Arithmetic kind : AllArithmetic()) {
    if (ArithmeticSupported(kind)) kinds.push_back(kind);
  }
  std::vector<double> reads;
  std::vector<std::vector<double>> gops(kinds.size());
  for (int i = 0; i < rounds; ++i) {
    reads.push_back(ReadGbps(&pool, memory));
    for (size_t k = 0; k < kinds.size(); ++k) gops[k].push_back(ArithmeticGops(&pool, kinds[k]));
  }
  std::printf("%d thread%s\n", threads, threads == 1 ? "" : "s");
  std::printf("  %-30s %8.1f GB/s\n", "read DRAM", Median(reads));
  for (size_t k = 0; k < kinds.size(); ++k)
    std::printf("  %-30s %8.1f Gop/s\n", ArithmeticName(kinds[k]), Median(gops[k]));
  std::printf("{\"bench\": \"roof\", \"threads\": %d, \"read_gbps\": %.2f", threads, Median(reads));
  for (size_t k = 0; k < kinds.size(); ++k)
    std::printf(", \"%s\": %.1f", ArithmeticName(kinds[k]), Median(gops[k]));
  std::printf("}\n");
}

}  // namespace
}  // namespace atl::bench

int main(int argc, char** argv) {
  std::vector<int> threads;
  int rounds = 15;
  CLI::App app("What this machine can do at most");
  app.add_option("--threads", threads, "thread counts; one and all cores if not given")
      ->delimiter(',')
      ->check(CLI::Range(1, 1024));
  app.add_option("--rounds", rounds, "measurements of each value")->check(CLI::Range(1, 1000));
  CLI11_PARSE(app, argc, argv);
  if (threads.empty()) {
    const int cores = static_cast<int>(std::thread::hardware_concurrency());
    threads = cores > 1 ? std::vector<int>{1, cores} : std::vector<int>{1};
  }
  const atl::Buffer memory = atl::bench::MakeRoofMemory();
  for (const int count : threads) atl::bench::Measure(count, rounds, memory);
  return 0;
}
