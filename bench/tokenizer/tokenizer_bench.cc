// Prints how long a tokenizer takes to load and how fast one thread encodes and decodes.
// huggingface.py does the same with HuggingFace's `tokenizers`, for comparison.
#include <time.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>

#include "base/file.h"
#include "text/tokenizer.h"
#include "text/utf8.h"

namespace atl::text {
namespace {

// CPU seconds of this thread: what other processes do meanwhile does not count.
double Seconds() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// `text` in pieces of about `piece_bytes`, cut between characters.
std::vector<std::string> Cut(const std::string& text, size_t piece_bytes) {
  std::vector<std::string> pieces;
  for (size_t begin = 0; begin < text.size();) {
    size_t end = std::min(text.size(), begin + piece_bytes);
    if (end < text.size()) end = PreviousStart(text, end + 1);
    pieces.push_back(text.substr(begin, end - begin));
    begin = end;
  }
  return pieces;
}

Status Run(const std::string& dir, const std::vector<std::string>& files, size_t piece_bytes,
           int rounds) {
  const double start = Seconds();
  ATL_ASSIGN_OR_RETURN(const auto tokenizer, Tokenizer::Load(dir));
  std::printf("load %.3f s (CPU), %u ids\n", Seconds() - start, tokenizer->vocab_size());
  for (const std::string& file : files) {
    ATL_ASSIGN_OR_RETURN(const std::string bytes, ReadFile(file));
    const std::string text = ReplaceIllFormed(bytes);
    double best_encode = 1e9, best_decode = 1e9;
    size_t num_ids = 0;
    for (int round = 0; round < rounds; ++round) {
      std::vector<std::vector<uint32_t>> ids;
      const std::vector<std::string> pieces = Cut(text, piece_bytes);
      const double begin = Seconds();
      for (const std::string& piece : pieces) ids.push_back(tokenizer->Encode(piece, false));
      const double middle = Seconds();
      std::string decoded;
      for (const auto& list : ids) decoded += tokenizer->Decode(list, false);
      best_decode = std::min(best_decode, Seconds() - middle);
      best_encode = std::min(best_encode, middle - begin);
      if (decoded != text) return Internal("%s: decoding gives another text", file);
      num_ids = 0;
      for (const auto& list : ids) num_ids += list.size();
    }
    const double mega = static_cast<double>(text.size()) / 1e6;
    std::printf("%-40s %8.3f MB %9zu ids  encode %7.2f MB/s  decode %7.2f MB/s\n", file.c_str(),
                mega, num_ids, mega / best_encode, mega / best_decode);
  }
  return absl::OkStatus();
}

}  // namespace
}  // namespace atl::text

int main(int argc, char** argv) {
  CLI::App app("Speed of the tokenizer, on one thread");
  std::string dir = "models/demo";
  std::vector<std::string> files;
  size_t piece_bytes = 4096;
  int rounds = 5;
  app.add_option("--tokenizer", dir, "folder with tokenizer.json");
  app.add_option("--piece-bytes", piece_bytes, "a text is encoded in pieces of this size")
      ->check(CLI::PositiveNumber);
  app.add_option("--rounds", rounds, "the best of so many rounds is printed")
      ->check(CLI::PositiveNumber);
  app.add_option("texts", files, "text files")->required();
  CLI11_PARSE(app, argc, argv);
  const atl::Status status = atl::text::Run(dir, files, piece_bytes, rounds);
  if (!status.ok()) std::fprintf(stderr, "tokenizer_bench: %s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
