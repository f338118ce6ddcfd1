"""A soak: faults in a random order under load. ./dev soak --help

Streams, greedy and sampled ones with a seed, run without a pause over a cluster that is hurt again and again: the seed
gives the order of the faults. Every answer is compared token by token with one that nothing happened to. Exit code 1 if a
token is lost, doubled or different, a gap exceeds its bound, the cluster does not mend, anything is left over at the end,
or a process ends that nobody ended.
"""

import argparse
import collections
import os
import random
import signal
import sys
import time

from harness import DEMO, make_requests, paths, undisturbed
from namespaces import enter
from soak_cluster import SoakCluster, continue_process, hosted_names, supervised_names
from soak_load import KEPT_GAP_S, Ledger, Load
from soak_schedule import Schedule

STREAMS = 8
PROMPTS = (1, 40, 63, 64, 150, 200, 300)
TOKENS = 160
MENDED_S = 45  # within which all is well after any faults
TOKENS_S = 30  # within which each stream has tokens then
LEFTOVERS_S = 10
POLL_S = 0.1
BACKOFF_S = 5.0  # that the supervisor waits at most before it starts a process that died often
SILENT_S = 8.0  # gRPC gives a silent peer up after 2 s and 4 s
MAX_PROBLEMS = 50  # shown
OVERLAPPING, UNDISTURBED = "overlapping", "none"
# Longest gap of a stream, in seconds, of a fault that was mended before the next one. Overlapping faults may take the sum of
# theirs and the supervisor's wait.
BOUNDS = {
    "kill expert": 1.0, "kill attention": 2.0, "kill router": 1.0, "several": 5.0 + BACKOFF_S,
    "stop expert": 1.0, "stop attention": SILENT_S, "stop router": SILENT_S,
    "drain expert": 1.0, "drain attention": 2.0, "drain router": 1.0,
    "restart expert": 1.0, "restart attention": 2.0, "restart router": 1.0,
    "join expert": 1.0, "join attention": 1.0, "leave expert": 1.0, "leave attention": 2.0,
    "hang up": 1.0, "cut client": 1.0, "cut host expert": 1.0, "cut host attention": SILENT_S, UNDISTURBED: 1.0,
}


