#include "cli/output.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>

#include "cli/flag_set.h"
#include "cli/server_loop.h"

namespace atl::cli {
namespace {

int first_error = 0;  // errno of the first write that failed; 0: none did

}  // namespace

void HoldStandardDescriptors() {
  for (int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (fcntl(fd, F_GETFD) >= 0 || errno != EBADF) continue;
    const int held = open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY);
    if (held >= 0 && held != fd) close(held);
  }
}

Status FlushOutput() {
  errno = 0;
  const bool flushed = std::fflush(stdout) == 0;
  const int error = errno;
  if (first_error == 0 && (!flushed || std::ferror(stdout) != 0))
    first_error = error != 0 ? error : EIO;
  return first_error == 0 ? absl::OkStatus() : ErrnoStatus(first_error, "writing to stdout");
}

int EndOutput(const std::string& command, int code) {
  const Status written = FlushOutput();
  if (written.ok()) return code;
  return first_error == EPIPE ? kExitFailure : Fail(command, written);
}

}  // namespace atl::cli
