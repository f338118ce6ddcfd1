#include "cli/commands.h"

int main(int argc, char** argv) { return atl::cli::RunExpert("atoll-expert", argc, argv); }
