#!/usr/bin/env python3
"""Golden values of one checkpoint.

    make_golden.py CHECKPOINT_DIR --out FILE [--lengths 1,7,33,64,150,257] [--source reference]

Writes FILE.safetensors (tensors) and FILE.json (what they are, token ids, margins); FILE may
be given with either suffix.  Values come from transformers in float32 on exactly upcast
weights; the float64 reference must agree with them, or nothing is written.  --source
reference takes the reference alone (float64, stored as float32), for the few configurations
that transformers does not honour; see README.md.  Tensor names: see README.md.
"""
import argparse, hashlib, json, os
import torch
from safetensors.torch import save_file
from reference import Reference, checkpoint_files
from compare import load_transformers

STEPS, TOP, GOOD_MARGIN = 32, 16, 2e-5


def router_margin(r):
    return min([float(x[2].min()) for x in r] or [float("inf")])


def draw(ref, run, i, n, mtp):
    """A prompt of n tokens whose router choices, and those of its continuation, are no near
    ties: the first good one of 40 draws, or the best.  -> ids, margins, reference, greedy."""
    best = None
    for k in range(40):
        g = torch.Generator().manual_seed(1000 * i + k)
        ids = torch.randint(2, ref.cfg["vocab_size"], (n,), generator=g)
        if n >= 100 and n < 200:                    # one prompt that repeats itself
            ids = ids[:30].repeat(-(-n // 30))[:n]
        r = ref.forward(ids)
        m = router_margin(r.router)
        if m < GOOD_MARGIN and k < 39 and not (best and m > best[1]):
            continue
        gr = run.greedy(ids)
        seq = ids.tolist() + [x[0] for x in gr]
        mc = router_margin(ref.forward(seq[:-1]).router)
        if mtp:
            ref.mtp(seq[:n + 1])
            m = min(m, router_margin(ref.mtp_router))
        if best is None or min(m, mc) > min(best[1], best[2]):
            best = (ids, m, mc, r, gr)
        if m >= GOOD_MARGIN and mc >= GOOD_MARGIN / 2:
            break
    return best


class Runner:
    """transformers, or the reference behind the same two calls."""
    def __init__(self, path, source, ref):
        self.ref = ref
        self.tf = load_transformers(path) if source == "transformers" else None

    @torch.no_grad()
    def full(self, ids):
        """dict: logits, hidden [L+1,T,h], final, router [(ids, weights)]"""
        if self.tf is None:
            r = self.ref.forward(ids)
            return dict(logits=r.logits.float(), hidden=torch.stack(r.hidden).float(), final=r.final.float(),
                        router=[(a, b.float()) for a, b, _ in r.router])
        got = dict(hidden=[], router=[])
        hooks, base = [], self.tf.model
        pick = lambda o: (o[0] if isinstance(o, tuple) else o)[0].clone()
        hooks.append(base.layers[0].register_forward_pre_hook(
            lambda m, a, k: got["hidden"].append((a[0] if a else k["hidden_states"])[0].clone()), with_kwargs=True))
        for l in base.layers:
            hooks.append(l.register_forward_hook(lambda m, a, o: got["hidden"].append(pick(o))))
            if hasattr(l.mlp, "gate"):
                hooks.append(l.mlp.gate.register_forward_hook(lambda m, a, o: got["router"].append((o[2], o[1]))))
        hooks.append(base.norm.register_forward_hook(lambda m, a, o: got.__setitem__("final", o[0].clone())))
        got["logits"] = self.tf(ids[None], use_cache=False).logits[0]
        for h in hooks:
            h.remove()
        got["hidden"] = torch.stack(got["hidden"])
        router = []
        for e, w in got["router"]:                  # ascending expert id
            e, o = e.sort(-1)
            router.append((e, w.gather(1, o)))
        got["router"] = router
        return got

    @torch.no_grad()
    def greedy(self, ids):
        """STEPS x (token, top-1 logit, margin to the runner-up); the end token does not stop it."""
        out, ids, past, seq = [], ids[None], None, ids.tolist()
        for _ in range(STEPS):
            if self.tf is None:
                z = self.ref.forward(seq).logits[-1].float()
            else:
                o = self.tf(ids, past_key_values=past, use_cache=True)
                past, z = o.past_key_values, o.logits[0, -1]
            v, t = z.topk(2)
            out.append((int(t[0]), float(v[0]), float(v[0] - v[1])))
            seq.append(int(t[0]))
            ids = t[:1][None]
        return out


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("dir")
    ap.add_argument("--out", required=True)
    ap.add_argument("--lengths", default="1,7,33,64,150,257")
    ap.add_argument("--source", choices=["transformers", "reference"], default="transformers")
    a = ap.parse_args()
    torch.set_num_threads(1)
    name = [x for x in os.path.normpath(a.dir).split(os.sep) if x != "checkpoint"][-1]
    stem = a.out.removesuffix(".safetensors").removesuffix(".json")
    lengths = [int(x) for x in a.lengths.split(",")]
    near = lambda n: min(range(len(lengths)), key=lambda i: abs(lengths[i] - n))
    i_detail, i_logprob = near(64), near(150)
    ref = Reference(a.dir)
    run = Runner(a.dir, a.source, ref)
    T, prompts, worst = {}, [], 0.0
    finite = lambda x: x if x < 1e9 else None       # no MoE layer, or every expert always chosen
    for i, n in enumerate(lengths):
        mtp = i == i_detail and ref.cfg.get("num_nextn_predict_layers", 0) > 0
        ids, margin, margin_greedy, r, gr = draw(ref, run, i, n, mtp)
        g = run.full(ids)
        err = (g["logits"].double() - r.logits).abs()
        worst = max(worst, float(err.max()))
        if worst > 1e-3:
            raise SystemExit(f"p{i}: transformers and reference differ by {worst:.3g}: nothing written")
        p = f"p{i}."
        top = g["logits"].topk(TOP, -1)
        T[p + "input_ids"] = ids
        T[p + "last_logits"] = g["logits"][-1]
        T[p + "top_ids"], T[p + "top_logits"] = top[1].int(), top[0]
        if r.router:
            T[p + "router_margin"] = torch.stack([x[2] for x in r.router]).float()
        T[p + "greedy_ids"] = torch.tensor([x[0] for x in gr])
        T[p + "greedy_logit"] = torch.tensor([x[1] for x in gr])
        T[p + "greedy_margin"] = torch.tensor([x[2] for x in gr])
        prompts.append(dict(name=f"p{i}", length=n, input_ids=ids.tolist(), greedy_ids=[x[0] for x in gr],
                            greedy_margin=[round(x[2], 6) for x in gr], smallest_router_margin=finite(margin), smallest_router_margin_greedy=finite(margin_greedy),
                            oracle_max_error=float(err.max()), oracle_rms_error=float(err.pow(2).mean().sqrt())))
        if i == i_detail:
            T["detail.hidden"], T["detail.final"] = g["hidden"], g["final"]
            for j, (e, w) in enumerate(g["router"]):
                assert torch.equal(e, r.router[j][0]), "router choices differ"
                l = [l for l in range(ref.n_layers) if not ref.is_dense(l)][j]
                T[f"detail.router.{l}.ids"], T[f"detail.router.{l}.weights"] = e.int(), w.float()
            if mtp:
                seq = torch.tensor(ids.tolist() + [gr[0][0]])
                T["mtp.input_ids"], T["mtp.logits"] = seq, ref.mtp(seq).float()
        if i == i_logprob:
            lp = g["logits"].double().log_softmax(-1)
            T["logprob.values"] = lp[torch.arange(n - 1), ids[1:]].float()
    save_file({k: x.contiguous() for k, x in T.items()}, stem + ".safetensors")
    import transformers
    sha = lambda f: hashlib.sha256(open(f, "rb").read()).hexdigest()
    meta = dict(
        format=1, model_type=ref.cfg["model_type"],
        source=f"transformers {transformers.__version__}, float32" if a.source == "transformers" else "reference.py, float64",
        torch=torch.__version__.split("+")[0],
        checkpoint={f: sha(os.path.join(a.dir, f)) for f in ["config.json"] + checkpoint_files(a.dir)},
        detail_prompt=f"p{i_detail}", logprob_prompt=f"p{i_logprob}",
        mtp_prompt=f"p{i_detail} + its first greedy token" if "mtp.logits" in T else None,
        oracle_max_error=worst, prompts=prompts)
    with open(stem + ".json", "w") as f:            # one prompt field per line, lists kept short
        f.write("{\n")
        for k, v in meta.items():
            if k != "prompts":
                f.write(f" {json.dumps(k)}: {json.dumps(v)},\n")
        f.write(' "prompts": [\n')
        for i, p in enumerate(prompts):
            f.write("  {" + ",\n   ".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in p.items()) + "}" + ("," if i + 1 < len(prompts) else "") + "\n")
        f.write(" ]\n}\n")
    mb = os.path.getsize(stem + ".safetensors") / 1e6
    distinct = [len(set(p["greedy_ids"])) for p in prompts]
    print(f"{name}: {len(T)} tensors {mb:.2f} MB, oracle error {worst:.1e}, "
          f"router margin {min(min(p['smallest_router_margin'] or 9, p['smallest_router_margin_greedy'] or 9) for p in prompts):.1e}, greedy margin min "
          f"{min(min(p['greedy_margin']) for p in prompts):.4f}, distinct greedy tokens {distinct}")


if __name__ == "__main__":
    main()
