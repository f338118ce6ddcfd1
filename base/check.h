// ATL_CHECK(condition) << never: a programmer's mistake ends the process with the place and the
// text. Never for bytes from disk, wire or user: those give a Status.
#pragma once

#include <cstdio>
#include <cstdlib>

namespace atl {

[[noreturn]] inline void CheckFailed(const char* file, int line, const char* condition) {
  std::fprintf(stderr, "%s:%d: check failed: %s\n", file, line, condition);
  std::abort();
}

}  // namespace atl

#define ATL_CHECK(condition)                    \
  (__builtin_expect(!!(condition), 1) ? void(0) \
                                      : ::atl::CheckFailed(__FILE__, __LINE__, #condition))
#ifdef NDEBUG
#define ATL_DCHECK(condition) void(0)
#else
#define ATL_DCHECK(condition) ATL_CHECK(condition)
#endif
