"""Bounds that a run has to keep: bench/ghz/gates.json, and --gate NAME=VALUE over it."""

import json
import os

from load import ghz

# name -> (what it is of a run's figures, whether the bound is the most or the least allowed)
MEANINGS = {
    "p50_ms": ("a call took, at the median", "most"),
    "p95_ms": ("95 % of the calls took at most", "most"),
    "p99_ms": ("99 % of the calls took at most", "most"),
    "ttft_p95_ms": ("95 % of the first tokens came within", "most"),
    "itl_p95_ms": ("95 % of the gaps between tokens were at most", "most"),
    "tpot_p95_ms": ("95 % of the mean gaps of a request were at most", "most"),
    "calls_per_s": ("calls answered a second", "least"),
    "drift": ("p95 of the last quarter over that of the first", "most"),
    "memory_growth": ("memory of all processes at the end over that at a quarter of the time", "most"),
    "refused_p99_ms": ("99 % of the refusals came within", "most"),
    "retry_after_ms": ("a refusal asks to wait at least", "least"),
    "good_ratio": ("calls answered a second while overloaded, over capacity", "least"),
    "pace_ratio": ("mean time of accepted calls without their queueing, over that at capacity", "most"),
    "accepted_ratio": ("p95 of accepted calls over what p95 at capacity and a full queue make", "most"),
    "recovery_ms": ("the last refusal came after the end of the overload by", "most"),
    "recovered_ratio": ("p95 after the overload over that at capacity", "most"),
}


def load(kind, overrides=()):
    """{name: bound} of a kind of load. overrides: texts NAME=VALUE; ValueError says what is wrong with one."""
    with open(os.path.join(ghz.CONFIGS, "gates.json"), encoding="utf-8") as file:
        gates = dict(json.load(file)[kind])
    for text in overrides:
        name, equals, value = text.partition("=")
        if name not in MEANINGS or not equals:
            raise ValueError(f"--gate {text}: expected NAME=VALUE with one of {', '.join(MEANINGS)}")
        try:
            gates[name] = float(value)
        except ValueError as error:
            raise ValueError(f"--gate {text}: expected a number, found \"{value}\"") from error
    return gates


def check(gates, figures):
    """[(name, bound, found, kept)] in the order of MEANINGS. A figure that was not measured breaks its gate."""
    rows = []
    for name, (_, way) in MEANINGS.items():
        if name in gates:
            found = figures.get(name)
            kept = found is not None and (found <= gates[name] if way == "most" else found >= gates[name])
            rows.append((name, gates[name], found, kept))
    return rows


def problems(rows):
    return [f"gate {name}: {MEANINGS[name][0]} {'nothing' if found is None else format(found, '.6g')}, expected at "
            f"{MEANINGS[name][1]} {bound:g}" for name, bound, found, kept in rows if not kept]
