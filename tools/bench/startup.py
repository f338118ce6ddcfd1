#!/usr/bin/env python3
"""Where a user waits: from starting `atoll serve` to the first token, memory, and the first token after a long prompt.

    startup.py --model DIR [--profiles bf16,fp8w,q8,q4] [--threads N] [--packed-cache DIR] [--prompt-tokens 4096] [--rounds N]

A profile's starts, each with the roof that binds it, turn by turn; the best of the rounds is printed:

    cold          from the checkpoint, not in the page cache            the disk's read rate
    page cache    from the checkpoint, in the page cache                GB/s a core
    keeping       the same, writing a packed cache                      GB/s a core
    packed        from the packed cache, in the page cache              copying the files into huge pages
    packed cold   from the packed cache, not in the page cache          the disk's read rate
    mapped        the packed cache mapped, in the page cache            copying the files into huge pages

GB/s are bytes of the checkpoint, or of the packed cache, over the time that the server spent on loading. Then decode with the
weights mapped beside decode with them copied, turn by turn. Prints a row and a line of JSON a case.
"""

import argparse
import json
import os
import re
import shutil
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import file_roofs  # noqa: E402
import streams  # noqa: E402
from atoll_client import api, cluster  # noqa: E402

LOADED = re.compile(r"loaded ([\d.]+) MB of packed weights in ([\d.]+) s(?:: ([\d.]+) MB made)?")


def checkpoint_files(folder):
    return [os.path.join(folder, name) for name in sorted(os.listdir(folder)) if name.endswith(".safetensors")]


def packed_files(folder):
    return [os.path.join(at, name) for at, _, names in sorted(os.walk(folder)) for name in sorted(names)]


def memory_gb(pid, field):
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        return next(int(line.split()[1]) * 1024 / 1e9 for line in file if line.startswith(field + ":"))


def serve(flags, profile, more=()):
    return cluster.Serve(flags.model, ["--profile", profile, "--context", str(flags.prompt_tokens + 64), "--threads",
                                       str(flags.threads), *more])


def ttft(client, prompt_tokens):
    request = api.ids_request(streams.prompt(1, prompt_tokens, streams.vocabulary(client)), max_tokens=8, temperature=0,
                              ignore_eos=True)
    stream = streams.run_stream(client, request)
    if stream.error:
        raise RuntimeError(stream.error)
    return stream.ttft


def start(flags, profile, more, with_prompt):
    """One start of a server: seconds and GB."""
    begin = time.monotonic()
    with serve(flags, profile, more) as server, server.client() as client:
        client.generate(api.ids_request([1], max_tokens=1, temperature=0, ignore_eos=True))
        found = {"first_token_s": time.monotonic() - begin}
        packed_mb, load_s, made_mb = LOADED.search(server.log()).groups()
        found |= {"load_s": float(load_s), "packed_gb": float(packed_mb) / 1e3,
                  "made_gb": float(made_mb or packed_mb) / 1e3}
        if with_prompt:
            found["ttft_s"] = ttft(client, flags.prompt_tokens)
        found |= {"anonymous_gb": memory_gb(server.pid, "RssAnon"), "mapped_gb": memory_gb(server.pid, "RssFile"),
                  "peak_gb": memory_gb(server.pid, "VmHWM")}
        return found


class Case:
    def __init__(self, name, files, more, prepare, roof, cores, makes):
        self.name = name
        self.files = files  # () -> paths that are loaded
        self.more = more
        self.prepare = prepare
        self.roof = roof  # None: none binds
        self.cores = cores  # GB/s are of so many
        self.makes = makes  # weights are made from the checkpoint


def cases(flags, folder):
    checkpoint = checkpoint_files(flags.model)
    packed = lambda: packed_files(folder)  # noqa: E731
    keep = ["--packed-cache", folder]
    warm_checkpoint = lambda: file_roofs.read_all(checkpoint, flags.threads)  # noqa: E731
    warm_packed = lambda: file_roofs.read_all(packed(), flags.threads)  # noqa: E731

    def disk(files):
        file_roofs.evict(files)
        rate = file_roofs.read_all(files, flags.threads)
        file_roofs.evict(files)
        return rate

    def forget():
        shutil.rmtree(folder, ignore_errors=True)
        warm_checkpoint()

    copy = lambda: file_roofs.copy_into_huge_pages(packed(), flags.threads)  # noqa: E731
    of_checkpoint = lambda: checkpoint  # noqa: E731
    return [
        Case("cold", of_checkpoint, [], None, lambda: disk(checkpoint), 1, True),
        Case("page cache", of_checkpoint, [], warm_checkpoint, None, flags.threads, True),
        Case("keeping", of_checkpoint, keep, forget, None, flags.threads, True),
        Case("packed", packed, keep, warm_packed, copy, 1, False),
        Case("packed cold", packed, keep, None, lambda: disk(packed()), 1, False),
        Case("mapped", packed, [*keep, "--map-weights"], warm_packed, copy, 1, False),
    ]


