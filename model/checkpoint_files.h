// The safetensors of a checkpoint folder: which files, which tensor is in which.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/status.h"
#include "model/checkpoint.h"

namespace atl::model {

struct CheckpointFiles {
  std::vector<RandomAccessFile> files;   // sorted by name
  std::vector<std::string> names;        // as in the index, without the folder
  std::vector<std::string> raw_headers;  // the bytes of each file up to its data
  std::map<std::string, TensorInfo> tensors;
};

// Opens every file that model.safetensors.index.json names (its word decides where a tensor is), or
// model.safetensors, and reads their headers. NotFound, InvalidArgument, DataLoss: each names the
// file and what is wrong with it.
StatusOr<CheckpointFiles> OpenCheckpointFiles(const std::string& dir);

// Fingerprint of a checkpoint, see Checkpoint::revision().
StatusOr<std::string> ComputeRevision(const std::string& config_json, const CheckpointFiles& files);

}  // namespace atl::model
