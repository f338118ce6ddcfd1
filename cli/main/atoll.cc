#include "cli/commands.h"
#include "cli/output.h"

int main(int argc, char** argv) {
  atl::cli::HoldStandardDescriptors();
  return atl::cli::EndOutput("atoll", atl::cli::RunAtoll(argc, argv));
}
