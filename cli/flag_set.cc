#include "cli/flag_set.h"

#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>
#include <algorithm>
#include <cctype>
#include <cmath>
#include <cstdio>
#include <functional>
#include <limits>
#include <type_traits>
#include <utility>

#include "absl/numeric/int128.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "base/status.h"

namespace atl::cli {
namespace {

struct Unit {
  const char* name;
  int64_t bytes;
};
constexpr Unit kUnits[] = {{"TiB", int64_t{1} << 40},
                           {"GiB", int64_t{1} << 30},
                           {"MiB", int64_t{1} << 20},
                           {"KiB", int64_t{1} << 10},
                           {"GB", 1000000000},
                           {"MB", 1000000},
                           {"KB", 1000},
                           {"B", 1}};

std::string FormatBytes(int64_t bytes) {
  for (const Unit& unit : kUnits) {
    const bool binary = unit.name[1] == 'i';
    if (binary && bytes >= unit.bytes && bytes % unit.bytes == 0) {
      return absl::StrFormat("%d%s", bytes / unit.bytes, unit.name);
    }
  }
  return absl::StrFormat("%d", bytes);
}

// What a number may be, both ends included.
template <typename T>
struct Range {
  T least = std::numeric_limits<T>::lowest();
  T most = std::numeric_limits<T>::max();
};

// A number of `range`. InvalidArgument says what was expected, and its kind.
template <typename T>
StatusOr<T> ParseNumber(const std::string& text, const Range<T>& range) {
  constexpr bool kWhole = std::is_integral_v<T>;
  std::conditional_t<kWhole, absl::int128, double> number;
  bool is_number;
  if constexpr (kWhole) {
    is_number = absl::SimpleAtoi(text, &number);
  } else {
    is_number = absl::SimpleAtod(text, &number) && std::isfinite(number);
  }
  if (!is_number)
    return InvalidArgument("expected a %s, found \"%s\"", kWhole ? "whole number" : "number", text);
  if (number >= range.least && number <= range.most) return static_cast<T>(number);
  const Range<T> any;
  if (range.least != any.least && range.most != any.most)
    return InvalidArgument("expected %s to %s, found %s", absl::StrCat(range.least),
                           absl::StrCat(range.most), text);
  return number < range.least
             ? InvalidArgument("expected at least %s, found %s", absl::StrCat(range.least), text)
             : InvalidArgument("expected at most %s, found %s", absl::StrCat(range.most), text);
}

std::optional<bool> ParseTruth(const std::string& text) {
  bool truth;
  if (!absl::SimpleAtob(text, &truth)) return std::nullopt;
  return truth;
}

int EditDistance(const std::string& a, const std::string& b) {
  std::vector<int> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    int diagonal = std::exchange(row[0], static_cast<int>(i));
    for (size_t j = 1; j <= b.size(); ++j) {
      const int replaced = diagonal + (a[i - 1] != b[j - 1]);
      diagonal = row[j];
      row[j] = std::min({replaced, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row[b.size()];
}

}  // namespace

std::string FlagVariable(const std::string& name) {
  std::string variable = "ATOLL_";
  for (size_t i = 2; i < name.size(); ++i) variable += name[i] == '-' ? '_' : std::toupper(name[i]);
  return variable;
}

std::string NearestWord(const std::string& word, const std::vector<std::string>& known) {
  std::string best;
  int best_distance = std::max<int>(2, word.size() / 3) + 1;
  for (const std::string& candidate : known) {
    const int distance = EditDistance(word, candidate);
    if (distance < best_distance) {
      best_distance = distance;
      best = candidate;
    }
  }
  return best;
}

std::optional<int64_t> ParseBytes(const std::string& text) {
  for (const Unit& unit : kUnits) {
    const std::string name = unit.name;
    if (text.size() <= name.size() ||
        text.compare(text.size() - name.size(), name.size(), name) != 0)
      continue;
    double count;
    if (!absl::SimpleAtod(text.substr(0, text.size() - name.size()), &count)) return std::nullopt;
    if (!(count >= 0 && count * unit.bytes < 9e18)) return std::nullopt;
    return static_cast<int64_t>(count * unit.bytes);
  }
  int64_t bytes;
  if (!absl::SimpleAtoi(text, &bytes) || bytes < 0) return std::nullopt;
  return bytes;
}

std::optional<absl::Duration> ParseSeconds(const std::string& text) {
  absl::Duration duration;
  double seconds;
  if (absl::SimpleAtod(text, &seconds)) {
    duration = absl::Seconds(seconds);
  } else if (!absl::ParseDuration(text, &duration)) {
    return std::nullopt;
  }
  if (!(duration >= absl::ZeroDuration())) return std::nullopt;
  return duration;
}

struct FlagSet::Impl {
  explicit Impl(const std::string& summary) : app(summary) {}

  CLI::App app;
  std::string command;
  std::vector<std::string> names = {"--help"};

  CLI::Option* Finish(const std::string& name, CLI::Option* option) {
    option->envname(FlagVariable(name));
    names.push_back(name);
    return option;
  }
  template <typename T>
  CLI::Option* AddValue(const std::string& name, T* value, const std::string& help) {
    return Finish(name, app.add_option(name, *value, help)->capture_default_str());
  }
  // A value (T, or an optional one) read by `parse`, whose error is a mistake; shown as `shown`.
  template <typename T, typename Value>
  CLI::Option* AddParsed(const std::string& name, Value* value,
                         std::function<StatusOr<T>(const std::string&)> parse,
                         const std::string& shown, const std::string& type,
                         const std::string& help) {
    const CLI::callback_t read = [name, value, parse](const CLI::results_t& results) {
      const StatusOr<T> parsed = parse(results.back());
      if (!parsed.ok()) throw CLI::ValidationError(name, std::string(parsed.status().message()));
      *value = *parsed;
      return true;
    };
    return Finish(name, app.add_option(name, read, help)->default_str(shown)->type_name(type));
  }
  template <typename T>
  CLI::Option* AddParsed(const std::string& name, T* value,
                         std::optional<T> (*parse)(const std::string&), const std::string& expected,
                         const std::string& shown, const std::string& type,
                         const std::string& help) {
    const auto read = [parse, expected](const std::string& text) -> StatusOr<T> {
      const std::optional<T> parsed = parse(text);
      if (parsed) return *parsed;
      return InvalidArgument("expected %s, found \"%s\"", expected, text);
    };
    return AddParsed<T>(name, value, read, shown, type, help);
  }
  template <typename T, typename Value>
  void AddNumber(const std::string& name, Value* value, const Range<T>& range,
                 const std::string& shown, const std::string& help) {
    const auto read = [range](const std::string& text) { return ParseNumber(text, range); };
    AddParsed<T>(name, value, read, shown, std::is_integral_v<T> ? "N" : "NUMBER", help);
  }
};

FlagSet::FlagSet(const std::string& command, const std::string& summary)
    : impl_(std::make_unique<Impl>(summary)) {
  impl_->command = command;
  impl_->app.name(command);
  impl_->app.allow_extras();
  impl_->app.get_formatter()->column_width(34);
  impl_->app.option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
}

FlagSet::~FlagSet() = default;

void FlagSet::Add(const std::string& name, std::string* value, const std::string& help) {
  impl_->AddValue(name, value, help);
}
void FlagSet::Add(const std::string& name, int* value, const std::string& help) {
  impl_->AddNumber<int>(name, value, {}, absl::StrCat(*value), help);
}
void FlagSet::Add(const std::string& name, int64_t* value, const std::string& help) {
  impl_->AddNumber<int64_t>(name, value, {}, absl::StrCat(*value), help);
}
void FlagSet::Add(const std::string& name, bool* value, const std::string& help) {
  impl_
      ->AddParsed(name, value, ParseTruth, "true or false", *value ? "true" : "false", "true|false",
                  help)
      ->expected(0)      // as a flag: bare, it is true
      ->expected(0, 1);  // and a value may follow
}
void FlagSet::Add(const std::string& name, std::optional<float>* value, const std::string& help) {
  impl_->AddNumber<float>(name, value, {}, "", help);
}
void FlagSet::Add(const std::string& name, std::optional<uint32_t>* value,
                  const std::string& help) {
  impl_->AddNumber<uint32_t>(name, value, {}, "", help);
}
void FlagSet::Add(const std::string& name, std::optional<uint64_t>* value,
                  const std::string& help) {
  impl_->AddNumber<uint64_t>(name, value, {}, "", help);
}
void FlagSet::Add(const std::string& name, absl::Duration* value, const std::string& help) {
  impl_->AddParsed(name, value, ParseSeconds, "a time such as 250ms, 10s or 2m",
                   absl::FormatDuration(*value), "TIME", help);
}
void FlagSet::AddBytes(const std::string& name, int64_t* value, const std::string& help) {
  impl_->AddParsed(name, value, ParseBytes,
                   "a size in bytes or with a unit: B, KB, MB, GB, KiB, MiB, GiB, TiB",
                   FormatBytes(*value), "BYTES", help);
}
void FlagSet::Add(const std::string& name, std::vector<std::string>* value,
                  const std::string& help) {
  impl_->AddValue(name, value, help)
      ->delimiter(',')
      ->allow_extra_args(false)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->type_name("A,B,...");
}
void FlagSet::AddRepeated(const std::string& name, std::vector<std::string>* value,
                          const std::string& help) {
  impl_->AddValue(name, value, help)
      ->allow_extra_args(false)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->type_name("TEXT");
}
void FlagSet::AddSwitch(const std::string& name, bool* value, const std::string& help) {
  impl_->Finish(name, impl_->app.add_flag(name, *value, help));
}
void FlagSet::AddOneOf(const std::string& name, std::string* value,
                       const std::vector<std::string>& choices, const std::string& help) {
  std::string shown;
  for (const std::string& choice : choices) shown += (shown.empty() ? "" : "|") + choice;
  auto check = [choices, shown](const std::string& text) {
    const bool known = std::find(choices.begin(), choices.end(), text) != choices.end();
    return known ? std::string() : absl::StrFormat("expected %s, found \"%s\"", shown, text);
  };
  impl_->AddValue(name, value, help)->type_name(shown)->check(CLI::Validator(check, ""));
}
void FlagSet::AddAtLeast(const std::string& name, int* value, int least, const std::string& help) {
  impl_->AddNumber<int>(name, value, {.least = least}, absl::StrCat(*value), help);
}
void FlagSet::AddAtLeast(const std::string& name, int64_t* value, int64_t least,
                         const std::string& help) {
  impl_->AddNumber<int64_t>(name, value, {.least = least}, absl::StrCat(*value), help);
}
void FlagSet::AddAtLeast(const std::string& name, std::optional<uint32_t>* value, uint32_t least,
                         const std::string& help) {
  impl_->AddNumber<uint32_t>(name, value, {.least = least}, "", help);
}
void FlagSet::AddInRange(const std::string& name, int* value, int least, int most,
                         const std::string& help) {
  impl_->AddNumber<int>(name, value, {.least = least, .most = most}, absl::StrCat(*value), help);
}
void FlagSet::AddInRange(const std::string& name, double* value, double least, double most,
                         const std::string& help) {
  impl_->AddNumber<double>(name, value, {.least = least, .most = most}, absl::StrCat(*value), help);
}
void FlagSet::AddHidden(const std::string& name, int* value) {
  impl_->app.add_option(name, *value, "")->group("");
}
void FlagSet::AddPositional(const std::string& name, std::string* value, const std::string& help) {
  impl_->app.add_option(name, *value, help);
}

std::optional<int> FlagSet::Parse(int argc, char** argv) {
  // "--name=" is an empty value, not one that follows. CLI11 takes the words from the back.
  std::vector<std::string> words;
  for (int i = argc - 1; i > 0; --i) {
    const std::string word = argv[i];
    const std::string name = word.substr(0, word.size() - (word.size() > 1 && word.back() == '='));
    const CLI::Option* option = name != word ? impl_->app.get_option_no_throw(name) : nullptr;
    const bool empty_value = option != nullptr && option->get_expected_max() > 0;
    if (empty_value) words.push_back("");
    words.push_back(empty_value ? name : word);
  }
  try {
    impl_->app.parse(words);
  } catch (const CLI::CallForHelp&) {
    std::printf("%s", impl_->app.help().c_str());
    return kExitOk;
  } catch (const CLI::ParseError& error) {
    return Mistake(error.what());
  }
  const std::vector<std::string> extras = impl_->app.remaining();
  if (extras.empty()) return std::nullopt;
  const std::string word = extras[0].substr(0, extras[0].find('='));
  if (word.rfind("-", 0) != 0) return Mistake("unexpected argument \"" + word + "\"");
  const std::string nearest = NearestWord(word, impl_->names);
  return Mistake("unknown flag " + word +
                 (nearest.empty() ? "" : "; did you mean " + nearest + "?"));
}

int FlagSet::Mistake(const std::string& message) const {
  std::fprintf(stderr, "%s: %s\n%s --help lists the flags.\n", impl_->command.c_str(),
               message.c_str(), impl_->command.c_str());
  return kExitUsage;
}

}  // namespace atl::cli
