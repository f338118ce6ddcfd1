#include "model/make_model.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "base/file.h"
#include "model/config_json.h"
#include "model/encode.h"
#include "model/layout.h"
#include "model/random_weights.h"
#include "model/safetensors_writer.h"
#include "model/tokenizer_files.h"

namespace atl::model {
namespace {

constexpr int64_t kJobElements = int64_t{1} << 18;  // a job's float32 values: 1 MiB

// A tensor of the file being written, and what its values are drawn from.
struct PlannedTensor {
  SafetensorsEntry entry;
  uint64_t key = 0;
  Spread spread;
  DType dtype = DType::kBf16;
  int64_t rows = 0;
  int64_t columns = 0;
  bool is_scale = false;  // written by the job of the matrix before it
};

using Shard = std::vector<PlannedTensor>;

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

int64_t TensorBytes(const PlannedTensor& tensor) {
  return tensor.rows * tensor.columns * DTypeBytes(tensor.dtype);
}

DType StoredType(const TensorSpec& spec, DType dtype) {
  if (spec.float32) return DType::kF32;
  if (dtype != DType::kF8E4M3) return dtype;
  return spec.quantized ? DType::kF8E4M3 : DType::kBf16;
}

// An MTP layer's embedding and head are copies of the main model's, as in published checkpoints.
std::string StreamName(const ModelConfig& c, const TensorSpec& spec) {
  if (spec.part == ModelPart::kEmbedding) return "model.embed_tokens.weight";
  if (spec.part == ModelPart::kHead)
    return c.tie_word_embeddings ? "model.embed_tokens.weight" : "lm_head.weight";
  return spec.name;
}

PlannedTensor PlanTensor(const ModelConfig& c, const TensorSpec& spec, const WeightSpreads& spreads,
                         const MakeModelOptions& options) {
  PlannedTensor tensor;
  tensor.dtype = StoredType(spec, options.dtype);
  tensor.entry = {.name = spec.name, .dtype = DTypeName(tensor.dtype), .shape = spec.shape};
  tensor.key = TensorKey(options.seed, StreamName(c, spec));
  tensor.spread = spreads.Of(spec);
  if (spec.part == ModelPart::kHead && c.tie_word_embeddings) {
    tensor.spread = spreads.Of({.part = ModelPart::kEmbedding});
  }
  tensor.rows = spec.shape.size() == 2 ? spec.shape[0] : 1;
  tensor.columns = spec.shape.back();
  return tensor;
}

PlannedTensor PlanScale(const ModelConfig& c, const PlannedTensor& matrix) {
  PlannedTensor scale;
  scale.dtype = DType::kF32;
  scale.rows = CeilDiv(matrix.rows, c.fp8_block);
  scale.columns = CeilDiv(matrix.columns, c.fp8_block);
  scale.entry = {.name = matrix.entry.name + "_scale_inv",
                 .dtype = "F32",
                 .shape = {scale.rows, scale.columns}};
  scale.is_scale = true;
  return scale;
}

// Cuts the model's tensors into files; a matrix and its scale stay together.
std::vector<Shard> PlanShards(const ModelConfig& c, const MakeModelOptions& options) {
  const WeightSpreads spreads(c);
  std::vector<Shard> shards(1);
  int64_t shard_bytes = 0;
  ForEachTensor(c, [&](const TensorSpec& spec) {
    const PlannedTensor tensor = PlanTensor(c, spec, spreads, options);
    Shard pieces = {tensor};
    if (tensor.dtype == DType::kF8E4M3) pieces.push_back(PlanScale(c, tensor));
    int64_t bytes = 0;
    for (const PlannedTensor& piece : pieces) bytes += TensorBytes(piece);
    if (!shards.back().empty() && shard_bytes + bytes > options.max_shard_bytes) {
      shards.emplace_back();
      shard_bytes = 0;
    }
    shards.back().insert(shards.back().end(), pieces.begin(), pieces.end());
    shard_bytes += bytes;
  });
  return shards;
}

// Rows [row_begin, row_end) of tensor `index` of a shard. Of FP8 matrices whole rows of blocks.
struct Job {
  size_t index = 0;
  int64_t row_begin = 0;
  int64_t row_end = 0;
};

std::vector<Job> PlanJobs(const Shard& shard, int64_t fp8_block) {
  std::vector<Job> jobs;
  for (size_t i = 0; i < shard.size(); ++i) {
    const PlannedTensor& tensor = shard[i];
    if (tensor.is_scale) continue;
    const int64_t step = tensor.dtype == DType::kF8E4M3
                             ? fp8_block
                             : std::max<int64_t>(1, kJobElements / tensor.columns);
    for (int64_t row = 0; row < tensor.rows; row += step) {
      jobs.push_back({.index = i, .row_begin = row, .row_end = std::min(row + step, tensor.rows)});
    }
  }
  return jobs;
}

// Divides one row of blocks by its scales, in place; scale = largest magnitude / 448, as DeepSeek's
// quantisation has it.
std::vector<float> ScaleBlocks(std::vector<float>& values, int64_t columns, int64_t block) {
  const int64_t rows = static_cast<int64_t>(values.size()) / columns;
  std::vector<float> scale(CeilDiv(columns, block));
  for (size_t b = 0; b < scale.size(); ++b) {
    const int64_t begin = static_cast<int64_t>(b) * block;
    const int64_t end = std::min(columns, begin + block);
    float largest = 0;
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t k = begin; k < end; ++k)
        largest = std::max(largest, std::fabs(values[r * columns + k]));
    }
    scale[b] = largest > 0 ? largest / kF8E4M3Max : 1;
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t k = begin; k < end; ++k) values[r * columns + k] /= scale[b];
    }
  }
  return scale;
}

