"""Whether llama.cpp computes the same from its GGUF file as Atoll from the checkpoint: what a benchmark of both rests on."""

import json
import os
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

import convert  # noqa: E402
import llama_cpp  # noqa: E402
from atoll_client import api, cluster, paths  # noqa: E402

CONTEXT = 512
TOP = 20  # as many as Atoll gives
# What float32 sums in another order may do: answers are compared up to the first margin under SAFE_MARGIN, log-probabilities
# may differ by MAX_EXACT_DIFFERENCE.
SAFE_MARGIN = 0.05
MAX_EXACT_DIFFERENCE = 0.02
EXACT = ["-ctk", "f32", "-ctv", "f32"]
# V2-Lite's 27 layers, YaRN, softmax gate and missing q_lora_rank at widths that are computed in seconds.
SMALL_LITE = ["--preset", "v2-lite", "--experts", "16", "--dtype", "f32", "--set", "hidden_size=256,intermediate_size=512,"
              "moe_intermediate_size=96,num_attention_heads=4,num_key_value_heads=4,kv_lora_rank=128"]


def prompt(size, vocab_size):
    """Ids far apart, none twice for a while: the same in every run."""
    return [(17 + i * 48271) % (vocab_size - 2000) for i in range(size)]


def check_demo(folder, settings):
    """The demo model's greedy answers, which are in the repository; the number of tokens compared."""
    path = os.path.join(folder, "demo.gguf")
    convert.convert(paths.DEMO_MODEL, path)
    with open(os.path.join(paths.DEMO_MODEL, "expected.json"), encoding="utf-8") as file:
        cases = json.load(file)["cases"]
    compared = 0
    with llama_cpp.Server(path, settings, CONTEXT, EXACT) as server:
        for case in cases:
            # The end mark, too, ends what is compared: llama.cpp stops at it.
            safe = next((i for i, margin in enumerate(case["margins"]) if margin < SAFE_MARGIN or i == case["eos_at"]),
                        len(case["ids"]))
            found = server.generate(case["prompt_ids"], safe) if safe else []
            if found != case["ids"][:safe]:
                raise RuntimeError(f"llama.cpp's answer to {case['prompt_ids']}: expected {case['ids'][:safe]}, found {found}")
            compared += safe
    os.remove(path)
    if not compared:
        raise RuntimeError("no token of the demo model's answers leads the next one clearly")
    return compared


def atoll_logprobs(model, profile, ids):
    """For each position of `ids` after the first, {id: log-probability}: of the likeliest and of the one that is there."""
    with cluster.Serve(model, ["--profile", profile, "--context", str(CONTEXT)]) as server, server.client() as client:
        answer = client.generate(api.ids_request(ids, max_tokens=0, prompt_logprobs=TOP, temperature=0), timeout=600)
    return [{token.id: token.logprob, **{top.id: top.logprob for top in token.top}} for token in answer.prompt_logprobs]


def llama_logprobs(path, settings, ids, flags=()):
    with llama_cpp.Server(path, settings, CONTEXT, flags) as server:
        return [server.logprobs(ids[:i], 1 << 20) for i in range(1, len(ids))]


def distance(expected, found):
    """Share of positions with the same most likely token; how far apart the log-probabilities of the ids in `expected` are."""
    def best(position):
        return max(position, key=position.get)

    pairs = [(value, there[token]) for here, there in zip(expected, found) for token, value in here.items() if token in there]
    differences = [abs(a - b) for a, b in pairs]
    mean_a, mean_b = (sum(pair[i] for pair in pairs) / len(pairs) for i in (0, 1))
    covariance = sum((a - mean_a) * (b - mean_b) for a, b in pairs)
    spread = (sum((a - mean_a)**2 for a, _ in pairs) * sum((b - mean_b)**2 for _, b in pairs))**0.5
    return {"positions": len(expected), "top1": sum(best(a) == best(b) for a, b in zip(expected, found)) / len(expected),
            "mean_difference": sum(differences) / len(differences), "max_difference": max(differences),
            "correlation": covariance / spread}


def check_small_lite(folder, settings, tokenizer, size):
    """A random model in float32 with V2-Lite's structure: the largest difference of a log-probability."""
    model, path = os.path.join(folder, "small-lite"), os.path.join(folder, "small-lite.gguf")
    subprocess.run([paths.binary("atoll"), "make-model", *SMALL_LITE, "--tokenizer", tokenizer, "--out", model], check=True,
                   stdout=subprocess.DEVNULL)
    convert.convert(model, path)
    ids = prompt(size, convert.Checkpoint(model).config["vocab_size"])
    found = distance(atoll_logprobs(model, "reference", ids), llama_logprobs(path, settings, ids, EXACT))
    if not found["max_difference"] <= MAX_EXACT_DIFFERENCE:
        raise RuntimeError(f"llama.cpp and Atoll in float32: expected log-probabilities at most {MAX_EXACT_DIFFERENCE} apart, "
                           f"found {found}")
    os.remove(path)
    shutil.rmtree(model)
    return found
