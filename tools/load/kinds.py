"""Runs of one kind of load: ghz by its configuration in bench/ghz, the servers' metrics around it, figures and gates."""

import dataclasses
import re
import threading
import time

from load import forward, gates, ghz, server_metrics, svg

# Histograms of the routers: name in figures, metric, what it is.
SERVER_TIMES = (
    ("queue", "atoll_router_queue_seconds", "waiting"),
    ("ttft", "atoll_router_time_to_first_token_seconds", "first token (TTFT)"),
    ("itl", "atoll_router_inter_token_seconds", "between tokens (ITL)"),
    ("tpot", "atoll_router_time_per_output_token_seconds", "mean between tokens (TPOT)"),
    ("request", "atoll_router_request_seconds", "whole request"),
)
NUM_WINDOWS = 8


@dataclasses.dataclass
class Target:
    """Where load goes. exclusive: nobody else asks there, so that the servers' counts must be ours."""
    address: str
    metrics_urls: list
    exclusive: bool = False
    pids: tuple = ()


@dataclasses.dataclass
class Result:
    kind: str
    figures: dict = dataclasses.field(default_factory=dict)
    gates: list = dataclasses.field(default_factory=list)  # as gates.check
    problems: list = dataclasses.field(default_factory=list)
    tables: list = dataclasses.field(default_factory=list)  # (title, header, rows)
    plots: list = dataclasses.field(default_factory=list)  # (file name, SVG)


