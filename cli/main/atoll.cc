#include "cli/commands.h"

int main(int argc, char** argv) { return atl::cli::RunAtoll(argc, argv); }