class Soak:
    """Faults over a cluster and its load, from this thread alone."""

    def __init__(self, cluster, load, seed):
        self.cluster, self.load = cluster, load
        self.counts = collections.Counter()  # of faults by label
        self.windows = []  # (begin, end, [labels]): from a fault until all is mended
        self._open = []  # (begin, label) of what is not mended
        self._later = []  # (time, function)
        self._order = random.Random(seed)

    def run(self, schedule, seconds):
        began = time.monotonic()
        for fault in schedule:
            if fault.mended_first:
                self.wait_mended()
            self._pause(fault.pause_s)
            if time.monotonic() - began > seconds:
                break
            print(f"{time.monotonic() - began:7.1f} s  {fault}", flush=True)
            self.counts[fault.label] += 1
            self._begin(fault)
            getattr(self, "_" + fault.kind.replace(" ", "_"))(fault)
        self.wait_mended()

    def wait_mended(self):
        """Ends what lasts, then waits until nothing is to be seen of any fault and every stream goes on."""
        while self._later:
            self._tick()
        deadline = time.monotonic() + MENDED_S
        while problem := self._unmended():
            if time.monotonic() > deadline:
                raise TimeoutError(f"not mended within {MENDED_S} s: {problem}")
        self.load.wait_tokens(2, TOKENS_S)
        if self._open:
            self.windows.append((self._open[0][0], time.monotonic(), [label for _, label in self._open]))
            self._open.clear()

    def _unmended(self):
        self._tick()
        return self.cluster.unmended()

    def _begin(self, fault):
        self._open.append((time.monotonic(), fault.label))

    def _tick(self):
        now = time.monotonic()
        for due in [entry for entry in self._later if entry[0] <= now]:
            self._later.remove(due)
            due[1]()
        self.cluster.look_after()
        time.sleep(POLL_S)

    def _pause(self, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self._tick()

    def _after(self, seconds, function):
        self._later.append((time.monotonic() + seconds, function))

    # One method a kind.

    def _kill(self, fault):
        for name in fault.names:
            self.cluster.hit(signal.SIGKILL, name)

    _several = _kill

    def _drain(self, fault):
        for name in fault.names:
            self.cluster.hit(signal.SIGTERM, name)

    _leave = _drain

    def _restart(self, fault):
        """One after the other, each when the one before is back."""
        for i, name in enumerate(fault.names):
            if i > 0:
                self.wait_mended()
                self._begin(fault)
            self.cluster.hit(signal.SIGTERM, name)

    def _stop(self, fault):
        pid, = self.cluster.send(signal.SIGSTOP, *fault.names)
        self._after(fault.seconds, lambda: continue_process(pid))

    def _join(self, fault):
        for name in fault.names:
            self.cluster.join(name)

    def _hang_up(self, fault):
        self.load.hang_up(fault.clients, self._order)

    def _cut_client(self, fault):
        self.load.cut(fault.clients)

    def _cut_host(self, fault):
        name, = fault.names
        self.cluster.cut(name)
        self._after(fault.seconds, lambda: self.cluster.mend(name))


def bound_of(labels):
    return BOUNDS[labels[0]] if len(labels) == 1 else sum(BOUNDS[label] for label in labels) + BACKOFF_S


def judge_gaps(windows, gaps):
    """({label: longest gap}, [what exceeds its bound]). A gap belongs to the last window that it touches: when a window
    ends every stream goes on."""
    longest, problems = collections.Counter(), []
    for begin, end in gaps:
        touched = [window for window in windows if window[0] <= end and window[1] >= begin]
        labels = touched[-1][2] if touched else []
        label = labels[0] if len(labels) == 1 else OVERLAPPING if labels else UNDISTURBED
        longest[label] = max(longest[label], end - begin)
        bound = bound_of(labels) if labels else BOUNDS[UNDISTURBED]
        if end - begin > bound:
            problems.append(f"a gap of {end - begin:.2f} s, expected at most {bound:.2f}: "
                            f"{', '.join(labels) or UNDISTURBED}")
    return longest, problems


def wait_nothing_left(cluster):
    deadline = time.monotonic() + LEFTOVERS_S
    while left := cluster.leftovers():
        if time.monotonic() > deadline:
            return left
        time.sleep(POLL_S)
    return []


def report(soak, ledger, longest, seconds):
    print(f"\n{'fault':<22}{'count':>7}{'longest gap ms':>16}{'bound ms':>10}")
    for label in sorted(soak.counts) + [OVERLAPPING, UNDISTURBED]:
        count = sum(len(labels) > 1 for _, _, labels in soak.windows) if label == OVERLAPPING else soak.counts[label]
        gap = f"{1000 * longest[label]:.0f}" if label in longest else f"< {1000 * KEPT_GAP_S:.0f}"
        bound = f"{1000 * BOUNDS[label]:.0f}" if label in BOUNDS else "sums"
        print(f"{label:<22}{count or '':>7}{gap:>16}{bound:>10}")
    print(f"{sum(soak.counts.values())} faults in {seconds:.0f} s; {ledger.requests} requests, {ledger.tokens} tokens, "
          f"{ledger.resumed} resumed, {ledger.hung_up} hung up; {os.cpu_count()} cores, load {os.getloadavg()[1]:.1f}; "
          f"lost {ledger.lost}, doubled {ledger.doubled}, different {ledger.different}")


def soak_over(cluster, load, ledger, arguments):
    """What is wrong, one line each."""
    names = hosted_names(arguments.dispatch) if cluster.has_hosts else []
    soak = Soak(cluster, load, arguments.seed)
    problems, began = [], time.monotonic()
    try:
        with load:
            soak.run(Schedule(arguments.seed, supervised_names(), names, STREAMS), 60 * arguments.minutes)
            load.finish()
        problems += wait_nothing_left(cluster)
        if (code := cluster.interrupt()) != 0:
            problems.append(f"atoll cluster ended with code {code}, expected 0")
    except (TimeoutError, OSError) as error:
        problems.append(f"{type(error).__name__}: {error}")
    longest, gap_problems = judge_gaps(soak.windows, ledger.gaps)
    report(soak, ledger, longest, time.monotonic() - began)
    return [*problems, *ledger.problems, *gap_problems, *cluster.unwanted_ends()]


def parse(arguments):
    parser = argparse.ArgumentParser(prog="./dev soak", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20, help="of faults (20)")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 31), help="of their order")
    parser.add_argument("--preset", help="a golden checkpoint (v3, v2_lite, ...) in place of the demo model")
    parser.add_argument("--dispatch", choices=["service", "inline"], default="service")
    return parser.parse_args(arguments)


def main():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # nothing is left running
    namespaces = enter(required=False)
    arguments = parse(sys.argv[1:])
    model = os.path.join(paths.BUILD, "golden", arguments.preset, "checkpoint") if arguments.preset else DEMO
    print(f"soak: --seed {arguments.seed} --minutes {arguments.minutes:g} --dispatch {arguments.dispatch}, {model}, "
          f"{STREAMS} streams" + ("" if namespaces else "; no cuts between hosts: no network namespaces here"), flush=True)
    requests = make_requests(model, PROMPTS, TOKENS)
    ledger = Ledger(undisturbed(model, requests))
    with SoakCluster(model, arguments.dispatch, namespaces) as cluster:
        load = Load(cluster.routers, requests, STREAMS, arguments.seed, ledger)
        problems = soak_over(cluster, load, ledger, arguments)
        if problems:
            print(f"---- log of the cluster:\n{cluster.logs()}\n----")
    print("\n".join(problems[:MAX_PROBLEMS]) or "nothing lost, doubled or different; all gaps within their bounds")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
