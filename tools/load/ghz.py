"""Runs of ghz, and what its JSON says of the calls."""

import collections
import datetime
import json
import math
import os
import subprocess

from atoll_client import paths

BINARY = os.path.join(paths.BUILD, "tools", "ghz")
CONFIGS = os.path.join(paths.SOURCE, "bench", "ghz")

# One call: seconds since the first call began, seconds it took, and its gRPC status as ghz spells it ("OK").
Call = collections.namedtuple("Call", "begin seconds status")


class Ghz:
    """One run of ghz under way. Arguments as on its command line; paths in them are relative to the sources."""

    def __init__(self, arguments, address, report_path):
        self.report_path = report_path
        self.process = subprocess.Popen([BINARY, "--insecure", "--format", "json", "--output", report_path, *arguments,
                                         address], cwd=paths.SOURCE)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()

    def end(self):
        self.process.kill()
        self.process.wait()

    def report(self):
        """Waits for the end. ghz's exit code tells nothing of calls that failed: see statuses."""
        if self.process.wait() != 0:
            raise RuntimeError(f"ghz ended with code {self.process.returncode}")
        with open(self.report_path, encoding="utf-8") as file:
            return json.load(file)


def config_path(kind):
    return os.path.join(CONFIGS, kind + ".json")


def config(kind):
    with open(config_path(kind), encoding="utf-8") as file:
        return json.load(file)


def seconds_of(moment):
    """Of an RFC 3339 timestamp; digits beyond microseconds are dropped."""
    return datetime.datetime.fromisoformat(moment).timestamp()


def calls_of(report, origin=None):
    """Calls in the order of their beginning. origin: the moment that times count from, in seconds since 1970."""
    calls = []
    for detail in report["details"] or []:
        seconds = detail["latency"] / 1e9
        begin = seconds_of(detail["timestamp"]) - seconds  # ghz writes down when a call ended
        calls.append(Call(begin, seconds, detail["status"]))
    calls.sort()
    if origin is None:
        origin = calls[0].begin if calls else 0.0
    return [call._replace(begin=call.begin - origin) for call in calls]


def statuses(calls):
    return dict(collections.Counter(call.status for call in calls))


def quantile(values, share):
    """The smallest value that so many of the values do not exceed; None without values."""
    ordered = sorted(values)
    return ordered[max(math.ceil(share * len(ordered)), 1) - 1] if ordered else None
