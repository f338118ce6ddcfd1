#!/usr/bin/env python3
"""Atoll beside llama.cpp: the same random checkpoint at the same weight bits, turn by turn, with the same threads.

    peers.py [--shapes v2-lite,v3] [--formats bf16,q8,q4] [--rounds N] [--folder DIR] ...

`./dev bench peers` builds llama.cpp first (PyPI's llama-cpp-python carries its source; a quarter of an hour on two cores).
For each shape: the checkpoint is made and converted to GGUF (tools/peers/convert.py); llama.cpp's answers are compared with
Atoll's; its fastest settings are sought and kept in the build folder; then rounds of decode at batch 1 and 16 streams, of
prompts, and where a user waits. Prints medians, the median of the rounds' ratios, both engines' shares of the roofs measured
between their turns, what others took of the machine, and a line of JSON a row. Needs up to 45 GB of disk in --folder, where
nothing is left.
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(HERE, "..", "peers")]

import agreement  # noqa: E402
import convert  # noqa: E402
import gguf_file  # noqa: E402
import llama_cpp  # noqa: E402
import machine  # noqa: E402
import starts  # noqa: E402
import tuning  # noqa: E402
from atoll_client import paths  # noqa: E402
from programs import program, read_roof  # noqa: E402

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
TRIAL_TOKENS = 8  # decoded to try settings
UBATCHES = [128, 256, 512, 1024, 2048]  # tried for prompts of as many tokens, up to four times as many
GGUF_SHARE = 1.6  # of a checkpoint's bytes, for its files in bf16 and q8_0


def stack_flags(model, profile, flags):
    return ["--model", model, "--profile", profile, "--threads", str(flags.threads)]


def atoll_decode(model, profile, flags):
    """{work: its row: tokens_per_s, gops and roof_gops, bytes_per_token}."""
    one, several = program("decode", *stack_flags(model, profile, flags), "--batch", f"1,{STREAMS}", "--prompt", str(PROMPT),
                           "--tokens", str(flags.tokens))
    return {"decode": one, f"{STREAMS} streams": several}


def atoll_prompts(model, profile, flags):
    lengths = [WARM_UP, *flags.lengths]
    rows = program("prefill", *stack_flags(model, profile, flags), "--lengths", ",".join(map(str, lengths)), "--rounds", "1")
    return {f"prompt {row['tokens']}": row for row in rows[1:]}


def llama_works(path, tokens, lengths):
    """{work: function of settings -> tokens a second}, in the order of measuring."""
    def prompt(length):
        return lambda settings: llama_cpp.prefill(path, settings, [length], WARM_UP)[length]

    return {"decode": lambda settings: llama_cpp.decode(path, settings, PROMPT, tokens),
            f"{STREAMS} streams": lambda settings: llama_cpp.streams(path, settings, STREAMS, PROMPT, tokens),
            **{f"prompt {length}": prompt(length) for length in lengths}}


def find_settings(path, shape, kind, flags):
    """{work: the fastest settings}; prints all that were tried."""
    start = llama_cpp.Settings(threads=flags.threads)
    works = llama_works(path, TRIAL_TOKENS, flags.lengths)
    if flags.untuned:
        return {work: start for work in works}
    memory, best = tuning.Memory(flags.settings or os.path.join(llama_cpp.FOLDER, "settings.json")), {}

    def find(work, begin, to_try, repeats=1):
        tried = memory.tuned(f"{shape} {kind} {work}, {flags.threads} threads", works[work], begin, to_try, repeats)
        best[work] = tried[0][0]
        print(f"  llama.cpp {kind}, {work}: " + "; ".join(f"{settings}: {speed:.2f}" for settings, speed in tried), flush=True)

    find("decode", start, [*tuning.CHOICES, ("threads", [flags.threads, max(1, flags.threads // 2)])], repeats=2)
    find(f"{STREAMS} streams", start, [*tuning.CHOICES, ("unified", [False, True])])
    # Longer prompts start from the shortest one's settings.
    first, *others = sorted(flags.lengths)
    find(f"prompt {first}", start, tuning.CHOICES, repeats=2)
    for length in others:
        begin = best[f"prompt {first}"]
        find(f"prompt {length}", begin, [("ubatch", [begin.ubatch, *(n for n in UBATCHES if n <= length <= 4 * n)])])
    return best


def measure_round(model, path, profile, settings, flags, atoll_first):
    """{work: row}. Decode of one and of several, then prompts: each a turn of each engine, with the read roof before,
    between and after."""
    works, rows = llama_works(path, flags.tokens, flags.lengths), {}
    for measure, names in ((atoll_decode, list(works)[:2]), (atoll_prompts, list(works)[2:])):
        turns = [lambda: measure(model, profile, flags), lambda: {work: works[work](settings[work]) for work in names}]
        others, roofs, found = machine.Others(), [read_roof(flags.threads)], {}
        for which in (0, 1) if atoll_first else (1, 0):
            found[which] = turns[which]()
            roofs.append(read_roof(flags.threads))
        for work in names:
            rows[work] = compare(found[0][work], found[1][work], statistics.median(roofs), gguf_file.active_bytes(path))
            rows[work]["others"] = others.share()
    return rows


def compare(atoll, llama_speed, read_gbps, llama_bytes):
    """`atoll`: a row of its benchmark; `llama_speed` in tokens a second. One sequence's tokens are held against the read
    roof, each engine with its own bytes; the rest, the same multiplications in both, against the instruction's that Atoll's
    products use."""
    speed = atoll["tokens_per_s"]
    row = {"atoll": speed, "llama_cpp": llama_speed, "ratio": speed / llama_speed, "read_gbps": read_gbps}
    if atoll.get("batch") == 1:
        return row | {"atoll_share": speed * atoll["bytes_per_token"] / 1e9 / read_gbps,
                      "llama_cpp_share": llama_speed * llama_bytes / 1e9 / read_gbps}
    share = atoll["gops"] / atoll["roof_gops"]
    return row | {"atoll_share": share, "llama_cpp_share": share * llama_speed / speed}


def compare_speed(model, path, shape, profile, flags):
    kind = FORMATS[profile]
    settings = find_settings(path, shape, kind, flags)
    rounds = [measure_round(model, path, profile, settings, flags, turn % 2 == 0) for turn in range(flags.rounds)]
    for work in rounds[0]:
        row = {name: round(statistics.median(one[work][name] for one in rounds), 4) for name in rounds[0][work]}
        roof = f"the read roof of {row['read_gbps']:.1f} GB/s" if work == "decode" else "the arithmetic roof"
        print(f"{shape:8} {profile:5} {work:12} Atoll {row['atoll']:8.2f} tokens/s   llama.cpp {row['llama_cpp']:8.2f}   "
              f"ratio {row['ratio']:6.2f}   of {roof}: {100 * row['atoll_share']:.0f} %, {100 * row['llama_cpp_share']:.0f} %   "
              f"others {100 * row['others']:.0f} %")
        print(json.dumps({"bench": "peers", "shape": shape, "profile": profile, "llama_cpp_type": kind, "work": work,
                          "threads": flags.threads, "rounds": flags.rounds, "settings": str(settings[work]), **row}),
              flush=True)
    return settings


def compare_starts(model, path, shape, profile, settings, vocab_size, flags):
    prompt = starts.prompt(flags.context, vocab_size)
    found = {"atoll": starts.atoll(model, profile, flags.threads, prompt), "llama_cpp": starts.llama(path, settings, prompt)}
    for engine, row in found.items():
        row = {name: round(value, 3) for name, value in row.items()}
        print(f"{shape:8} {profile:5} {engine:9} first token {row['first_token_s']:6.1f} s after the start   resident "
              f"{row['rss_gb']:6.2f} GB, at most {row['peak_gb']:6.2f}   first token of a prompt of {flags.context}: "
              f"{row['ttft_s']:.2f} s")
        print(json.dumps({"bench": "peers", "shape": shape, "profile": profile, "work": "start", "engine": engine,
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
    size = sum(entry.stat().st_size for entry in os.scandir(model))
    free = shutil.disk_usage(folder).free
    if free < GGUF_SHARE * size:
        raise OSError(f"{folder}: expected {GGUF_SHARE * size / 1e9:.1f} GB free for GGUF files, found {free / 1e9:.1f}")
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
            compare_starts(model, path, shape, profile, longest, vocab_size, flags)
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
    parser.add_argument("--untuned", action="store_true", help="llama.cpp with its defaults, and flash attention on")
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
    # Ended by SIGTERM, too, it leaves nothing.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    os.makedirs(flags.folder)
    try:
        print(json.dumps({"bench": "peers", "work": "machine", "threads": flags.threads, **machine.describe()}))
        if flags.agreement_tokens:
            check_conversion(flags.folder, flags)
        for shape in flags.shapes:
            compare_shape(flags.folder, shape, flags)
    finally:
        shutil.rmtree(flags.folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