class MemoryWatch:
    """Resident memory of processes, together, about once a second."""

    def __init__(self, pids, interval_s=1.0):
        self.pids, self.interval_s = pids, interval_s
        self.samples = []  # (seconds, bytes)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self):
        if self.pids:
            self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        if self.pids:
            self._thread.join()

    def _watch(self):
        begin = time.monotonic()
        while True:
            self.samples.append((time.monotonic() - begin, sum(map(resident_bytes, self.pids))))
            if self._stop.wait(self.interval_s):
                return

    def growth(self):
        """At the end over at a quarter of the time; None: too short to say."""
        if len(self.samples) < 4:
            return None
        return self.samples[-1][1] / self.samples[len(self.samples) // 4][1]


def resident_bytes(pid):
    try:
        with open(f"/proc/{pid}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * 4096
    except (FileNotFoundError, ProcessLookupError):
        return 0


def seconds_of(duration):
    """Of "250ms", "10s", "2m" or "1h", as ghz takes them."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h)", duration)
    if not match:
        raise ValueError(f"--duration {duration}: expected a number with ms, s, m or h")
    return float(match[1]) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600}[match[2]]


def overrides(config, arguments):
    """ghz flags over the configuration. ValueError: what this kind of load does not take."""
    by_time = "duration" in config
    if arguments.requests and by_time:
        raise ValueError("--requests: this load goes by --duration")
    if arguments.duration and not by_time:
        raise ValueError("--duration: this load goes by --requests")
    flags = []
    concurrency = arguments.concurrency or config["concurrency"]
    if by_time:
        if arguments.duration:
            seconds_of(arguments.duration)
        flags += ["--duration", arguments.duration or config["duration"]]
    else:
        total = arguments.requests or config["total"]
        if config["concurrency"] == config["total"] and not arguments.concurrency:  # all at once
            concurrency = total
        concurrency = min(concurrency, total)  # ghz refuses more
        flags += ["--total", str(total)]
    flags += ["--concurrency", str(concurrency)]
    if arguments.rate and config.get("load-schedule") == "line":
        flags += ["--load-start", str(arguments.rate), "--load-step", str(arguments.rate)]
    elif arguments.rate:
        flags += ["--rps", str(arguments.rate)]
    return flags


def run(kind, target, arguments, folder):
    config = ghz.config(kind)
    bounds = gates.load(kind, arguments.gate)
    flags = ["--config", ghz.config_path(kind), *overrides(config, arguments)]
    batches = None
    if kind == "forward":
        batches = forward.Batches(target.address)
        flags += ["--data-file", batches.write(folder)]
    before = server_metrics.scrape(target.metrics_urls)
    with MemoryWatch(target.pids) as memory, ghz.Ghz(flags, target.address, f"{folder}/{kind}.json") as load:
        report = load.report()
    served = server_metrics.scrape(target.metrics_urls).since(before)
    calls = ghz.calls_of(report)
    result = Result(kind)
    result.figures = {**client_figures(calls), **server_figures(served), "memory_growth": memory.growth()}
    result.gates = gates.check(bounds, result.figures)
    result.problems = status_problems(calls, expected_calls(flags)) + gates.problems(result.gates)
    if target.exclusive:
        result.problems += batches.problems(served, len(calls)) if batches else count_problems(served, calls)
    describe(result, calls, served, memory, windows=kind in ("ramp", "soak"))
    return result


def expected_calls(flags):
    return int(flags[flags.index("--total") + 1]) if "--total" in flags else None


def status_problems(calls, expected):
    """expected: number of calls; None: any but 0."""
    problems = []
    statuses = ghz.statuses(calls)
    if set(statuses) != {"OK"}:
        problems.append(f"status codes: expected OK alone, found {statuses}")
    if expected is not None and len(calls) != expected:
        problems.append(f"calls: expected {expected}, found {len(calls)}")
    return problems


def count_problems(served, calls):
    """Requests and first tokens that the servers have counted, against those that the client saw."""
    num_ok = sum(call.status == "OK" for call in calls)
    problems = []
    for name in ("atoll_router_request_seconds", "atoll_router_time_to_first_token_seconds"):
        if served.histogram(name).count != num_ok:
            problems.append(f"{name}_count: expected the {num_ok} calls that were OK, found {served.histogram(name).count}")
    return problems


def client_figures(calls):
    times = [1000 * call.seconds for call in calls if call.status == "OK"]
    figures = {f"p{share}_ms": ghz.quantile(times, share / 100) for share in (50, 95, 99)}
    spent = max((call.begin + call.seconds for call in calls), default=0.0)
    figures.update(calls=len(calls), seconds=spent, calls_per_s=len(times) / spent if spent else None)
    quarters = [[c.seconds for c in calls if c.status == "OK" and i <= 4 * c.begin / max(spent, 1e-9) < i + 1]
                for i in range(4)]
    if quarters[0] and quarters[3]:
        figures["drift"] = ghz.quantile(quarters[3], 0.95) / ghz.quantile(quarters[0], 0.95)
    return figures


def server_figures(served):
    figures = {}
    for key, name, _ in SERVER_TIMES:
        histogram = served.histogram(name)
        if histogram.count:
            figures.update({f"{key}_p{share}_ms": 1000 * histogram.quantile(share / 100) for share in (50, 95, 99)})
            figures[f"{key}_mean_ms"] = 1000 * histogram.mean
    return figures


def describe(result, calls, served, memory, windows):
    """Tables and plots."""
    f = result.figures
    result.tables.append(("Calls, as the client saw them", ("calls", "seconds", "OK a second", "p50 ms", "p95 ms", "p99 ms"),
                          [(f["calls"], f["seconds"], f["calls_per_s"], f["p50_ms"], f["p95_ms"], f["p99_ms"])]))
    rows = [(words, served.histogram(name).count, f[key + "_mean_ms"], f[key + "_p50_ms"], f[key + "_p95_ms"],
             f[key + "_p99_ms"]) for key, name, words in SERVER_TIMES if key + "_mean_ms" in f]
    if rows:
        result.tables.append(("Times by the servers' clocks, ms", ("", "count", "mean", "p50", "p95", "p99"), rows))
    result.tables += work_tables(served)
    if windows:
        result.tables.append(("In windows of time", ("from s", "begun a second", "OK a second", "p50 ms", "p95 ms"),
                              window_rows(calls)))
    result.plots += call_plots(calls) + histogram_plots(served)
    if len(memory.samples) > 3:
        points = [(seconds, size / 1e6) for seconds, size in memory.samples]
        result.plots.append(("memory", svg.lines("Resident memory of all processes", "s", "MB", [("", points)])))


def work_tables(served):
    """Where the servers' time went, and how large their batches were."""
    tables = []
    parts = served.by_label("atoll_attention_step_part_seconds_total", "part")
    if sum(parts.values()) > 0:
        tables.append(("Steps of the attention nodes, share of their time", tuple(parts),
                       [tuple(f"{100 * part / sum(parts.values()):.0f} %" for part in parts.values())]))
    rows = []
    for words, name in (("rows of a step", "atoll_attention_step_rows"),
                        ("sequences of a step", "atoll_attention_step_sequences"),
                        ("rows of a dispatch call", "atoll_dispatch_call_rows"),
                        ("pairs of an experts' batch", "atoll_expert_batch_rows")):
        histogram = served.histogram(name)
        if histogram.count:
            rows.append((words, histogram.count, histogram.mean, histogram.quantile(0.5), histogram.quantile(0.95)))
    if rows:
        tables.append(("Batches", ("", "count", "mean", "p50", "p95"), rows))
    prompt = served.value("atoll_attention_prompt_tokens_total")
    if prompt:
        cached = served.value("atoll_attention_cached_tokens_total")
        tables.append(("Tokens", ("prompt", "of these cached", "generated", "sequences started again", "work sent again"),
                       [(prompt, f"{100 * cached / prompt:.0f} %", served.value("atoll_router_generated_tokens_total"),
                         served.value("atoll_router_replays_total"), served.value("atoll_dispatch_retries_total"))]))
    return tables


def window_rows(calls, num_windows=NUM_WINDOWS):
    spent = max((call.begin for call in calls), default=0.0)
    width = max(spent / num_windows, 1e-9)
    rows = []
    for i in range(num_windows):
        last = i == num_windows - 1
        begun = [c for c in calls if i * width <= c.begin and (last or c.begin < (i + 1) * width)]
        ended = sum(c.status == "OK" and i * width <= c.begin + c.seconds < (i + 1) * width for c in calls)
        times = [1000 * c.seconds for c in begun if c.status == "OK"]
        rows.append((i * width, len(begun) / width, ended / width, ghz.quantile(times, 0.5), ghz.quantile(times, 0.95)))
    return rows


def by_status(calls):
    """[(status, calls)], OK first."""
    return [(status, [call for call in calls if call.status == status])
            for status in sorted(ghz.statuses(calls), key=lambda status: (status != "OK", status))]


def call_plots(calls, marks=()):
    if not calls:
        return []
    points = [(status, [(call.begin, 1000 * call.seconds) for call in some]) for status, some in by_status(calls)]
    seconds = int(max(call.begin + call.seconds for call in calls)) + 1
    rates = [(status, [(second + 0.5, sum(int(call.begin + call.seconds) == second for call in some))
                       for second in range(seconds)]) for status, some in by_status(calls)]
    times = sorted(1000 * call.seconds for call in calls if call.status == "OK")
    shares = [(time_ms, 100 * (i + 1) / len(times)) for i, time_ms in enumerate(times)]
    return [("latency", svg.scatter("Time of each call, by its beginning", "s", "ms", points, marks)),
            ("throughput", svg.lines("Calls that ended in each second", "s", "calls", rates, marks)),
            ("distribution", svg.lines("Calls that took at most so long", "ms", "%", [("", shares)]))]


def histogram_plots(served):
    plots = []
    for key, name, words in SERVER_TIMES:
        counts = served.histogram(name).counts()
        used = [i for i, (_, count) in enumerate(counts) if count > 0]
        if key not in ("ttft", "itl") or not used:
            continue
        shown = [("more" if bound == float("inf") else f"{1000 * bound:g}", count)
                 for bound, count in counts[max(used[0] - 1, 0):used[-1] + 2]]
        plots.append((key, svg.bars(f"{words[0].upper()}{words[1:]}, by the routers", "at most ms", "count", shown)))
    return plots
