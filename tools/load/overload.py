"""Load past capacity: who is refused hears of it at once, who is accepted keeps its pace, and it ends when the load does."""

import threading
import time

import grpc

from atoll_client import api
from load import gates, ghz, kinds, server_metrics

CONCURRENT = 8  # requests that run at a time, by default; twice as many may wait
FACTOR = 3  # of capacity
DURATION_S = 8.0
REFUSED = "ResourceExhausted"


def limits(arguments):
    """(requests that run, requests that wait) at the router."""
    running = arguments.concurrency or CONCURRENT
    return running, 2 * running


def cluster_flags(arguments):
    running, waiting = limits(arguments)
    return ["--max-concurrent-requests", str(running), "--max-queued-requests", str(waiting)]


def check_flags(arguments):
    if arguments.requests or arguments.rate:
        raise ValueError("--requests, --rate: overload finds out what is too much; it takes --concurrency and --duration")
    if arguments.duration:
        kinds.seconds_of(arguments.duration)


class Refusals:
    """Calls of our own while the load is on, for what ghz does not tell: what a refusal says. (seconds, retry delay) each."""

    def __init__(self, address):
        self.found = []
        self._address = address
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()

    def _ask(self):
        request = api.text_request("Hello", max_tokens=1, temperature=0)
        with api.Client(self._address) as client:
            while not self._stop.wait(0.05):
                began = time.monotonic()
                try:
                    client.generate(request, timeout=10)
                except grpc.RpcError as error:
                    if error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED:
                        self.found.append((time.monotonic() - began, api.retry_delay_s(error)))


class Phases:
    """Calls and the servers' metrics at capacity, and with more than that beside a light load that goes on."""

    def __init__(self, target, arguments, folder):
        self.target, self.folder = target, folder
        self.running, self.waiting = limits(arguments)
        self.duration_s = kinds.seconds_of(arguments.duration) if arguments.duration else DURATION_S
        self._capacity()
        self._overload()

    def _ghz(self, name, *flags):
        return ghz.Ghz(["--config", ghz.config_path("overload"), *map(str, flags)], self.target.address,
                       f"{self.folder}/{name}.json")

    def _scrape(self):
        return server_metrics.scrape(self.target.metrics_urls)

    def _capacity(self):
        """As many callers as run at a time: nobody waits."""
        with self._ghz("warm", "--total", 4 * self.running, "--concurrency", self.running) as run:
            run.report()
        before = self._scrape()
        with self._ghz("capacity", "--total", 16 * self.running, "--concurrency", self.running) as run:
            self.at_capacity = ghz.calls_of(run.report())
        self.served_at_capacity = self._scrape().since(before)
        self.capacity = kinds.client_figures(self.at_capacity)["calls_per_s"]

    def _overload(self):
        before = self._scrape()
        rate, light = max(int(FACTOR * self.capacity), 2), max(int(self.capacity / 4), 1)
        callers = 2 * (self.running + self.waiting) + 64  # enough that the rate never waits for a caller
        with self._ghz("light", "--rps", light, "--concurrency", callers, "--duration", f"{2 * self.duration_s + 2:g}s",
                       "--duration-stop", "wait") as beside:
            with Refusals(self.target.address) as refusals, \
                    self._ghz("overload", "--rps", rate, "--concurrency", callers, "--duration", f"{self.duration_s:g}s",
                              "--duration-stop", "wait") as run:
                report = run.report()
            self.served = self._scrape().since(before)
            light_report = beside.report()
        origin = ghz.calls_of(report, origin=0.0)[0].begin
        self.overloaded, self.light = ghz.calls_of(report, origin), ghz.calls_of(light_report, origin)
        self.end_s = self.overloaded[-1].begin  # the load falls
        self.refusals = refusals.found
        self.rates = (rate, light)

    def drained_s(self):
        """When what was accepted has certainly been answered."""
        return self.end_s + 1 + 2 * (self.running + self.waiting) / self.capacity


