#include "cli/flag_set.h"

#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>
#include <algorithm>
#include <cctype>
#include <cstdio>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"

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
  // A value read by `parse`, shown as `shown`.
  template <typename T>
  void AddParsed(const std::string& name, T* value, std::optional<T> (*parse)(const std::string&),
                 const std::string& shown, const std::string& type, const std::string& help) {
    const CLI::callback_t read = [value, parse](const CLI::results_t& results) {
      const std::optional<T> parsed = parse(results.back());
      if (parsed) *value = *parsed;
      return parsed.has_value();
    };
    Finish(name, app.add_option(name, read, help)->default_str(shown)->type_name(type));
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
  impl_->AddValue(name, value, help);
}
void FlagSet::Add(const std::string& name, int64_t* value, const std::string& help) {
  impl_->AddValue(name, value, help);
}
void FlagSet::Add(const std::string& name, double* value, const std::string& help) {
  impl_->AddValue(name, value, help);
}
void FlagSet::Add(const std::string& name, bool* value, const std::string& help) {
  impl_->AddValue(name, value, help)
      ->default_str(*value ? "true" : "false")
      ->type_name("true|false")
      ->expected(0)      // as a flag: bare, it is true
      ->expected(0, 1);  // and a value may follow
}
void FlagSet::Add(const std::string& name, std::optional<float>* value, const std::string& help) {
  impl_->Finish(name, impl_->app.add_option(name, *value, help)->type_name("NUMBER"));
}
void FlagSet::Add(const std::string& name, std::optional<uint32_t>* value,
                  const std::string& help) {
  impl_->Finish(name, impl_->app.add_option(name, *value, help)->type_name("N"));
}
void FlagSet::Add(const std::string& name, std::optional<uint64_t>* value,
                  const std::string& help) {
  impl_->Finish(name, impl_->app.add_option(name, *value, help)->type_name("N"));
}
void FlagSet::Add(const std::string& name, absl::Duration* value, const std::string& help) {
  impl_->AddParsed(name, value, ParseSeconds, absl::FormatDuration(*value), "TIME", help);
}
void FlagSet::AddBytes(const std::string& name, int64_t* value, const std::string& help) {
  impl_->AddParsed(name, value, ParseBytes, FormatBytes(*value), "BYTES", help);
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
  auto check = [least](const std::string& text) {
    int64_t number = 0;  // what is no number at all is told by the parser
    const bool less = absl::SimpleAtoi(text, &number) && number < least;
    return less ? absl::StrFormat("expected at least %d, found %s", least, text) : std::string();
  };
  impl_->AddValue(name, value, help)->check(CLI::Validator(check, ""));
}
void FlagSet::AddHidden(const std::string& name, int* value) {
  impl_->app.add_option(name, *value, "")->group("");
}
void FlagSet::AddPositional(const std::string& name, std::string* value, const std::string& help) {
  impl_->app.add_option(name, *value, help);
}

std::optional<int> FlagSet::Parse(int argc, char** argv) {
  try {
    impl_->app.parse(argc, argv);
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
