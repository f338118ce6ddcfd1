#include "cli/commands.h"
#include "cli/program.h"

int main(int argc, char** argv) {
  return atl::cli::RunProgram("atoll-expert",
                              [&] { return atl::cli::RunExpert("atoll-expert", argc, argv); });
}