def pace(served):
    """Mean seconds of requests, without those that they waited; None: there were none."""
    whole, queued = (served.histogram(f"atoll_router_{name}_seconds") for name in ("request", "queue"))
    return whole.mean - queued.mean if whole.count and queued.count else None


def ratio(value, base):
    return value / base if value is not None and base else None


def figures_of(phases):
    base = kinds.client_figures(phases.at_capacity)
    refused = [c for c in phases.overloaded + phases.light if c.status == REFUSED]
    accepted = [c for c in phases.overloaded if c.status == "OK"]
    during = [c for c in accepted + phases.light if c.status == "OK" and 0 <= c.begin + c.seconds <= phases.end_s]
    after = [1000 * c.seconds for c in phases.light if c.status == "OK" and c.begin > phases.drained_s()]
    full_queue = 1 + phases.waiting / phases.running
    figures = {
        "capacity_per_s": phases.capacity, "rate_per_s": phases.rates[0], "accepted": len(accepted),
        "refused": len(refused), "capacity_p50_ms": base["p50_ms"], "capacity_p95_ms": base["p95_ms"],
        "refused_p99_ms": ghz.quantile([1000 * c.seconds for c in refused], 0.99),
        "retry_after_ms": min((1000 * delay for _, delay in phases.refusals), default=None),
        "good_ratio": len(during) / phases.end_s / phases.capacity,
        "pace_ratio": ratio(pace(phases.served), pace(phases.served_at_capacity)),
        "recovery_ms": max([0.0] + [1000 * (c.begin - phases.end_s) for c in refused]),
    }
    if accepted:
        figures["accepted_p95_ms"] = ghz.quantile([1000 * c.seconds for c in accepted], 0.95)
        figures["accepted_ratio"] = figures["accepted_p95_ms"] / (base["p95_ms"] * full_queue)
    if after:
        figures["recovered_p95_ms"] = ghz.quantile(after, 0.95)
        figures["recovered_ratio"] = figures["recovered_p95_ms"] / base["p95_ms"]
    return figures


def problems_of(phases):
    problems = []
    if set(ghz.statuses(phases.at_capacity)) != {"OK"}:
        problems.append(f"at capacity: expected OK alone, found {ghz.statuses(phases.at_capacity)}")
    found = ghz.statuses(phases.overloaded + phases.light)
    if set(found) != {"OK", REFUSED}:
        problems.append(f"past capacity: expected OK and {REFUSED}, found {found}")
    late = ghz.statuses([c for c in phases.light if c.begin > phases.drained_s()])
    if set(late) != {"OK"}:
        problems.append(f"after the overload: expected OK alone, found {late}")
    if not phases.refusals:
        problems.append("no call of our own was refused: nothing is known of RetryInfo")
    return problems


def run(target, arguments, folder):
    bounds = gates.load("overload", arguments.gate)
    phases = Phases(target, arguments, folder)
    result = kinds.Result("overload", figures=figures_of(phases))
    result.gates = gates.check(bounds, result.figures)
    result.problems = problems_of(phases) + gates.problems(result.gates)
    f = result.figures
    result.tables = [
        ("Capacity", ("run at a time", "may wait", "calls a second", "p50 ms", "p95 ms"),
         [(phases.running, phases.waiting, f["capacity_per_s"], f["capacity_p50_ms"], f["capacity_p95_ms"])]),
        ("Past capacity", ("offered a second", "accepted", "refused", "accepted p95 ms", "refused p99 ms", "retry after ms"),
         [(sum(phases.rates), f["accepted"], f["refused"], f.get("accepted_p95_ms"), f["refused_p99_ms"],
           f["retry_after_ms"])]),
        ("Afterwards", ("offered a second", "last refusal ms", "p95 ms"),
         [(phases.rates[1], f["recovery_ms"], f.get("recovered_p95_ms"))]),
    ]
    result.plots = kinds.call_plots(sorted(phases.overloaded + phases.light), marks=[(phases.end_s, "the load falls")])
    return result