def measure(flags, profile, case):
    runs, roofs = [], []
    for turn in range(flags.rounds):
        if case.prepare:
            case.prepare()
        if case.roof:
            roofs.append(case.roof() / 1e9)
        runs.append(start(flags, profile, case.more, case.name == "page cache" and turn == 0))
        if (runs[-1]["made_gb"] > 0) != case.makes:
            raise RuntimeError(f"{case.name}: {runs[-1]['made_gb']} GB of {runs[-1]['packed_gb']} made from the checkpoint")
    best = min(runs, key=lambda run: run["load_s"])
    best["ttft_s"] = runs[0].get("ttft_s")
    best["gbps"] = file_roofs.size_of(case.files()) / best["load_s"] / case.cores / 1e9
    best["roof_gbps"] = max(roofs, default=None)
    best["share"] = best["gbps"] / best["roof_gbps"] if roofs else None
    return {name: round(value, 4) for name, value in best.items() if value is not None}


def show(profile, case, row):
    text = f"{profile:5} {case.name:12} load {row['load_s']:7.2f} s  {row['gbps']:6.2f} GB/s"
    text += " a core" if case.cores > 1 else ""
    if "share" in row:
        text += f" of {row['roof_gbps']:.2f} ({100 * row['share']:.0f} %)"
    text += f"   first token {row['first_token_s']:.2f} s   memory {row['anonymous_gb']:.2f} GB + {row['mapped_gb']:.2f} mapped"
    text += f", at most {row['peak_gb']:.2f}"
    if "ttft_s" in row:
        text += f"   first token of a long prompt {row['ttft_s']:.2f} s"
    print(text, flush=True)
    print(json.dumps({"bench": "startup", "profile": profile, "case": case.name, **row}), flush=True)


def decode_rates(flags, profile, folder):
    """Tokens/s with copied and with mapped weights, the best of turns of both."""
    keep = ["--packed-cache", folder]
    best = {"copied": 0.0, "mapped": 0.0}
    with serve(flags, profile, keep) as copied, serve(flags, profile, [*keep, "--map-weights"]) as mapped:
        with copied.client() as one, mapped.client() as other:
            vocab_size = streams.vocabulary(one)
            for turn in range(flags.decode_rounds):
                for name, client in (("copied", one), ("mapped", other)):
                    request = api.ids_request(streams.prompt(turn, 8, vocab_size), max_tokens=flags.decode_tokens,
                                              temperature=0, ignore_eos=True)
                    stream = streams.run_stream(client, request)
                    if stream.error:
                        raise RuntimeError(stream.error)
                    best[name] = max(best[name], 1 / stream.tpot)
    return best


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--profiles", default="bf16,fp8w,q8,q4")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--packed-cache", help="where the packed cache goes, on the disk to be measured")
    parser.add_argument("--cases", default="", help="some of the names above; else all")
    parser.add_argument("--prompt-tokens", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--decode-rounds", type=int, default=5)
    parser.add_argument("--decode-tokens", type=int, default=24)
    flags = parser.parse_args()
    wanted = [name for name in flags.cases.split(",") if name]
    size = file_roofs.size_of(checkpoint_files(flags.model))
    print(f"checkpoint of {size / 1e9:.2f} GB, {flags.threads} threads")
    parent = flags.packed_cache
    if parent:
        os.makedirs(parent, exist_ok=True)
    for profile in flags.profiles.split(","):
        with tempfile.TemporaryDirectory(prefix="atoll-packed-", dir=parent) as folder:
            for case in cases(flags, folder):
                if not wanted or case.name in wanted or case.name == "keeping":  # which the next ones need
                    show(profile, case, measure(flags, profile, case))
            rates = decode_rates(flags, profile, folder)
        ratio = rates["mapped"] / rates["copied"]
        print(f"{profile:5} decode with mapped weights {rates['mapped']:.2f} tokens/s, {ratio:.3f} of {rates['copied']:.2f}")
        print(json.dumps({"bench": "startup", "profile": profile, "case": "decode",
                          **{name: round(rate, 3) for name, rate in rates.items()}, "ratio": round(ratio, 4)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
