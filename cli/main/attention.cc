#include "cli/commands.h"
#include "cli/program.h"

int main(int argc, char** argv) {
  return atl::cli::RunProgram(
      "atoll-attention", [&] { return atl::cli::RunAttention("atoll-attention", argc, argv); });
}
