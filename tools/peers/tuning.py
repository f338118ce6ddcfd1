"""The fastest of llama.cpp's settings for one file and one kind of work, found by changing one setting after another."""

import dataclasses
import json
import os

import llama_cpp

# What matters to every work: (setting, values), in the order of trying.
CHOICES = [("threading", ["openmp", "threads"]), ("repack", [True, False]), ("load", ["mmap", "none"]),
           ("flash_attn", ["on", "off"])]


def tune(measure, start, to_try, repeats):
    """`measure`: settings -> tokens a second; of `repeats` the fastest counts. All that were tried with their speed, the
    fastest first."""
    best, tried = start, {}

    def speed(settings):
        if settings not in tried:
            tried[settings] = max(measure(settings) for _ in range(repeats))
        return tried[settings]

    for name, values in to_try:
        # What comes first stays unless another is faster.
        best = max((dataclasses.replace(best, **{name: value}) for value in values), key=speed)
    return sorted(tried.items(), key=lambda one: -one[1])


class Memory:
    """Results of `tune` in a file: settings are a matter of the machine, and trying takes longer than measuring."""

    def __init__(self, path):
        self.path = path
        self.found = {}
        if os.path.exists(path):
            with open(path, encoding="utf-8") as file:
                self.found = json.load(file)

    def tuned(self, key, *arguments):
        """`tune(...)`, or what it gave under this key before."""
        if key not in self.found:
            self.found[key] = [(dataclasses.asdict(settings), speed) for settings, speed in tune(*arguments)]
            with open(self.path, "w", encoding="utf-8") as file:
                json.dump(self.found, file, indent=1)
        return [(llama_cpp.Settings(**settings), speed) for settings, speed in self.found[key]]
