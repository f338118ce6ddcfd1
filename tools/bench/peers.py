#!/usr/bin/env python3
"""Atoll beside llama.cpp: the same random checkpoint at the same weight bits, turn by turn, with the same threads.

    peers.py [--shapes v2-lite,v3] [--formats bf16,q8,q4] [--rounds N] [--folder DIR] ...

`./dev bench peers` builds llama.cpp first (PyPI's llama-cpp-python carries its source; a quarter of an hour on two cores).
For each shape: the checkpoint is made and converted to GGUF (tools/peers/convert.py); llama.cpp's answers are compared with
Atoll's; its fastest settings are sought and kept in the build folder; then rounds of decode at batch 1, prompts and 16
streams, and where a user waits. Prints medians, the median of the rounds' ratios, both engines' shares of the roofs measured
between their runs, and a line of JSON a row. Needs up to 45 GB of disk in --folder, where nothing is left.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "..", "peers")]

import agreement  # noqa: E402
import convert  # noqa: E402
import gguf_file  # noqa: E402
import llama_cpp  # noqa: E402
import startup  # noqa: E402
import streams  # noqa: E402
import tuning  # noqa: E402
from atoll_client import paths  # noqa: E402

SHAPES = {
    # The real one's work per token: llama.cpp knows the family by its 27 layers, so experts are cut.
    "v2-lite": ["--preset", "v2-lite", "--experts", "16"],
    # DeepSeek-V3's widths, heads and gate; small experts and few layers, to fit in 24 GiB.
    "v3": ["--preset", "v3", "--layers", "4", "--set",
           "moe_intermediate_size=256,first_k_dense_replace=1,num_nextn_predict_layers=0"],
}
FORMATS = {"bf16": "bf16", "q8": "q8_0", "q4": "q4_0"}
STREAMS = 16
PROMPT = 16  # tokens before what is decoded
WARM_UP = 64  # tokens of a prompt before those that are measured
LARGE_UBATCHES = [1024, 2048]  # for prompts that have so many tokens
ROOF_ROUNDS = "5"


def median(values):
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def program(name, *arguments):
    """The lines of JSON of one of Atoll's benchmarks."""
    output = subprocess.run([paths.binary(name + "_bench"), *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")]


def read_roof(threads):
    return program("roof", "--threads", str(threads), "--rounds", ROOF_ROUNDS)[0]["read_gbps"]


def run_atoll(model, profile, flags):
    """{work: its row: tokens_per_s, gops and roof_gops, bytes_per_token of decode}."""
    common = ["--model", model, "--profile", profile, "--threads", str(flags.threads)]
    decode = program("decode", *common, "--batch", f"1,{STREAMS}", "--prompt", str(PROMPT), "--tokens", str(flags.tokens))
    lengths = [WARM_UP, *flags.lengths]
    prefill = program("prefill", *common, "--lengths", ",".join(map(str, lengths)), "--rounds", "1")
    return {"decode": decode[0], f"{STREAMS} streams": decode[1],
            **{f"prompt {row['tokens']}": row for row in prefill[1:]}}


def llama_works(path, flags):
    """{work: function of settings -> tokens a second}."""
    def prompt(length):
        return lambda settings: llama_cpp.prefill(path, settings, [length], WARM_UP)[length]

    return {"decode": lambda settings: llama_cpp.decode(path, settings, PROMPT, flags.tokens),
            f"{STREAMS} streams": lambda settings: llama_cpp.streams(path, settings, STREAMS, PROMPT, flags.tokens),
            **{f"prompt {length}": prompt(length) for length in flags.lengths}}


def find_settings(path, shape, kind, flags):
    """{work: the fastest settings}; prints all that were tried."""
    memory = tuning.Memory(flags.settings or os.path.join(llama_cpp.FOLDER, "settings.json"))
    works, best = llama_works(path, flags), {}

    def find(work, start, to_try):
        tried = memory.tuned(f"{shape} {kind} {work}, {flags.threads} threads", works[work], start, to_try)
        best[work] = tried[0][0]
        print(f"  llama.cpp {kind}, {work}: " + "; ".join(f"{settings}: {speed:.2f}" for settings, speed in tried), flush=True)

    start, every = llama_cpp.Settings(threads=flags.threads), tuning.choices(flags.threads)
    find("decode", start, every)
    find(f"{STREAMS} streams", start, [*every, ("unified", [False, True])])
    # Prompts of other lengths start from the first one's settings.
    first, *others = sorted(flags.lengths, key=lambda length: (abs(length - start.ubatch), length))
    find(f"prompt {first}", start, [*every, ("ubatch", [512, 256, 128])])
    for length in others:
        begin = best[f"prompt {first}"]
        larger = [n for n in LARGE_UBATCHES if n <= length]
        find(f"prompt {length}", begin, [("ubatch", [begin.ubatch, *larger])])
    return best


def active_bytes(path):
    """Of weights that a token reads: all but the embedding's table, of the experts the chosen ones."""
    keys, tensors = gguf_file.read_head(path)
    share = keys["deepseek2.expert_used_count"] / keys["deepseek2.expert_count"]
    return sum(tensor.num_bytes * (share if "_exps." in tensor.name else 1) for tensor in tensors
               if tensor.name != "token_embd.weight")


def measure_round(model, path, profile, settings, flags, atoll_first):
    """{work: row}, of one turn of each engine with the read roof before, between and after."""
    works = llama_works(path, flags)
    turns = [lambda: run_atoll(model, profile, flags), lambda: {work: works[work](settings[work]) for work in works}]
    roofs, found = [read_roof(flags.threads)], {}
    for which in (0, 1) if atoll_first else (1, 0):
        found[which] = turns[which]()
        roofs.append(read_roof(flags.threads))
    rows = {}
    for work, row in found[0].items():
        # The same multiplications in both engines, against the roof of the instruction that Atoll's products use.
        share = row["gops"] / row["roof_gops"]
        rows[work] = {"atoll": row["tokens_per_s"], "llama_cpp": found[1][work],
                      "ratio": row["tokens_per_s"] / found[1][work], "read_gbps": median(roofs),
                      "atoll_share": share, "llama_cpp_share": share * found[1][work] / row["tokens_per_s"]}
        if work == "decode":
            rows[work]["atoll_share"] = row["tokens_per_s"] * row["bytes_per_token"] / 1e9 / median(roofs)
            rows[work]["llama_cpp_share"] = found[1][work] * active_bytes(path) / 1e9 / median(roofs)
    return rows


def compare_speed(model, path, shape, profile, flags):
    kind = FORMATS[profile]
    settings = find_settings(path, shape, kind, flags)
    rounds = [measure_round(model, path, profile, settings, flags, turn % 2 == 0) for turn in range(flags.rounds)]
    for work in rounds[0]:
        row = {name: round(median([one[work][name] for one in rounds]), 4) for name in rounds[0][work]}
        roof = f"the read roof of {row['read_gbps']:.1f} GB/s" if work == "decode" else "the arithmetic roof"
        print(f"{shape:8} {profile:5} {work:12} Atoll {row['atoll']:9.2f} tokens/s   llama.cpp {row['llama_cpp']:9.2f}   ratio "
              f"{row['ratio']:6.2f}   {100 * row['atoll_share']:.0f} and {100 * row['llama_cpp_share']:.0f} % of {roof}")
        print(json.dumps({"bench": "peers", "shape": shape, "profile": profile, "llama_cpp_type": kind, "work": work,
                          "threads": flags.threads, "rounds": flags.rounds, **row,
                          "llama_cpp_settings": str(settings[work])}), flush=True)
    return settings


def llama_startup(path, settings, prompt_tokens, vocab_size):
    begin = time.monotonic()
    with llama_cpp.Server(path, settings, prompt_tokens + 64) as server:
        server.first_token([1])
        first_token = time.monotonic() - begin
        begin = time.monotonic()
        server.first_token(streams.prompt(1, prompt_tokens, vocab_size))
        ttft = time.monotonic() - begin
        return {"first_token_s": first_token, "rss_gb": startup.memory_bytes(server.pid, "VmRSS") / 1e9,
                "peak_gb": startup.memory_bytes(server.pid, "VmHWM") / 1e9, "ttft_s": ttft}


def compare_startup(model, path, shape, profile, settings, vocab_size, flags):
    found = {"atoll": startup.measure(argparse.Namespace(model=model, prompt_tokens=flags.context), profile),
             "llama_cpp": llama_startup(path, settings, flags.context, vocab_size)}
    for engine, row in found.items():
        row = {name: round(value, 3) for name, value in row.items()}
        print(f"{shape:8} {profile:5} {engine:9} first token {row['first_token_s']:6.1f} s after the start   resident "
              f"{row['rss_gb']:6.2f} GB, at most {row['peak_gb']:6.2f}   first token of a prompt of {flags.context}: "
              f"{row['ttft_s']:.2f} s")
        print(json.dumps({"bench": "peers", "shape": shape, "profile": profile, "work": "startup", "engine": engine,
                          "prompt_tokens": flags.context, **row}), flush=True)


def compare_answers(model, path, shape, profile, reference, ids, settings):
    """How far both engines' log-probabilities are from Atoll's reference profile."""
    for engine, found in (("atoll", agreement.atoll_logprobs(model, profile, ids)),
                          ("llama_cpp", agreement.llama_logprobs(path, settings, ids))):
        row = agreement.distance(reference, found)
        print(f"{shape:8} {profile:5} {engine:9} from the reference at {row['positions']} positions: the same token at "
              f"{100 * row['top1']:.0f} %, log-probabilities {row['mean_difference']:.4f} apart (at most "
              f"{row['max_difference']:.3f}), correlation {row['correlation']:.4f}")
        print(json.dumps({"bench": "peers", "shape": shape, "profile": profile, "work": "agreement", "engine": engine,
                          **{name: round(value, 5) for name, value in row.items()}}), flush=True)


def check_conversion(folder, flags):
    """RuntimeError if llama.cpp does not compute what the checkpoint says."""
    settings = llama_cpp.Settings(threads=flags.threads, flash_attn="off")
    tokens = agreement.check_demo(folder, settings)
    print(f"llama.cpp gives the demo model's expected answers: {tokens} greedy tokens")
    row = agreement.check_small_lite(folder, settings, flags.tokenizer, flags.agreement_tokens)
    print(f"float32, V2-Lite's structure, {row['positions']} positions: log-probabilities at most {row['max_difference']:.5f} "
          "apart", flush=True)


def compare_shape(folder, shape, flags):
    model, full = os.path.join(folder, shape), os.path.join(folder, shape + ".gguf")
    subprocess.run([paths.binary("atoll"), "make-model", *SHAPES[shape], "--tokenizer", flags.tokenizer, "--out", model],
                   check=True)
    convert.convert(model, full)
    vocab_size = convert.Checkpoint(model).config["vocab_size"]
    ids = agreement.prompt(flags.agreement_tokens, vocab_size)
    reference = agreement.atoll_logprobs(model, "reference", ids) if ids else None
    for profile in flags.formats:
        path = full
        if profile != "bf16":
            path = os.path.join(folder, f"{shape}-{FORMATS[profile]}.gguf")
            llama_cpp.quantize(full, path, FORMATS[profile])
        if ids:
            compare_answers(model, path, shape, profile, reference, ids, llama_cpp.Settings(threads=flags.threads))
        settings = compare_speed(model, path, shape, profile, flags)
        if flags.context:
            longest = settings[f"prompt {max(flags.lengths)}"]
            compare_startup(model, path, shape, profile, longest, vocab_size, flags)
        if path != full:
            os.remove(path)
    os.remove(full)
    shutil.rmtree(model)


def numbers(text):
    return [int(one) for one in text.split(",")]


def parse_flags():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", default="v2-lite,v3", type=lambda text: text.split(","))
    parser.add_argument("--formats", default="bf16,q8,q4", type=lambda text: text.split(","))
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--lengths", default=[128, 512, 2048], type=numbers, help="tokens of the prompts")
    parser.add_argument("--tokens", type=int, default=32, help="to decode")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--context", type=int, default=4096, help="prompt of the first token's time; 0: no start is measured")
    parser.add_argument("--agreement-tokens", type=int, default=33, help="of the text that is compared; 0: nothing is")
    parser.add_argument("--folder", default=os.path.join(llama_cpp.FOLDER, "models"), help="for checkpoints and GGUF files")
    parser.add_argument("--settings", help="file of llama.cpp's fastest settings; what it lacks is sought and added")
    parser.add_argument("--tokenizer", default=os.path.join(paths.BUILD, "golden", "tokenizer"))
    flags = parser.parse_args()
    for name in flags.shapes:
        if name not in SHAPES:
            parser.error(f"--shapes: expected some of {', '.join(SHAPES)}, found {name}")
    for name in flags.formats:
        if name not in FORMATS:
            parser.error(f"--formats: expected some of {', '.join(FORMATS)}, found {name}")
    return flags


def main():
    flags = parse_flags()
    if os.path.exists(flags.folder):
        print(f"peers: {flags.folder} is there already: it may belong to another run; remove it", file=sys.stderr)
        return 1
    os.makedirs(flags.folder)
    try:
        if flags.agreement_tokens:
            check_conversion(flags.folder, flags)
        for shape in flags.shapes:
            compare_shape(flags.folder, shape, flags)
    finally:
        shutil.rmtree(flags.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
