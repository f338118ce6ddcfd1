// Prints what MatMul, GroupedFfn and MlaAttend reach, as GB/s (of weights, of cache) and GFLOP/s,
// beside two roofs of the same machine measured in the same run, in turns with them: reading DRAM,
// and arithmetic in registers: fma, or the integer products that quantised weights take.
//   kernels_bench [--threads N] [--isa auto|avx512vnni|avx512|avx2|portable] [--seconds S]
//                 [--format f32|bf16|q8|q4] [--rows M]
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <ctime>
#include <string>
#include <vector>

#include "base/buffer.h"
#include "bench/product_roof.h"
#include "bench/roof.h"
#include "kernels/ffn.h"
#include "kernels/matmul.h"
#include "kernels/mla.h"

namespace atl::kernels {
namespace {

constexpr int64_t kColdBytes =
    int64_t{384}
    << 20;  // weights passed over between two uses of the same ones: far more than any cache

// Seconds of the clock that suits the run: one thread counts the time it had the core, which a busy
// machine disturbs less; several count the wall's.
double Now(bool one_thread) {
  timespec t;
  clock_gettime(one_thread ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

// Seconds of the tenth percentile of the calls of `fn` that fit in `seconds` (at least five): what
// a call takes when nobody else takes the core or the memory away, for roofs and kernels alike.
template <typename Fn>
double GoodSeconds(bool one_thread, double seconds, Fn fn) {
  std::vector<double> times;
  for (const double until = Now(one_thread) + seconds;
       Now(one_thread) < until || times.size() < 5;) {
    const double begin = Now(one_thread);
    fn();
    times.push_back(Now(one_thread) - begin);
  }
  std::sort(times.begin(), times.end());
  return times[times.size() / 10];
}

struct Bench {
  KernelContext ctx;
  Isa isa;
  ThreadPool* pool;
  double seconds;
  int64_t only_rows;
  Buffer cold{static_cast<size_t>(kColdBytes)};
  std::vector<double> sink = std::vector<double>(1024);

  template <typename Fn>
  double Good(double for_seconds, Fn fn) {
    return GoodSeconds(pool->num_threads() == 1, for_seconds, fn);
  }

  double ReadRoof() {
    constexpr int64_t kPiece = int64_t{1} << 20, kPieces = 16;
    int64_t next = 0;
    const double s = Good(seconds, [&] {
      const std::byte* begin =
          cold.data() + next++ % (kColdBytes / (kPiece * kPieces)) * kPiece * kPieces;
      pool->ParallelFor(kPieces,
                        [&](int64_t i) { sink[i] = bench::ReadOnce(begin + i * kPiece, kPiece); });
    });
    return kPiece * kPieces / s / 1e9;
  }

  // 0 where there is none.
  double Roof(bool quantized) {
    const auto kind = bench::ProductArithmetic(isa, quantized);
    if (!kind.has_value()) return 0;
    double ops = 0;
    const double s = Good(seconds, [&] { ops = bench::RunArithmetic(pool, *kind); });
    return ops / s / 1e9;
  }
  double FmaRoof() { return Roof(/*quantized=*/false); }

  double ArithmeticRoof(WeightFormat format) { return Roof(IsQuantized(format)); }

  // `rows` query rows, each of a sequence of its own with `position` keys before it; bf16 cache, R
  // 512, Dr 64.
  void Attention(int64_t heads, int64_t rows, int64_t position) {
    const MlaShape shape = {.num_heads = heads,
                            .kv_lora_rank = 512,
                            .qk_rope_head_dim = 64,
                            .softmax_scale = 0.1f,
                            .cache_type = DType::kBf16};
    const int64_t block_bytes = CacheBlockBytes(shape), blocks = position / kCacheBlock + 1;
    std::vector<std::vector<const std::byte*>> table(rows);
    std::vector<MlaRow> row;
    int64_t next = 0;
    for (auto& list : table) {
      for (int64_t b = 0; b < blocks; ++b)
        list.push_back(cold.data() + next++ % (kColdBytes / block_bytes) * block_bytes);
      row.push_back({.block = list.data(), .position = static_cast<int32_t>(position)});
    }
    std::vector<float> q(rows * heads * 512, 0.01f), q_rope(rows * heads * 64, 0.01f),
        out(q.size());
    std::vector<float> scratch(MlaScratch(ctx, shape, row));
    const double roof = ReadRoof(), fma = FmaRoof();
    const double s = Good(2 * seconds, [&] {
      MlaAttend(ctx, shape, row, q.data(), q_rope.data(), out.data(), Rounding::kNone,
                scratch.data());
    });
    const double keys = static_cast<double>(rows) * (position + 1);
    const double gbs = keys * 576 * 2 / s / 1e9, gflops = 2 * keys * heads * (576 + 512) / s / 1e9;
    std::printf("mla   H %4ld rows %4ld at %5ld  %4.1f %6.1f %6.2f  %8.1f %7.1f %6.2f  %9.1f\n",
                heads, rows, position, gbs, roof, gbs / roof, gflops, fma,
                fma > 0 ? gflops / fma : 0, s * 1e6);
  }

  // DeepSeek-V2-Lite's layer (D 2048, F 1408): `experts` jobs of `m` rows each.
  void Ffn(WeightFormat format, int64_t experts, int64_t m) {
    constexpr int64_t kD = 2048, kF = 1408;
    std::vector<FfnWeights> w(format == WeightFormat::kQ4   ? 72
                              : format == WeightFormat::kQ8 ? 48
                                                            : 24);
    const std::vector<float> rows(16 * kD, 0.01f);
    for (FfnWeights& expert : w) {
      expert = FfnWeights(format, kD, kF);
      for (PackedMatrix* matrix : {&expert.gate, &expert.up, &expert.down}) {
        for (int64_t i = 0; i < matrix->num_panels(); ++i) matrix->FillPanel(i, rows.data());
      }
    }
    std::vector<float> x(m * kD, 0.25f), out(experts * m * kD);
    std::vector<FfnJob> jobs(experts);
    for (int64_t j = 0; j < experts; ++j) {
      jobs[j] = {
          .w = w.data(), .x = x.data(), .ldx = kD, .m = m, .out = &out[j * m * kD], .ldo = kD};
    }
    std::vector<float> scratch(GroupedFfnScratch(jobs));
    const Rounding act = IsQuantized(format) ? Rounding::kNone : Rounding::kBf16;
    const double roof = ReadRoof(), fma = ArithmeticRoof(format);
    size_t next = 0;
    const double s = Good(2 * seconds, [&] {
      for (FfnJob& job : jobs) job.w = &w[next++ % w.size()];
      GroupedFfn(ctx, jobs, act, Rounding::kBf16, scratch.data());
    });
    const double weights = 3.0 * kD * kF * experts;
    const double bytes =
        static_cast<double>(experts * (w[0].gate.bytes() + w[0].up.bytes() + w[0].down.bytes()));
    const double gbs = bytes / s / 1e9, gflops = 2 * weights * m / s / 1e9;
    std::printf("ffn %-4s experts %2ld rows %3ld    %5.1f %6.1f %6.2f  %8.1f %7.1f %6.2f  %9.1f\n",
                WeightFormatName(format), experts, m, gbs, roof, gbs / roof, gflops, fma,
                fma > 0 ? gflops / fma : 0, s * 1e6);
  }

  void Shape(WeightFormat format, int64_t n, int64_t k) {
    std::vector<PackedMatrix> w;
    std::vector<float> rows(16 * k, 0.5f);  // content costs no time
    for (int64_t bytes = 0; bytes < kColdBytes; bytes += w.back().bytes()) {
      w.emplace_back(format, n, k);
      for (int64_t i = 0; i < w.back().num_panels(); ++i) w.back().FillPanel(i, rows.data());
    }
    for (int64_t m : {1, 2, 4, 8, 16, 64, 256, 512}) {
      if (only_rows > 0 && m != only_rows) continue;
      std::vector<float> x(m * k, 0.25f), y(m * n);
      size_t next = 0;
      const double roof = ReadRoof(), fma = ArithmeticRoof(format);
      const double s = Good(2 * seconds, [&] {
        const MatMulJob job = {
            .w = &w[next++ % w.size()], .x = x.data(), .ldx = k, .m = m, .y = y.data(), .ldy = n};
        MatMul(ctx, job);
      });
      const double gbs = w[0].bytes() / s / 1e9, gflops = 2.0 * m * n * k / s / 1e9;
      std::printf("%-5s %6ld %6ld %4ld  %8.1f %6.1f %6.2f  %8.1f %7.1f %6.2f  %9.1f\n",
                  WeightFormatName(format), n, k, m, gbs, roof, gbs / roof, gflops, fma,
                  fma > 0 ? gflops / fma : 0, s * 1e6);
    }
  }
};

int Main(int argc, char** argv) {
  int threads = 1;
  std::string isa_name = "auto";
  std::string format_name;
  double seconds = 0.1;
  int64_t only_rows = 0;
  CLI::App app("MatMul beside the roofs of this machine");
  app.add_option("--threads", threads, "threads of the pool")->check(CLI::Range(1, 256));
  app.add_option("--isa", isa_name, "instruction set: auto, avx512vnni, avx512, avx2 or portable");
  app.add_option("--seconds", seconds, "time of each measurement")->check(CLI::Range(0.001, 60.0));
  app.add_option("--format", format_name, "only weights of this format: f32, bf16, q8 or q4");
  app.add_option("--rows", only_rows, "only products of this many rows");
  CLI11_PARSE(app, argc, argv);

  ThreadPool pool({.num_threads = threads, .spin = absl::Milliseconds(1)});
  const StatusOr<Isa> isa = ParseIsa(isa_name);
  const StatusOr<KernelContext> ctx = isa.ok() ? MakeKernelContext(*isa, &pool) : isa.status();
  if (!ctx.ok()) {
    std::fprintf(stderr, "kernels_bench: %s\n", ctx.status().ToString().c_str());
    return 1;
  }
  Bench bench = {
      .ctx = *ctx, .isa = *isa, .pool = &pool, .seconds = seconds, .only_rows = only_rows};
  std::fill_n(bench.cold.as<char>(), bench.cold.size(),
              1);  // pages of its own, not the one page of zeros
  std::printf("%s, %d threads; tenth percentiles; roofs: DRAM read, arithmetic in registers\n",
              IsaName(*isa), threads);
  std::printf("%-5s %6s %6s %4s  %8s %6s %6s  %8s %7s %6s  %9s\n", "", "N", "K", "m", "GB/s",
              "roof", "share", "GFLOP/s", "roof", "share", "us");
  for (int64_t heads : {16, 128}) {
    if (!format_name.empty() || only_rows > 0) break;
    for (int64_t position : {100, 1000, 4000}) bench.Attention(heads, 1, position);
    bench.Attention(heads, 16, 500);
  }
  for (WeightFormat format :
       {WeightFormat::kQ8, WeightFormat::kQ4, WeightFormat::kBf16, WeightFormat::kF32}) {
    if (!format_name.empty() && format_name != WeightFormatName(format)) continue;
    for (int64_t m : {1, 4, 16, 64, 192}) {
      if (only_rows == 0 || m == only_rows) bench.Ffn(format, 6, m);
    }
    bench.Shape(format, 1408, 2048);
    bench.Shape(format, 2048, 1408);
    bench.Shape(format, 2048, 7168);
    bench.Shape(format, 7168, 2048);
  }
  return 0;
}

}  // namespace
}  // namespace atl::kernels

int main(int argc, char** argv) { return atl::kernels::Main(argc, argv); }
