// One line an event on stderr: "2026-01-02T03:04:05.678 I expert-2 text". Thread-safe.
#pragma once

#include <string>

#include "absl/strings/str_format.h"

namespace atl {

enum class LogLevel { kDebug, kInfo, kWarning, kError };

// Called once in main: `name` is this process's name in every line ("router-0"); lines under
// `level` are dropped.
void InitLog(const std::string& name, LogLevel level);

void LogLine(LogLevel level, const std::string& text);

template <typename... Args>
void LogDebug(const absl::FormatSpec<Args...>& format, const Args&... args) {
  LogLine(LogLevel::kDebug, absl::StrFormat(format, args...));
}
template <typename... Args>
void LogInfo(const absl::FormatSpec<Args...>& format, const Args&... args) {
  LogLine(LogLevel::kInfo, absl::StrFormat(format, args...));
}
template <typename... Args>
void LogWarning(const absl::FormatSpec<Args...>& format, const Args&... args) {
  LogLine(LogLevel::kWarning, absl::StrFormat(format, args...));
}
template <typename... Args>
void LogError(const absl::FormatSpec<Args...>& format, const Args&... args) {
  LogLine(LogLevel::kError, absl::StrFormat(format, args...));
}

}  // namespace atl
