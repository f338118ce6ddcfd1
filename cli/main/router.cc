#include "cli/commands.h"
#include "cli/program.h"

int main(int argc, char** argv) {
  return atl::cli::RunProgram("atoll-router",
                              [&] { return atl::cli::RunRouter("atoll-router", argc, argv); });
}