Status RunJob(const Shard& shard, const Job& job, int64_t fp8_block,
              const SafetensorsWriter& writer) {
  const PlannedTensor& tensor = shard[job.index];
  const int64_t first = job.row_begin * tensor.columns;
  std::vector<float> values((job.row_end - job.row_begin) * tensor.columns);
  FillRandom(tensor.key, first, values.size(), tensor.spread.mean, tensor.spread.stddev,
             values.data());
  if (tensor.dtype == DType::kF8E4M3) {
    const std::vector<float> scale = ScaleBlocks(values, tensor.columns, fp8_block);
    const int64_t row_bytes = static_cast<int64_t>(scale.size()) * 4;
    ATL_RETURN_IF_ERROR(writer.WriteAt(job.index + 1, job.row_begin / fp8_block * row_bytes,
                                       scale.data(), row_bytes));
  }
  const int64_t element_bytes = DTypeBytes(tensor.dtype);
  const int64_t bytes = static_cast<int64_t>(values.size()) * element_bytes;
  const auto raw = std::make_unique_for_overwrite<std::byte[]>(bytes);
  NarrowFromF32(tensor.dtype, values.data(), values.size(), raw.get());
  return writer.WriteAt(job.index, first * element_bytes, raw.get(), bytes);
}

Status WriteShard(const Shard& shard, const std::string& path, int64_t fp8_block,
                  const MakeModelOptions& options) {
  std::vector<SafetensorsEntry> entries;
  for (const PlannedTensor& tensor : shard) entries.push_back(tensor.entry);
  ATL_ASSIGN_OR_RETURN(SafetensorsWriter writer,
                       SafetensorsWriter::Create(path, entries, {{"format", "pt"}}));
  const std::vector<Job> jobs = PlanJobs(shard, fp8_block);
  absl::Mutex mu;
  Status first_error ABSL_GUARDED_BY(mu);
  std::atomic<bool> failed = false;
  const auto run = [&](int64_t i) {
    if (failed.load(std::memory_order_relaxed)) return;
    const bool stopped = options.stop && options.stop();
    const Status status =
        stopped ? Cancelled("stopped") : RunJob(shard, jobs[i], fp8_block, writer);
    if (status.ok()) return;
    failed = true;
    absl::MutexLock lock(&mu);
    first_error.Update(status);
  };
  if (options.pool != nullptr) {
    options.pool->ParallelFor(static_cast<int64_t>(jobs.size()), run);
  } else {
    for (size_t i = 0; i < jobs.size(); ++i) run(static_cast<int64_t>(i));
  }
  {
    absl::MutexLock lock(&mu);
    ATL_RETURN_IF_ERROR(first_error);
  }
  return writer.Finish();
}

std::string ShardName(size_t index, size_t count) {
  if (count == 1) return "model.safetensors";
  return absl::StrFormat("model-%05d-of-%05d.safetensors", index + 1, count);
}

