#include "cli/commands.h"
#include "cli/output.h"

int main(int argc, char** argv) {
  atl::cli::HoldStandardDescriptors();
  return atl::cli::EndOutput("atoll-expert", atl::cli::RunExpert("atoll-expert", argc, argv));
}
