#include "cli/commands.h"

int main(int argc, char** argv) { return atl::cli::RunRouter("atoll-router", argc, argv); }
