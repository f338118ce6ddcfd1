// Checkpoints of random weights in any shape: to try, test and measure what no machine at hand
// could download.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "base/dtype.h"
#include "base/status.h"
#include "base/thread_pool.h"
#include "model/config.h"

namespace atl::model {

struct MakeModelOptions {
  ModelConfig config;          // see ResolveModelConfig, OverrideConfig; its fp8 is set by `dtype`
  DType dtype = DType::kBf16;  // kF8E4M3: FP8 blocks with weight_scale_inv where published
                               // checkpoints have them, else bf16
  uint64_t seed = 1;
  int64_t max_shard_bytes = int64_t{4} << 30;  // a file holds at least one tensor with its scale
  std::string tokenizer_dir;   // "": none; else its tokenizer files are copied, and vocab_size and
                               // ids follow them
  ThreadPool* pool = nullptr;  // null: the calling thread
  std::function<void(int64_t done_bytes, int64_t total_bytes)>
      progress;                // on the calling thread, before the first shard and after each
  std::function<bool()> stop;  // asked on any thread of the pool: true ends it with Cancelled
};

struct MadeModel {
  ModelConfig config;  // as written
  int64_t total_bytes = 0;
  int64_t num_files = 0;
  int64_t num_tensors = 0;
};

// Writes config.json, generation_config.json, model*.safetensors (and their index, if more than
// one) into `dir`, which is made if need be. A tensor's bytes depend on (seed, its name, its shape,
// dtype, the configuration's spreads) alone: not on shards or threads. Memory: a few MB a thread,
// whatever the model's size. AlreadyExists if `dir` holds a config.json or an index.
// InvalidArgument for what ParseModelConfig would refuse. ResourceExhausted when the disk has no
// room for all of it, before anything is written. config.json is written last, so a folder that has
// one is whole; of a file that was not finished nothing stays.
StatusOr<MadeModel> MakeModel(const MakeModelOptions& options, const std::string& dir);

}  // namespace atl::model
