// A folder for one test's files.
#pragma once

#include <string>

namespace atl::testing {

// Made empty under the system's folder for temporary files, removed with all it holds when
// destroyed.
class TempDir {
 public:
  TempDir();
  ~TempDir();
  TempDir(const TempDir&) = delete;
  TempDir& operator=(const TempDir&) = delete;

  const std::string& path() const { return path_; }
  std::string File(const std::string& name) const { return path_ + "/" + name; }

 private:
  std::string path_;
};

}  // namespace atl::testing
