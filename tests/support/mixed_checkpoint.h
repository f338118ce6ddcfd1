// Checkpoints whose matrices are of more than one type.
#pragma once

#include <string>
#include <vector>

namespace atl::testing {

// Writes into the folder `dir` a golden preset's checkpoint in which `tensors` are float32, their
// values times 1 + 2^-12: none that bf16 holds, but for zeros. A mistake ends the test process.
void WriteMixedCheckpoint(const std::string& preset, const std::vector<std::string>& tensors,
                          const std::string& dir);

}  // namespace atl::testing
