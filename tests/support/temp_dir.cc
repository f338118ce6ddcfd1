#include "tests/support/temp_dir.h"

#include <cstdlib>
#include <filesystem>

#include "base/check.h"

namespace atl::testing {

TempDir::TempDir()
    : path_((std::filesystem::temp_directory_path() / "atoll-test-XXXXXX").string()) {
  ATL_CHECK(mkdtemp(path_.data()) != nullptr);
}

TempDir::~TempDir() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

}  // namespace atl::testing