Status WriteIndex(const std::vector<Shard>& shards, int64_t total_bytes, const std::string& dir) {
  nlohmann::json map = nlohmann::json::object();
  for (size_t i = 0; i < shards.size(); ++i) {
    for (const PlannedTensor& tensor : shards[i])
      map[tensor.entry.name] = ShardName(i, shards.size());
  }
  const nlohmann::json index = {{"metadata", {{"total_size", total_bytes}}},
                                {"weight_map", std::move(map)}};
  return WriteFileAtomically(dir + "/model.safetensors.index.json", index.dump(1) + "\n");
}

// The configuration as it will be written, checked as a reader will check it.
StatusOr<ModelConfig> FinalConfig(const MakeModelOptions& options) {
  ModelConfig config = options.config;
  config.fp8 = options.dtype == DType::kF8E4M3;
  if (!options.tokenizer_dir.empty())
    ATL_RETURN_IF_ERROR(FitConfigToTokenizer(options.tokenizer_dir, &config));
  ATL_ASSIGN_OR_RETURN(ModelConfig checked,
                       ParseModelConfig(ConfigToJson(config), "the model to make"));
  ATL_RETURN_IF_ERROR(CheckServable(checked));
  return checked;
}

Status PrepareFolder(const std::string& dir) {
  for (const char* name : {"config.json", "model.safetensors.index.json"}) {
    if (FileExists(dir + "/" + name))
      return AlreadyExists("%s holds a %s: choose a new folder", dir, name);
  }
  std::error_code error;
  std::filesystem::create_directories(dir, error);
  return error ? ErrnoStatus(error.value(), "make folder " + dir) : absl::OkStatus();
}

Status CheckRoom(const std::string& dir, int64_t bytes) {
  std::error_code error;
  const std::filesystem::space_info space = std::filesystem::space(dir, error);
  if (error || space.available >= static_cast<uintmax_t>(bytes)) return absl::OkStatus();
  return ResourceExhausted("%s: the model has %d bytes, the disk has room for %d", dir, bytes,
                           space.available);
}

Status CopyTokenizer(const std::string& from, const std::string& dir) {
  if (from.empty()) return absl::OkStatus();
  ATL_ASSIGN_OR_RETURN(const std::vector<std::string> names, TokenizerFiles(from));
  for (const std::string& name : names) {
    ATL_ASSIGN_OR_RETURN(const std::string text, ReadFile(from + "/" + name));
    ATL_RETURN_IF_ERROR(WriteFileAtomically(dir + "/" + name, text));
  }
  return absl::OkStatus();
}

}  // namespace

StatusOr<MadeModel> MakeModel(const MakeModelOptions& options, const std::string& dir) {
  if (options.max_shard_bytes <= 0 || options.dtype == DType::kUnspecified) {
    return InvalidArgument("max_shard_bytes %d and dtype %s: expected a positive size and a dtype",
                           options.max_shard_bytes, DTypeName(options.dtype));
  }
  MadeModel made;
  ATL_ASSIGN_OR_RETURN(made.config, FinalConfig(options));
  ATL_RETURN_IF_ERROR(PrepareFolder(dir));
  const std::vector<Shard> shards = PlanShards(made.config, options);
  made.num_files = static_cast<int64_t>(shards.size());
  for (const Shard& shard : shards) {
    made.num_tensors += static_cast<int64_t>(shard.size());
    for (const PlannedTensor& tensor : shard) made.total_bytes += TensorBytes(tensor);
  }
  ATL_RETURN_IF_ERROR(CheckRoom(dir, made.total_bytes));
  if (options.progress) options.progress(0, made.total_bytes);
  int64_t done_bytes = 0;
  for (size_t i = 0; i < shards.size(); ++i) {
    const std::string path = dir + "/" + ShardName(i, shards.size());
    ATL_RETURN_IF_ERROR(WriteShard(shards[i], path, made.config.fp8_block, options));
    for (const PlannedTensor& tensor : shards[i]) done_bytes += TensorBytes(tensor);
    if (options.progress) options.progress(done_bytes, made.total_bytes);
  }
  if (shards.size() > 1) ATL_RETURN_IF_ERROR(WriteIndex(shards, made.total_bytes, dir));
  ATL_RETURN_IF_ERROR(CopyTokenizer(options.tokenizer_dir, dir));
  ATL_RETURN_IF_ERROR(
      WriteFileAtomically(dir + "/generation_config.json", GenerationConfigToJson(made.config)));
  ATL_RETURN_IF_ERROR(WriteFileAtomically(dir + "/config.json", ConfigToJson(made.config)));
  return made;
}

}  // namespace atl::model
