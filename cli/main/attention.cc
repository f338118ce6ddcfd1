#include "cli/commands.h"

int main(int argc, char** argv) { return atl::cli::RunAttention("atoll-attention", argc, argv); }
