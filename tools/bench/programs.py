"""Runs of the benchmarks that are programs, for those that need a figure of theirs."""

import json
import os
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

from atoll_client import paths  # noqa: E402

PROGRAM_TIMEOUT_S = 1800
ROOF_ROUNDS = "5"


def program(name, *arguments):
    """The lines of JSON of one of Atoll's benchmarks."""
    output = subprocess.run([paths.binary(name + "_bench"), *arguments], check=True, stdout=subprocess.PIPE, text=True,
                            timeout=PROGRAM_TIMEOUT_S).stdout
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")]


def read_roof(threads=None):
    """GB/s that DRAM is read at, now; threads: one a core if not given."""
    threads = threads or len(os.sched_getaffinity(0))
    return program("roof", "--threads", str(threads), "--rounds", ROOF_ROUNDS)[0]["read_gbps"]


def bytes_per_token(model, profile):
    """Bytes of weights that a token alone reads. Loads the model for it."""
    return program("decode", "--model", model, "--profile", profile, "--tokens", "1", "--prompt", "1")[0]["bytes_per_token"]
