#include "cli/commands.h"
#include "cli/program.h"

int main(int argc, char** argv) {
  return atl::cli::RunProgram("atoll", [&] { return atl::cli::RunAtoll(argc, argv); });
}
