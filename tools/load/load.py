#!/usr/bin/env python3
"""Load on a cluster by ghz. Exit code 1 if a call was not OK, an answer differs, or a gate is broken.

    ./dev load [answers]   unary calls, then streams; every answer is compared with the one given alone
    ./dev load unary       calls of InferenceService/Generate, as fast as they are answered
    ./dev load streaming   the same with GenerateStream
    ./dev load ramp        more and more streams a second
    ./dev load soak        streams at a steady rate for long: times and memory must not drift
    ./dev load burst       many streams at once
    ./dev load forward     ExpertService/Forward of one expert node, alone
    ./dev load overload    three times what a router with small limits can take: refusals, pace, recovery

All but `answers` take ghz's settings from bench/ghz/KIND.json (requests, callers, schedule; ghz --config takes the
same file), prompts from bench/ghz/prompts.json and bounds from bench/ghz/gates.json, read TTFT and ITL from the
servers' metrics, and write a report: report.html, report.md and its plots. A cluster of the demo model is started and
ended; --address names one that is there instead.
"""

import argparse
import os
import shlex
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

from atoll_client import cluster, paths  # noqa: E402
from atollpb.v1 import inference_pb2  # noqa: E402
from load import answers, gates, ghz, kinds, overload, report, server_metrics  # noqa: E402

KINDS = ("answers", "unary", "streaming", "ramp", "soak", "burst", "forward", "overload")


def at_least_one(text):
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more, found {text}")
    return int(text)


def parse(argv):
    parser = argparse.ArgumentParser(prog="./dev load", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", nargs="?", default="answers", choices=KINDS, metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--requests", type=at_least_one, help="calls in all (answers: 200, twice)")
    parser.add_argument("--concurrency", type=at_least_one,
                        help="callers at a time (answers: 16; overload: requests that run at a time, 8)")
    parser.add_argument("--duration", help="ramp, soak, overload: how long, as 30s or 10m")
    parser.add_argument("--rate", type=at_least_one, help="calls a second; ramp: more of them each second")
    parser.add_argument("--routers", type=at_least_one, default=2)
    parser.add_argument("--attention", type=at_least_one, default=2)
    parser.add_argument("--experts", type=at_least_one, default=4)
    parser.add_argument("--model", default=paths.DEMO_MODEL, help="checkpoint folder (the demo model)")
    parser.add_argument("--profile", help="numeric profile (the default one)")
    parser.add_argument("--address", help="HOST:PORT of a router that is there (forward: of an expert node)")
    parser.add_argument("--metrics", default="", help="with --address: URLs of its /metrics, with commas")
    parser.add_argument("--gate", action="append", default=[], metavar="NAME=VALUE",
                        help="a bound over that of bench/ghz/gates.json; may be given again")
    parser.add_argument("--report", help="folder for the report (build/load/KIND)")
    arguments = parser.parse_args(argv)
    if arguments.kind == "answers":
        arguments.requests = arguments.requests or 200
        arguments.concurrency = arguments.concurrency or 16
        for name in ("duration", "rate", "gate", "report"):
            if getattr(arguments, name):
                parser.error(f"--{name}: not with answers")
    if arguments.metrics and not arguments.address:
        parser.error("--metrics: only with --address")
    if arguments.kind in ("answers", "overload") and arguments.address:
        parser.error(f"--address: {arguments.kind} starts a cluster of its own")
    if arguments.requests and arguments.concurrency and arguments.concurrency > arguments.requests:  # ghz would refuse
        parser.error(f"--concurrency {arguments.concurrency}: expected at most --requests, {arguments.requests}")
    try:
        check_kind_flags(arguments)
    except ValueError as error:
        parser.error(str(error))
    return arguments


def check_kind_flags(arguments):
    """ValueError: what this kind of load does not take."""
    if arguments.kind == "overload":
        overload.check_flags(arguments)
    elif arguments.kind != "answers":
        kinds.overrides(ghz.config(arguments.kind), arguments)
    if arguments.kind != "answers":
        gates.load(arguments.kind, arguments.gate)


def start_cluster(arguments):
    flags = overload.cluster_flags(arguments) if arguments.kind == "overload" else []
    if arguments.profile:
        flags += ["--profile", arguments.profile]
    print(f"cluster: {arguments.routers} routers, {arguments.attention} attention nodes, {arguments.experts} expert nodes",
          flush=True)
    return cluster.Cluster(arguments.routers, arguments.attention, arguments.experts,
                           model=os.path.abspath(arguments.model), flags=flags)


def target_of(nodes, kind):
    pids = tuple(entry["pid"] for entry in nodes.processes())
    if kind == "forward":
        metrics = nodes.process_named("expert-0")["addresses"]["metrics"]
        return kinds.Target(nodes.address(role="expert"), [f"http://{metrics}/metrics"], exclusive=True, pids=pids)
    return kinds.Target(nodes.address(), server_metrics.urls_of(nodes, "router", "attention", "expert"), exclusive=True,
                        pids=pids)


def conditions_of(arguments, target):
    rows = [("command", shlex.join(["./dev", "load", *sys.argv[1:]])), ("machine", report.machine())]
    if arguments.address:
        return rows + [("server", target.address)]
    rows.append(("cluster", f"{arguments.routers} routers, {arguments.attention} attention nodes, {arguments.experts} "
                 "expert nodes, all on this machine"))
    return rows


def model_of(nodes):
    with nodes.client() as client:
        model = client.call("ModelService/GetModel", inference_pb2.GetModelRequest())
    return ("model", f"{model.name}, {model.total_params:,} parameters, profile {model.numeric_profile}")


def measure(target, arguments, folder, more_conditions=()):
    """Runs and reports; problems, as texts."""
    if arguments.kind == "overload":
        result = overload.run(target, arguments, folder)
    else:
        result = kinds.run(arguments.kind, target, arguments, folder)
    for title, header, rows in result.tables:
        print(f"{title}:")
        for row in rows:
            print("   " + ", ".join(f"{name} {report.cell(value)}".strip() for name, value in zip(header, row)))
    broken = sum(not kept for _, _, _, kept in result.gates)
    print(f"{arguments.kind}: {len(result.gates)} gates, {broken} broken; {len(result.problems)} problems")
    conditions = conditions_of(arguments, target) + list(more_conditions)
    where = os.path.abspath(arguments.report or os.path.join(paths.BUILD, "load", arguments.kind))
    print("report: " + report.write(result, conditions, where))
    return result.problems


def run(arguments, folder):
    if arguments.address:
        urls = [url for url in arguments.metrics.split(",") if url]
        return measure(kinds.Target(arguments.address, urls), arguments, folder)
    with start_cluster(arguments) as nodes:
        if arguments.kind == "answers":
            with nodes.client() as client:
                return answers.run(client, nodes.address(), arguments, folder)
        return measure(target_of(nodes, arguments.kind), arguments, folder, [model_of(nodes)])


def main():
    arguments = parse(sys.argv[1:])
    with tempfile.TemporaryDirectory() as folder:
        problems = run(arguments, folder)
    for problem in problems[:20]:
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("load: interrupted")
