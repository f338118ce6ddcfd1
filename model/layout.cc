#include "model/layout.h"

#include "model/checkpoint.h"

namespace atl::model {
namespace {

using Visit = absl::FunctionRef<void(const TensorSpec&)>;

// Emits the tensors under one prefix.
class Emitter {
 public:
  Emitter(Visit visit, int64_t layer) : visit_(visit), layer_(layer) {}

  void Vector(const std::string& name, int64_t n, ModelPart part = ModelPart::kNorm) const {
    visit_({.name = name, .shape = {n}, .part = part, .layer = layer_});
  }
  void Matrix(const std::string& name, int64_t n, int64_t k, ModelPart part, bool quantized) const {
    visit_({.name = name, .shape = {n, k}, .part = part, .layer = layer_, .quantized = quantized});
  }
  void Linear(const std::string& name, int64_t n, int64_t k, ModelPart part) const {
    Matrix(name + ".weight", n, k, part, /*quantized=*/true);
  }
  void Float32Vector(const std::string& name, int64_t n, ModelPart part) const {
    visit_({.name = name, .shape = {n}, .part = part, .layer = layer_, .float32 = true});
  }

 private:
  const Visit visit_;
  const int64_t layer_;
};

void Mla(const ModelConfig& c, const std::string& prefix, const Emitter& emit) {
  const int64_t h = c.num_attention_heads;
  const int64_t dqk = c.qk_nope_head_dim + c.qk_rope_head_dim;
  constexpr ModelPart kPart = ModelPart::kAttention;
  if (c.q_lora_rank == 0) {
    emit.Linear(prefix + "q_proj", h * dqk, c.hidden_size, kPart);
  } else {
    emit.Linear(prefix + "q_a_proj", c.q_lora_rank, c.hidden_size, kPart);
    emit.Vector(prefix + "q_a_layernorm.weight", c.q_lora_rank);
    emit.Linear(prefix + "q_b_proj", h * dqk, c.q_lora_rank, kPart);
  }
  emit.Linear(prefix + "kv_a_proj_with_mqa", c.kv_lora_rank + c.qk_rope_head_dim, c.hidden_size,
              kPart);
  emit.Vector(prefix + "kv_a_layernorm.weight", c.kv_lora_rank);
  emit.Linear(prefix + "kv_b_proj", h * (c.qk_nope_head_dim + c.v_head_dim), c.kv_lora_rank, kPart);
  emit.Linear(prefix + "o_proj", c.hidden_size, h * c.v_head_dim, kPart);
}

void MultiHead(const ModelConfig& c, const std::string& prefix, const Emitter& emit) {
  const int64_t kv = c.hidden_size / c.num_attention_heads * c.num_key_value_heads;
  constexpr ModelPart kPart = ModelPart::kAttention;
  emit.Linear(prefix + "q_proj", c.hidden_size, c.hidden_size, kPart);
  emit.Linear(prefix + "k_proj", kv, c.hidden_size, kPart);
  emit.Linear(prefix + "v_proj", kv, c.hidden_size, kPart);
  emit.Linear(prefix + "o_proj", c.hidden_size, c.hidden_size, kPart);
}

void Mlp(const ModelConfig& c, const std::string& prefix, int64_t inner, ModelPart part,
         const Emitter& emit) {
  emit.Linear(prefix + "gate_proj", inner, c.hidden_size, part);
  emit.Linear(prefix + "up_proj", inner, c.hidden_size, part);
  emit.Linear(prefix + "down_proj", c.hidden_size, inner, part);
}

void Moe(const ModelConfig& c, int64_t layer, const Emitter& emit) {
  const std::string gate = LayerPrefix(layer) + "mlp.gate.";
  emit.Matrix(gate + "weight", c.n_routed_experts, c.hidden_size, ModelPart::kGate,
              /*quantized=*/false);
  if (c.topk_method == "noaux_tc") {
    emit.Float32Vector(gate + "e_score_correction_bias", c.n_routed_experts, ModelPart::kGate);
  }
  for (int64_t e = 0; e < c.n_routed_experts; ++e) {
    Mlp(c, ExpertPrefix(c, layer, e), c.moe_intermediate_size, ModelPart::kRoutedExpert, emit);
  }
  if (c.n_shared_experts > 0) {
    Mlp(c, ExpertPrefix(c, layer, c.shared_expert_id()),
        c.n_shared_experts * c.moe_intermediate_size, ModelPart::kSharedExpert, emit);
  }
}

}  // namespace

const char* ModelPartName(ModelPart part) {
  switch (part) {
    case ModelPart::kEmbedding:
      return "embedding";
    case ModelPart::kHead:
      return "head";
    case ModelPart::kNorm:
      return "norms";
    case ModelPart::kAttention:
      return "attention";
    case ModelPart::kDenseMlp:
      return "dense layers";
    case ModelPart::kGate:
      return "gates";
    case ModelPart::kSharedExpert:
      return "shared experts";
    case ModelPart::kRoutedExpert:
      return "routed experts";
  }
  return "unknown";
}

int64_t TensorSpec::params() const {
  int64_t count = 1;
  for (const int64_t size : shape) count *= size;
  return count;
}

std::string LayerPrefix(int64_t layer) { return absl::StrFormat("model.layers.%d.", layer); }

std::string ExpertPrefix(const ModelConfig& config, int64_t layer, int64_t expert) {
  if (expert == config.shared_expert_id()) return LayerPrefix(layer) + "mlp.shared_experts.";
  return absl::StrFormat("model.layers.%d.mlp.experts.%d.", layer, expert);
}

void ForEachLayerTensor(const ModelConfig& c, int64_t layer, Visit visit) {
  const Emitter emit(visit, layer);
  const std::string prefix = LayerPrefix(layer);
  const bool mtp = layer >= c.num_hidden_layers;
  if (mtp) {
    emit.Matrix(prefix + "embed_tokens.weight", c.vocab_size, c.hidden_size, ModelPart::kEmbedding,
                false);
    emit.Vector(prefix + "enorm.weight", c.hidden_size);
    emit.Vector(prefix + "hnorm.weight", c.hidden_size);
    emit.Matrix(prefix + "eh_proj.weight", c.hidden_size, 2 * c.hidden_size, ModelPart::kAttention,
                false);
  }
  emit.Vector(prefix + "input_layernorm.weight", c.hidden_size);
  c.is_mla() ? Mla(c, prefix + "self_attn.", emit) : MultiHead(c, prefix + "self_attn.", emit);
  emit.Vector(prefix + "post_attention_layernorm.weight", c.hidden_size);
  if (c.is_moe_layer(layer)) {
    Moe(c, layer, emit);
  } else {
    Mlp(c, prefix + "mlp.", c.intermediate_size, ModelPart::kDenseMlp, emit);
  }
  if (mtp) {
    emit.Vector(prefix + "shared_head.norm.weight", c.hidden_size);
    emit.Matrix(prefix + "shared_head.head.weight", c.vocab_size, c.hidden_size, ModelPart::kHead,
                false);
  }
}

void ForEachTensor(const ModelConfig& c, Visit visit) {
  const Emitter emit(visit, -1);
  emit.Matrix("model.embed_tokens.weight", c.vocab_size, c.hidden_size, ModelPart::kEmbedding,
              false);
  for (int64_t layer = 0; layer < c.num_hidden_layers + c.num_nextn_predict_layers; ++layer) {
    ForEachLayerTensor(c, layer, visit);
  }
  emit.Vector("model.norm.weight", c.hidden_size);
  if (!c.tie_word_embeddings)
    emit.Matrix("lm_head.weight", c.vocab_size, c.hidden_size, ModelPart::kHead, false);
}

ParamCount CountParams(const ModelConfig& c) {
  ParamCount count;
  int64_t routed = 0;
  ForEachTensor(c, [&](const TensorSpec& spec) {
    if (spec.layer >= c.num_hidden_layers) return;
    count.total += spec.params();
    if (spec.part == ModelPart::kRoutedExpert) {
      routed += spec.params();
    } else if (spec.part == ModelPart::kEmbedding && !c.tie_word_embeddings) {
      count.active += c.hidden_size;
    } else {
      count.active += spec.params();
    }
  });
  if (c.n_routed_experts > 0) count.active += routed / c.n_routed_experts * c.num_experts_per_tok;
  return count;
}

}  // namespace atl::model
