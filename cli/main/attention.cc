#include "cli/commands.h"
#include "cli/output.h"

int main(int argc, char** argv) {
  atl::cli::HoldStandardDescriptors();
  return atl::cli::EndOutput("atoll-attention",
                             atl::cli::RunAttention("atoll-attention", argc, argv));
}
