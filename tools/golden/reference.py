#!/usr/bin/env python3
"""Plain reference of the DeepSeek-V2/V3 forward pass, written from DeepSeek's published
inference code, configs and papers, independent of the transformers library.

    m = Reference("build/golden/v3/checkpoint")    # float64, naive MLA
    out = m.forward([3, 17, 29])                    # out.logits [T, vocab], out.hidden, ...
    Reference(dir, dtype=torch.float32, mla="absorb")
    Reference(dir, dtype=torch.float32, act=torch.bfloat16)   # bf16 GEMM inputs, fp32 sums

No KV cache, no batching: one sequence, recomputed whole.  Clarity before speed.
"""
import json, math, os
from types import SimpleNamespace
import torch
import torch.nn.functional as F
from safetensors import safe_open


def checkpoint_files(path):
    index = os.path.join(path, "model.safetensors.index.json")
    if not os.path.exists(index):
        return ["model.safetensors"]
    return sorted(set(json.load(open(index))["weight_map"].values()))


def load_checkpoint(path):
    """config, {name: float32 tensor}; FP8 blocks are dequantised as value * weight_scale_inv."""
    cfg = json.load(open(os.path.join(path, "config.json")))
    raw = {}
    for f in checkpoint_files(path):
        with safe_open(os.path.join(path, f), "pt") as s:
            raw.update({k: s.get_tensor(k) for k in s.keys()})
    out = {}
    for k, w in raw.items():
        if k.endswith("_scale_inv"):
            continue
        w32 = w.to(torch.float32)                   # exact from bf16 and from e4m3
        if k + "_scale_inv" in raw:
            bo, bi = cfg["quantization_config"]["weight_block_size"]
            s = raw[k + "_scale_inv"].repeat_interleave(bo, 0)[: w.shape[0]]
            w32 = w32 * s.repeat_interleave(bi, 1)[:, : w.shape[1]]
        out[k] = w32
    return cfg, out


def yarn_mscale(factor, mscale):
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0


