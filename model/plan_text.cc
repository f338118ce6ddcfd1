#include <cmath>

#include "model/plan.h"

namespace atl::model {
namespace {

// "1.234 GB": powers of a thousand, as disks and networks are sold and papers count.
std::string Bytes(double bytes) {
  const char* const units[] = {"B", "kB", "MB", "GB", "TB", "PB"};
  int unit = 0;
  while (bytes >= 1000 && unit < 5) {
    bytes /= 1000;
    ++unit;
  }
  return absl::StrFormat("%.*f %s", unit == 0 ? 0 : 2, bytes, units[unit]);
}
std::string Bytes(int64_t bytes) { return Bytes(static_cast<double>(bytes)); }

std::string Params(int64_t params) {
  const double count = static_cast<double>(params);
  if (count >= 1e9) return absl::StrFormat("%.2f B", count / 1e9);
  return absl::StrFormat("%.2f M", count / 1e6);
}

void AppendParts(const Plan& plan, std::string& out) {
  absl::StrAppendFormat(&out, "%-16s %12s %12s %12s\n", "part", "parameters", "stored",
                        "in memory");
  int64_t stored = 0, memory = 0;
  for (const PartSize& size : plan.parts) {
    absl::StrAppendFormat(&out, "%-16s %12s %12s %12s\n", ModelPartName(size.part),
                          Params(size.params), Bytes(size.stored_bytes), Bytes(size.memory_bytes));
    stored += size.stored_bytes;
    memory += size.memory_bytes;
  }
  absl::StrAppendFormat(&out, "%-16s %12s %12s %12s\n", "total", Params(plan.params.total),
                        Bytes(stored), Bytes(memory));
  absl::StrAppendFormat(&out, "%-16s %12s %12s %12s\n", "used per token",
                        Params(plan.params.active), "", Bytes(plan.active_bytes));
  if (plan.mtp_params > 0) {
    absl::StrAppendFormat(
        &out, "%-16s %12s   (MTP layers, %s)\n", "draft module", Params(plan.mtp_params),
        plan.options.speculate ? "the first counted below" : "not counted above or below");
  }
}

void AppendCache(const Plan& plan, std::string& out) {
  const PlanOptions& o = plan.options;
  absl::StrAppendFormat(&out, "\n%-28s %12s %12s %16s\n", "cache of a token", "values",
                        DTypeName(o.profile.cache), "of this model's");
  const double own = static_cast<double>(plan.cache.front().values);
  for (const CacheForm& form : plan.cache) {
    absl::StrAppendFormat(&out, "%-28s %12d %12s %15.1fx\n", form.name, form.values,
                          Bytes(form.bytes), static_cast<double>(form.values) / own);
  }
}

void AppendAttention(const Plan& plan, std::string& out) {
  const AttentionPlan& a = plan.attention;
  const PlanOptions& o = plan.options;
  absl::StrAppendFormat(&out, "\nattention nodes (%s each, %.0f %% usable)\n",
                        Bytes(o.node_memory_bytes), o.usable_share * 100);
  absl::StrAppendFormat(&out, "  weights on each       %12s\n", Bytes(a.weight_bytes));
  absl::StrAppendFormat(&out, "  cache of a sequence   %12s   (%d tokens)\n",
                        Bytes(a.sequence_bytes), o.context_tokens);
  if (a.num_nodes == 0) {
    absl::StrAppendFormat(
        &out, "  does not fit: a node needs %s for the weights and one sequence\n",
        Bytes(static_cast<double>(a.weight_bytes + a.sequence_bytes) / o.usable_share));
    return;
  }
  absl::StrAppendFormat(&out, "  sequences on each     %12d\n", a.sequences_per_node);
  absl::StrAppendFormat(&out, "  nodes                 %12d   (for %d sequences)\n", a.num_nodes,
                        o.num_sequences);
}

std::string Range(int64_t low, int64_t high) {
  return low == high ? absl::StrFormat("%d", low) : absl::StrFormat("%d or %d", low, high);
}

void AppendExperts(const Plan& plan, std::string& out) {
  const ExpertPlan& e = plan.experts;
  const PlanOptions& o = plan.options;
  if (e.total_bytes == 0) {
    out += "\nno experts: a dense model\n";
    return;
  }
  out += "\nexpert nodes\n";
  absl::StrAppendFormat(&out, "  a routed expert       %12s\n", Bytes(e.routed_bytes));
  if (e.shared_bytes > 0)
    absl::StrAppendFormat(&out, "  a shared expert       %12s\n", Bytes(e.shared_bytes));
  absl::StrAppendFormat(&out, "  all, once             %12s\n", Bytes(e.total_bytes));
  if (e.min_nodes == 0) {
    out += "  does not fit: one expert is larger than a node\n";
  } else {
    absl::StrAppendFormat(&out, "  nodes at least        %12d\n", e.min_nodes);
  }
  if (e.num_nodes > 0) {
    absl::StrAppendFormat(
        &out, "  placement             %12d x (%s routed, %s shared experts of %d layers)\n",
        e.num_nodes, Range(e.min_routed, e.max_routed), Range(e.min_shared, e.max_shared),
        e.num_layers);
    absl::StrAppendFormat(&out, "  on the fullest        %12s   (%s)\n", Bytes(e.max_node_bytes),
                          e.fits ? "fits" : "does not fit");
  }
  absl::StrAppendFormat(&out,
                        "  compute-bound from    %12.0f rows an expert, %.0f tokens a batch   "
                        "(%.0f GB/s, %.0f GFLOP/s)\n",
                        std::ceil(e.compute_bound_rows), std::ceil(e.compute_bound_tokens),
                        o.bandwidth_bytes_per_s / 1e9, o.flops_per_s / 1e9);
}

void AppendNetwork(const Plan& plan, std::string& out) {
  const NetworkPlan& n = plan.network;
  if (n.rows_from_experts == 0) return;
  absl::StrAppendFormat(&out, "\nnetwork, a token through %d MoE layers (a row is %s)\n",
                        n.moe_layers, Bytes(n.row_bytes));
  absl::StrAppendFormat(&out, "  rows a layer          %12.1f to expert nodes, %d back\n",
                        n.rows_to_experts, n.rows_from_experts);
  absl::StrAppendFormat(&out, "  dispatch inline       %12s\n", Bytes(n.inline_bytes));
  absl::StrAppendFormat(&out, "  dispatch in routers   %12s\n", Bytes(n.service_bytes));
}

}  // namespace

std::string PlanToText(const Plan& plan) {
  const ModelConfig& c = plan.options.config;
  std::string out = absl::StrFormat("%s (%s), profile %s\n\n", plan.options.name, c.model_type,
                                    plan.options.profile.name);
  AppendParts(plan, out);
  AppendCache(plan, out);
  AppendAttention(plan, out);
  AppendExperts(plan, out);
  AppendNetwork(plan, out);
  const Status servable = CheckServable(c);
  if (!servable.ok()) absl::StrAppendFormat(&out, "\n%s\n", servable.message());
  return out;
}

}  // namespace atl::model
