#include "cli/commands.h"
#include "cli/output.h"

int main(int argc, char** argv) {
  atl::cli::HoldStandardDescriptors();
  return atl::cli::EndOutput("atoll-router", atl::cli::RunRouter("atoll-router", argc, argv));
}
