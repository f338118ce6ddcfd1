// Command line flags: each has help, a default that is shown, and an environment variable
// (--max-running: ATOLL_MAX_RUNNING). What is said on the command line wins.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"

namespace atl::cli {

inline constexpr int kExitOk = 0;
inline constexpr int kExitFailure = 1;
inline constexpr int kExitUsage = 2;
inline constexpr int kExitInterrupted = 130;

// The flags of one command. Values must outlive it; what they hold when added is the default.
// Thread-compatible.
class FlagSet {
 public:
  // `command` as typed: "atoll serve".
  FlagSet(const std::string& command, const std::string& summary);
  ~FlagSet();

  void Add(const std::string& name, std::string* value, const std::string& help);
  void Add(const std::string& name, int* value, const std::string& help);
  void Add(const std::string& name, int64_t* value, const std::string& help);
  void Add(const std::string& name, bool* value,
           const std::string& help);  // --name, --name=true|false, --name true|false
  void Add(const std::string& name, absl::Duration* value,
           const std::string& help);  // "250ms", "10s"; bare: seconds
  void Add(const std::string& name, std::vector<std::string>* value,
           const std::string& help);  // comma-separated
  void Add(const std::string& name, std::optional<float>* value, const std::string& help);
  void Add(const std::string& name, std::optional<uint32_t>* value, const std::string& help);
  void Add(const std::string& name, std::optional<uint64_t>* value, const std::string& help);
  void AddBytes(const std::string& name, int64_t* value,
                const std::string& help);  // "512MiB", "4GiB"; bare: bytes
  void AddSwitch(const std::string& name, bool* value, const std::string& help);  // --name
  void AddRepeated(const std::string& name, std::vector<std::string>* value,
                   const std::string& help);  // may be said again
  void AddOneOf(const std::string& name, std::string* value,
                const std::vector<std::string>& choices, const std::string& help);
  void AddAtLeast(const std::string& name, int* value, int least, const std::string& help);
  void AddAtLeast(const std::string& name, int64_t* value, int64_t least, const std::string& help);
  void AddAtLeast(const std::string& name, std::optional<uint32_t>* value, uint32_t least,
                  const std::string& help);
  void AddInRange(const std::string& name, int* value, int least, int most,
                  const std::string& help);
  void AddInRange(const std::string& name, double* value, double least, double most,
                  const std::string& help);
  void AddHidden(const std::string& name, int* value);
  void AddPositional(const std::string& name, std::string* value, const std::string& help);

  // No value: go on. Else the process ends with it: 0 after --help, 2 after a mistake, which stderr
  // explains.
  std::optional<int> Parse(int argc, char** argv);
  // Says what is wrong with a flag's value; returns 2.
  int Mistake(const std::string& message) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// "ATOLL_MAX_RUNNING" of "--max-running".
std::string FlagVariable(const std::string& name);
// The word of `known` nearest to `word` if it is near enough to be what was meant, else "".
std::string NearestWord(const std::string& word, const std::vector<std::string>& known);

// "512MiB", "1.5GiB", "4096" (bytes). No value: not a size.
std::optional<int64_t> ParseBytes(const std::string& text);
// "250ms", "10s", "1.5" (seconds). No value: not a duration, or negative.
std::optional<absl::Duration> ParseSeconds(const std::string& text);

}  // namespace atl::cli
