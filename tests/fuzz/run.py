#!/usr/bin/env python3
"""Runs fuzz targets: ./dev fuzz [--seconds N] [TARGET...]

Each begins with its inputs in tests/fuzz/corpus, what the repository has of that kind besides, and what earlier runs
found (BUILD/corpus). An input that fails is kept in BUILD/failures; the exit code is 1 then.
"""

import argparse
import glob
import hashlib
import json
import os
import re
import struct
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCE = os.path.dirname(os.path.dirname(HERE))
BUILD = os.path.abspath(os.environ.get("ATOLL_BUILD", os.path.join(SOURCE, "build-fuzz")))

# Of each target: its dictionary and the longest input.
TARGETS = {
    "frame": (None, 4096),
    "link": (None, 4096),
    "safetensors": ("json", 4096),
    "config": ("json", 8192),
    "tokenizer": ("json", 8192),
    "chat_template": ("jinja", 8192),
    "request": (None, 4096),
}
INPUT_TIMEOUT_S = 25  # an input that takes longer fails
MEMORY_MIB = 2048


def read(*path):
    with open(os.path.join(SOURCE, *path), "rb") as file:
        return file.read()


def templates_of_goldens():
    goldens = os.path.join("tests", "golden", "chat_template")
    sources = list(json.loads(read(goldens, "models.json"))["templates"].values())
    sources += [case["source"] for case in json.loads(read(goldens, "language.json"))["cases"] if "source" in case]
    return [source.encode() + b"\0Hello" for source in sources]


def demo_header():
    """Of the demo model's first tensors alone."""
    data = read("models", "demo", "model.safetensors")
    size, = struct.unpack_from("<Q", data)
    tensors = json.loads(data[8:8 + size])
    tensors.pop("__metadata__", None)
    first = sorted(tensors.items(), key=lambda item: item[1]["data_offsets"])[:8]
    return [struct.pack("<I", first[-1][1]["data_offsets"][1]) + json.dumps(dict(first)).encode()]


def inputs_of_repository(target):
    """What the repository has of that kind besides tests/fuzz/corpus."""
    if target == "chat_template":
        return templates_of_goldens()
    if target == "config":
        return [read("models", "demo", "config.json") + b"\0" + read("models", "demo", "generation_config.json")]
    if target == "safetensors":
        return demo_header()
    return []


def corpus_of(target):
    """The folder that libFuzzer adds to, with the repository's inputs in it."""
    folder = os.path.join(BUILD, "corpus", target)
    os.makedirs(folder, exist_ok=True)
    for data in inputs_of_repository(target):
        with open(os.path.join(folder, hashlib.sha1(data).hexdigest()), "wb") as file:
            file.write(data)
    return folder


def command_of(target, seconds):
    dictionary, max_bytes = TARGETS[target]
    failures = os.path.join(BUILD, "failures", target) + "-"
    os.makedirs(os.path.dirname(failures), exist_ok=True)
    command = [os.path.join(BUILD, "bin", "fuzz_" + target), f"-max_total_time={seconds}", f"-max_len={max_bytes}",
               f"-timeout={INPUT_TIMEOUT_S}", f"-rss_limit_mb={MEMORY_MIB}", f"-artifact_prefix={failures}",
               "-print_final_stats=1"]
    if dictionary:
        command.append("-dict=" + os.path.join(HERE, "dict", dictionary + ".dict"))
    return [*command, corpus_of(target), os.path.join(HERE, "corpus", target)]


def environment():
    symbolizer = next(iter(sorted(glob.glob("/usr/bin/llvm-symbolizer*"), reverse=True)), None)
    return {**os.environ, **({"ASAN_SYMBOLIZER_PATH": symbolizer} if symbolizer else {}),
            "ASAN_OPTIONS": "allow_addr2line=1:detect_stack_use_after_return=0",
            "UBSAN_OPTIONS": "halt_on_error=1:print_stacktrace=1",
            "LSAN_OPTIONS": f"suppressions={SOURCE}/tools/lsan.supp:print_suppressions=0"}


def run(target, seconds):
    """True if nothing failed."""
    began = time.monotonic()
    ended = subprocess.run(command_of(target, seconds), env=environment(), stdout=subprocess.PIPE,
                           stderr=subprocess.STDOUT, text=True, errors="replace", check=False)
    runs = re.search(r"stat::number_of_executed_units: (\d+)", ended.stdout)
    covered = re.findall(r"cov: (\d+)", ended.stdout)
    print(f"fuzz {target}: {runs.group(1) if runs else '?'} inputs in {time.monotonic() - began:.0f} s, "
          f"{covered[-1] if covered else '?'} edges, {len(os.listdir(corpus_of(target)))} inputs kept; "
          f"{'clean' if ended.returncode == 0 else 'FAILED'}", flush=True)
    if ended.returncode == 0 and runs:
        return True
    print(ended.stdout[-8000:])
    kept = re.search(r"Test unit written to (\S+)", ended.stdout)
    if kept:
        print(f"again: {os.path.join(BUILD, 'bin', 'fuzz_' + target)} {kept.group(1)}", flush=True)
    return False


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=60, help="of each target (60)")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="all without one: " + ", ".join(TARGETS))
    arguments = parser.parse_args()
    unknown = [target for target in arguments.targets if target not in TARGETS]
    if unknown:
        parser.error(f"expected {', '.join(TARGETS)}, found {', '.join(unknown)}")
    if arguments.seconds < 1:
        parser.error(f"--seconds: expected at least 1, found {arguments.seconds}")
    results = [run(target, arguments.seconds) for target in arguments.targets or TARGETS]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