def rope_table(cfg, dtype):
    """inverse frequencies [dr/2], factor on cos/sin, factor on the softmax scale."""
    dim, base, rs = cfg["qk_rope_head_dim"], cfg["rope_theta"], cfg.get("rope_scaling")
    inv = 1.0 / (base ** (torch.arange(0, dim, 2, dtype=dtype) / dim))
    if not rs:
        return inv, 1.0, 1.0
    assert rs.get("type", rs.get("rope_type")) == "yarn"
    turn = lambda rot: dim * math.log(rs["original_max_position_embeddings"] / (rot * 2 * math.pi)) / (2 * math.log(base))
    low, high = max(math.floor(turn(rs["beta_fast"])), 0), min(math.ceil(turn(rs["beta_slow"])), dim - 1)
    if low == high:
        high += 0.001
    ramp = ((torch.arange(dim // 2, dtype=dtype) - low) / (high - low)).clamp(0, 1)   # 0: keep, 1: interpolate
    inv = inv / rs["factor"] * ramp + inv * (1 - ramp)
    all_dim = rs.get("mscale_all_dim", 0)
    on_cos = yarn_mscale(rs["factor"], rs.get("mscale", 1)) / yarn_mscale(rs["factor"], all_dim)
    on_softmax = yarn_mscale(rs["factor"], all_dim) ** 2 if all_dim else 1.0
    return inv, on_cos, on_softmax


class Reference:
    def __init__(self, path, dtype=torch.float64, mla="naive", act=None):
        self.cfg, w = load_checkpoint(path)
        self.w = {k: t.to(dtype) for k, t in w.items()}
        self.dtype, self.mla_form, self.act = dtype, mla, act
        c = self.cfg
        self.inv_freq, self.on_cos, on_softmax = rope_table(c, dtype)
        self.scale = (c["qk_nope_head_dim"] + c["qk_rope_head_dim"]) ** -0.5 * on_softmax
        self.head = self.w["model.embed_tokens.weight" if c["tie_word_embeddings"] else "lm_head.weight"]
        self.n_layers = c["num_hidden_layers"]

    # -- pieces ---------------------------------------------------------------------------
    def rnd(self, x):                               # round a GEMM input to the activation type
        return x if self.act is None else x.to(self.act).to(self.dtype)

    def lin(self, name, x):
        return self.rnd(x) @ self.w[name + ".weight"].T

    def norm(self, name, x, eps):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps) * self.w[name + ".weight"]

    def rope(self, x, pos):
        """x [T, ..., dr]: adjacent pairs (x0,x1), (x2,x3), ... turned by pos * inv_freq."""
        ang = pos.to(self.dtype)[:, None] * self.inv_freq
        cos, sin = ang.cos() * self.on_cos, ang.sin() * self.on_cos
        while cos.dim() < x.dim():
            cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
        a, b = x[..., 0::2], x[..., 1::2]
        return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)

    def attention(self, p, x, pos):
        c, T = self.cfg, x.shape[0]
        H, dn, dr, dv, r = (c[k] for k in ("num_attention_heads", "qk_nope_head_dim", "qk_rope_head_dim",
                                           "v_head_dim", "kv_lora_rank"))
        if c["q_lora_rank"] is None:
            q = self.lin(p + ".q_proj", x)
        else:                                       # latent norms: eps 1e-6 whatever rms_norm_eps says
            q = self.lin(p + ".q_b_proj", self.norm(p + ".q_a_layernorm", self.lin(p + ".q_a_proj", x), 1e-6))
        q_nope, q_pe = q.view(T, H, dn + dr).split([dn, dr], -1)
        q_pe = self.rope(q_pe, pos)
        kv, k_pe = self.lin(p + ".kv_a_proj_with_mqa", x).split([r, dr], -1)
        kv = self.norm(p + ".kv_a_layernorm", kv, 1e-6)          # what a latent KV cache stores,
        k_pe = self.rope(k_pe, pos)                              # together with this
        wkvb = self.w[p + ".kv_b_proj.weight"].view(H, dn + dv, r)
        wk, wv = wkvb[:, :dn], wkvb[:, dn:]
        kv_, k_pe_, q_pe_ = self.rnd(kv), self.rnd(k_pe), self.rnd(q_pe)
        if self.mla_form == "naive":
            k = torch.einsum("tr,hdr->thd", kv_, wk)
            s = torch.einsum("shd,thd->hst", self.rnd(q_nope), self.rnd(k))
        else:                                       # W_UK absorbed into the query
            s = torch.einsum("shr,tr->hst", self.rnd(torch.einsum("shd,hdr->shr", self.rnd(q_nope), wk)), kv_)
        s = (s + torch.einsum("shd,td->hst", q_pe_, k_pe_)) * self.scale
        s = s.masked_fill(pos[None, None, :] > pos[None, :, None], float("-inf"))
        a = self.rnd(s.softmax(-1))
        if self.mla_form == "naive":
            o = torch.einsum("hst,thd->shd", a, self.rnd(torch.einsum("tr,hdr->thd", kv_, wv)))
        else:                                       # W_UV after the weighted sum of latents
            o = torch.einsum("shr,hdr->shd", self.rnd(torch.einsum("hst,tr->shr", a, kv_)), wv)
        return self.lin(p + ".o_proj", o.reshape(T, H * dv))

    def ffn(self, p, x):
        return self.lin(p + ".down_proj", F.silu(self.lin(p + ".gate_proj", x)) * self.lin(p + ".up_proj", x))

    def route(self, p, x):
        """expert ids [T,k] ascending, weights [T,k], margin [T]: how far the scores are from another choice."""
        c, T = self.cfg, x.shape[0]
        E, k, G = c["n_routed_experts"], c["num_experts_per_tok"], c.get("n_group") or 1
        z = x @ self.w[p + ".weight"].T             # never in reduced precision
        s = z.sigmoid() if c["scoring_func"] == "sigmoid" else z.softmax(-1)
        choice, margin = s, torch.full((T,), math.inf, dtype=self.dtype)
        noaux = c["topk_method"] == "noaux_tc"
        if noaux:                                   # the bias chooses, it does not weigh
            choice = s + self.w[p + ".e_score_correction_bias"]
        if G > 1 and c["topk_method"] != "greedy":
            g = choice.view(T, G, E // G)
            g = g.topk(2, -1)[0].sum(-1) if noaux else g.amax(-1)
            gs, gi = g.sort(-1, descending=True)
            n = c["topk_group"]
            if n < G:
                margin = torch.minimum(margin, gs[:, n - 1] - gs[:, n])
            keep = torch.zeros(T, G, dtype=torch.bool).scatter(1, gi[:, :n], True)
            choice = choice.masked_fill(~keep.repeat_interleave(E // G, 1), float("-inf"))
        cs, ci = choice.sort(-1, descending=True)
        if k < E:
            margin = torch.minimum(margin, cs[:, k - 1] - cs[:, k])
        ids = ci[:, :k].sort(-1)[0]
        wt = s.gather(1, ids)
        if c["norm_topk_prob"] and k > 1:
            wt = wt / (wt.sum(-1, keepdim=True) + 1e-20)
        return ids, wt * c["routed_scaling_factor"], margin

    def moe(self, p, x, out, forced=None):
        ids, wt, margin = self.route(p + ".gate", x)
        if forced is not None:                      # same experts as another run, own weights
            ids = forced
            z = x @ self.w[p + ".gate.weight"].T
            s = z.sigmoid() if self.cfg["scoring_func"] == "sigmoid" else z.softmax(-1)
            wt = s.gather(1, ids)
            if self.cfg["norm_topk_prob"] and ids.shape[1] > 1:
                wt = wt / (wt.sum(-1, keepdim=True) + 1e-20)
            wt = wt * self.cfg["routed_scaling_factor"]
        y = torch.zeros_like(x)
        for e in ids.unique().tolist():             # ascending expert id: one fixed order of summation
            t, j = torch.where(ids == e)
            y[t] += wt[t, j, None] * self.ffn(f"{p}.experts.{e}", x[t])
        if self.cfg["n_shared_experts"]:
            y = y + self.ffn(p + ".shared_experts", x)
        out.router.append((ids, wt, margin))
        return y

    def layer(self, l, x, pos, out, dense, forced=None):
        p, eps = f"model.layers.{l}", self.cfg["rms_norm_eps"]
        a = self.attention(p + ".self_attn", self.norm(p + ".input_layernorm", x, eps), pos)
        x = x + a
        n = self.norm(p + ".post_attention_layernorm", x, eps)
        f = self.ffn(p + ".mlp", n) if dense else self.moe(p + ".mlp", n, out, forced)
        out.attn.append(a); out.ffn.append(f)
        return x + f

    def is_dense(self, l):
        return l < self.cfg["first_k_dense_replace"] or l % self.cfg.get("moe_layer_freq", 1) != 0

    # -- whole passes ---------------------------------------------------------------------
    def forward(self, ids, forced=None):
        """out.logits [T,V]; out.hidden[l]: residual stream entering layer l (and after the last);
        out.final [T,h] after model.norm; out.router: one (ids, weights, margin) per MoE layer."""
        ids = torch.as_tensor(ids)
        out = SimpleNamespace(hidden=[], attn=[], ffn=[], router=[])
        pos = torch.arange(len(ids))
        x = self.w["model.embed_tokens.weight"][ids]
        out.hidden.append(x)
        for l in range(self.n_layers):
            dense = self.is_dense(l)
            x = self.layer(l, x, pos, out, dense, None if dense or forced is None else forced[len(out.router)][0])
            out.hidden.append(x)
        out.final = self.norm("model.norm", x, self.cfg["rms_norm_eps"])
        out.logits = self.rnd(out.final) @ self.head.T
        return out

    def mtp(self, ids, main=None, order="eh", normed=True):
        """Logits [T-1,V] of the first MTP module: row i, from h_i and token i+1, predicts token i+2.
            h'_i = eh_proj [ enorm(Emb(t_{i+1})) ; hnorm(h_i) ]    then layer N, then shared_head.
        h_i: the main model's state AFTER model.norm.  order="he" / normed=False: the readings that
        the published weights do not follow, for diagnosis."""
        ids = torch.as_tensor(ids)
        main = main or self.forward(ids)
        p, eps = f"model.layers.{self.n_layers}", self.cfg["rms_norm_eps"]
        h = (main.final if normed else main.hidden[-1])[:-1]
        e = self.norm(p + ".enorm", self.w[p + ".embed_tokens.weight"][ids[1:]], eps)
        h = self.norm(p + ".hnorm", h, eps)
        x = self.lin(p + ".eh_proj", torch.cat([e, h] if order == "eh" else [h, e], -1))
        out = SimpleNamespace(attn=[], ffn=[], router=[])
        x = self.layer(self.n_layers, x, torch.arange(1, len(ids)), out, dense=False)
        self.mtp_router = out.router
        x = self.norm(p + ".shared_head.norm", x, eps)
        return self.rnd(x) @ self.w[p + ".shared_head.head.weight"].T
