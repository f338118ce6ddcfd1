#include "model/plan.h"

#include <algorithm>
#include <array>
#include <cmath>

namespace atl::model {
namespace {

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

int64_t StoredBytes(const ModelConfig& c, const TensorSpec& spec) {
  if (spec.float32) return spec.params() * 4;
  if (!c.fp8 || !spec.quantized) return spec.params() * 2;
  return spec.params() +
         CeilDiv(spec.shape[0], c.fp8_block) * CeilDiv(spec.shape[1], c.fp8_block) * 4;
}

// As weights/load_packed.h packs matrices: vectors stay float32. Embedding and gate are never
// quantised.
int64_t MemoryBytes(const ModelConfig& c, const NumericProfile& profile, const TensorSpec& spec) {
  if (spec.shape.size() == 1) return spec.params() * 4;
  const bool exact = spec.part == ModelPart::kEmbedding || spec.part == ModelPart::kGate;
  const MatrixFormat format =
      spec.name.ends_with("kv_b_proj.weight") ? profile.kv_b : profile.weights;
  // A bf16 scale for each 32 weights.
  if (format == MatrixFormat::kQ8 && !exact) return spec.params() * 17 / 16;
  if (format == MatrixFormat::kQ4 && !exact) return spec.params() * 9 / 16;
  const bool bf16 = format == MatrixFormat::kBf16 || !(c.fp8 && spec.quantized);
  return spec.params() * (bf16 ? 2 : 4);
}

using Parts = std::array<PartSize, kNumModelParts>;

// Of the main model; a tied embedding has no parameters of a head, but is packed as one as well. Of
// the first MTP layer, as far as nodes hold it, `mtp` has memory_bytes.
Parts CountParts(const ModelConfig& c, const NumericProfile& profile, Parts* mtp,
                 int64_t* mtp_params) {
  Parts parts;
  for (int i = 0; i < kNumModelParts; ++i) parts[i].part = static_cast<ModelPart>(i);
  ForEachTensor(c, [&](const TensorSpec& spec) {
    if (spec.layer >= c.num_hidden_layers) {
      *mtp_params += spec.params();
      const bool copy = spec.part == ModelPart::kEmbedding || spec.part == ModelPart::kHead;
      if (spec.layer == c.num_hidden_layers && !copy) {
        (*mtp)[static_cast<int>(spec.part)].memory_bytes += MemoryBytes(c, profile, spec);
      }
      return;
    }
    PartSize& size = parts[static_cast<int>(spec.part)];
    size.params += spec.params();
    size.stored_bytes += StoredBytes(c, spec);
    size.memory_bytes += MemoryBytes(c, profile, spec);
  });
  if (c.tie_word_embeddings) {
    PartSize& head = parts[static_cast<int>(ModelPart::kHead)];
    head.memory_bytes +=
        MemoryBytes(c, profile, {.shape = {c.vocab_size, c.hidden_size}, .part = ModelPart::kHead});
  }
  return parts;
}

int64_t NumMoeLayers(const ModelConfig& c) {
  int64_t count = 0;
  for (int64_t layer = 0; layer < c.num_hidden_layers; ++layer) count += c.is_moe_layer(layer);
  return count;
}

// Source: DeepSeek-V2 paper, table 1. A head's key and value there have the size without the
// rotated part.
std::vector<CacheForm> CacheForms(const ModelConfig& c, const NumericProfile& profile) {
  const int64_t layers = c.num_hidden_layers;
  const int64_t heads = c.num_attention_heads;
  const int64_t head = c.is_mla() ? c.qk_nope_head_dim + c.v_head_dim : 2 * (c.hidden_size / heads);
  const int64_t groups = std::min<int64_t>(8, heads);
  std::vector<CacheForm> forms;
  if (c.is_mla())
    forms.push_back({.name = "MLA latent", .values = c.cache_values_per_token_layer() * layers});
  if (!c.is_mla() && c.num_key_value_heads != heads) {
    forms.push_back({.name = absl::StrFormat("GQA, %d groups (this model)", c.num_key_value_heads),
                     .values = c.num_key_value_heads * head * layers});
  }
  forms.push_back(
      {.name = absl::StrFormat("MHA, %d heads", heads), .values = heads * head * layers});
  forms.push_back(
      {.name = absl::StrFormat("GQA, %d groups", groups), .values = groups * head * layers});
  forms.push_back({.name = "MQA", .values = head * layers});
  for (CacheForm& form : forms) form.bytes = form.values * DTypeBytes(profile.cache);
  return forms;
}

AttentionPlan PlanAttention(const PlanOptions& o, const Parts& parts, const CacheForm& cache) {
  AttentionPlan plan;
  for (const PartSize& size : parts) {
    const bool expert =
        size.part == ModelPart::kRoutedExpert || size.part == ModelPart::kSharedExpert;
    if (!expert) plan.weight_bytes += size.memory_bytes;
  }
  const int64_t layers = o.config.num_hidden_layers;
  plan.sequence_bytes = cache.bytes / layers * (layers + (o.speculate ? 1 : 0)) * o.context_tokens;
  const int64_t usable =
      static_cast<int64_t>(static_cast<double>(o.node_memory_bytes) * o.usable_share);
  plan.sequences_per_node = std::max<int64_t>(0, usable - plan.weight_bytes) / plan.sequence_bytes;
  if (plan.sequences_per_node > 0)
    plan.num_nodes = CeilDiv(o.num_sequences, plan.sequences_per_node);
  return plan;
}

// What the fullest of `nodes` holds when routed and shared experts are dealt out evenly.
int64_t FullestNode(const ExpertPlan& plan, int64_t routed, int64_t shared, int64_t nodes) {
  return CeilDiv(routed, nodes) * plan.routed_bytes + CeilDiv(shared, nodes) * plan.shared_bytes;
}

ExpertPlan PlanExperts(const PlanOptions& o, const Parts& parts, int64_t moe_layers) {
  const ModelConfig& c = o.config;
  ExpertPlan plan;
  plan.num_layers = moe_layers;
  const int64_t routed = moe_layers * c.n_routed_experts;
  if (routed == 0) return plan;
  const int64_t shared = c.n_shared_experts > 0 ? moe_layers : 0;
  plan.routed_bytes = parts[static_cast<int>(ModelPart::kRoutedExpert)].memory_bytes / routed;
  if (shared > 0)
    plan.shared_bytes = parts[static_cast<int>(ModelPart::kSharedExpert)].memory_bytes / shared;
  plan.total_bytes = routed * plan.routed_bytes + shared * plan.shared_bytes;
  const int64_t usable =
      static_cast<int64_t>(static_cast<double>(o.node_memory_bytes) * o.usable_share);
  if (std::max(plan.routed_bytes, plan.shared_bytes) <= usable) {
    // Even dealing wastes less than one expert of each kind a node, so this ends soon; with a node
    // an expert it is over.
    int64_t nodes = std::max<int64_t>(1, CeilDiv(plan.total_bytes, usable));
    while (nodes < routed + shared && FullestNode(plan, routed, shared, nodes) > usable) ++nodes;
    plan.min_nodes = nodes;
  }
  plan.num_nodes = o.num_expert_nodes > 0 ? o.num_expert_nodes : plan.min_nodes;
  if (plan.num_nodes > 0) {
    plan.min_routed = routed / plan.num_nodes;
    plan.max_routed = CeilDiv(routed, plan.num_nodes);
    plan.min_shared = shared / plan.num_nodes;
    plan.max_shared = CeilDiv(shared, plan.num_nodes);
    plan.max_node_bytes = FullestNode(plan, routed, shared, plan.num_nodes);
    plan.fits = plan.max_node_bytes <= usable;
  }
  // Reading an expert takes bytes / bandwidth once a batch; a row costs 2 x 3 x D x F operations.
  const double row_flops =
      6.0 * static_cast<double>(c.hidden_size) * static_cast<double>(c.moe_intermediate_size);
  plan.compute_bound_rows =
      static_cast<double>(plan.routed_bytes) / o.bandwidth_bytes_per_s * o.flops_per_s / row_flops;
  plan.compute_bound_tokens = plan.compute_bound_rows * static_cast<double>(c.n_routed_experts) /
                              static_cast<double>(c.num_experts_per_tok);
  return plan;
}

NetworkPlan PlanNetwork(const PlanOptions& o, int64_t moe_layers, int64_t num_nodes) {
  const ModelConfig& c = o.config;
  NetworkPlan plan;
  plan.row_bytes = c.hidden_size * DTypeBytes(o.profile.wire);
  plan.moe_layers = moe_layers;
  if (moe_layers == 0 || num_nodes == 0) return plan;
  const double n = static_cast<double>(num_nodes);
  const double e = static_cast<double>(c.n_routed_experts);
  // A node with e / n of the experts has none of the K chosen with this probability.
  double none = 1;
  for (int64_t j = 0; j < c.num_experts_per_tok; ++j) {
    none *= std::max(0.0, e - e / n - static_cast<double>(j)) / (e - static_cast<double>(j));
  }
  const bool shared = c.n_shared_experts > 0;
  plan.rows_to_experts = n * (1 - none) + (shared ? none : 0);
  plan.rows_from_experts = c.num_experts_per_tok + (shared ? 1 : 0);
  const double layers = static_cast<double>(moe_layers);
  const double row = static_cast<double>(plan.row_bytes);
  plan.inline_bytes =
      layers * row * (plan.rows_to_experts + static_cast<double>(plan.rows_from_experts));
  plan.service_bytes = plan.inline_bytes + layers * row * 2;
  return plan;
}

// Weights in memory that one token meets: as CountParams counts, but in bytes, and of every
// embedding one row.
int64_t ActiveBytes(const ModelConfig& c, const Parts& parts) {
  int64_t bytes = 0;
  for (const PartSize& size : parts) {
    if (size.part == ModelPart::kRoutedExpert) {
      if (c.n_routed_experts > 0)
        bytes += size.memory_bytes / c.n_routed_experts * c.num_experts_per_tok;
    } else if (size.part == ModelPart::kEmbedding) {
      bytes += size.memory_bytes / c.vocab_size;
    } else {
      bytes += size.memory_bytes;
    }
  }
  return bytes;
}

Status CheckOptions(const PlanOptions& o) {
  if (o.node_memory_bytes <= 0 || o.context_tokens <= 0 || o.num_sequences <= 0 ||
      o.num_expert_nodes < 0) {
    return InvalidArgument(
        "node memory %d, context %d, sequences %d, expert nodes %d: expected positive numbers (0 "
        "expert nodes: as few "
        "as hold the experts)",
        o.node_memory_bytes, o.context_tokens, o.num_sequences, o.num_expert_nodes);
  }
  if (!(o.usable_share > 0 && o.usable_share <= 1)) {
    return InvalidArgument("usable share of memory %g: expected a number above 0 and up to 1",
                           o.usable_share);
  }
  if (!(o.bandwidth_bytes_per_s > 0) || !(o.flops_per_s > 0)) {
    return InvalidArgument("bandwidth %g B/s, %g FLOP/s: expected positive numbers",
                           o.bandwidth_bytes_per_s, o.flops_per_s);
  }
  if (o.speculate && o.config.num_nextn_predict_layers == 0)
    return absl::InvalidArgumentError("--speculate: the model has no MTP layer");
  if (o.context_tokens > o.config.max_position_embeddings) {
    return InvalidArgument("a context of %d tokens, expected at most %d (max_position_embeddings)",
                           o.context_tokens, o.config.max_position_embeddings);
  }
  return absl::OkStatus();
}

}  // namespace

StatusOr<Plan> MakePlan(const PlanOptions& options) {
  ATL_RETURN_IF_ERROR(CheckOptions(options));
  Plan plan;
  plan.options = options;
  const ModelConfig& c = options.config;
  Parts mtp;
  const Parts parts = CountParts(c, options.profile, &mtp, &plan.mtp_params);
  plan.params = CountParams(c);
  for (const PartSize& size : parts) {
    if (size.memory_bytes > 0) plan.parts.push_back(size);
  }
  plan.active_bytes = ActiveBytes(c, parts);
  plan.cache = CacheForms(c, options.profile);
  Parts held = parts;
  for (int i = 0; i < kNumModelParts && options.speculate; ++i)
    held[i].memory_bytes += mtp[i].memory_bytes;
  plan.attention = PlanAttention(options, held, plan.cache.front());
  const int64_t moe_layers = NumMoeLayers(c);
  plan.experts = PlanExperts(options, held, moe_layers + (options.speculate ? 1 : 0));
  plan.network = PlanNetwork(options, moe_layers, plan.experts.num_nodes);
  return plan;
}

}  // namespace atl::model
