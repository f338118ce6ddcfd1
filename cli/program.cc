#include "cli/program.h"

#include <cstdio>
#include <exception>
#include <new>
#include <system_error>

#include "cli/flag_set.h"
#include "cli/output.h"

namespace atl::cli {

namespace {

int RunCatching(const char* name, const std::function<int()>& run) {
  try {
    return run();
  } catch (const std::bad_alloc&) {
    std::fprintf(stderr, "%s: memory has run out\n", name);
  } catch (const std::system_error& error) {
    std::fprintf(stderr, "%s: the system refuses a thread or another resource: %s\n", name,
                 error.what());
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s: %s\n", name, error.what());
  }
  return kExitFailure;
}

}  // namespace

int RunProgram(const char* name, const std::function<int()>& run) {
  HoldStandardDescriptors();
  return EndOutput(name, RunCatching(name, run));
}

}  // namespace atl::cli
