"""`./dev load`: each kind, short; and that what it says to check is checked."""

import argparse
import os
import re
import tempfile
import unittest
import xml.etree.ElementTree

from support import main, paths, run
from load import answers, gates, ghz, kinds, load, report, server_metrics, svg  # support sets the path


class AnswersTest(unittest.TestCase):
    def test_every_call_is_ok_and_answered_as_if_it_were_alone(self):
        ended = run(["./dev", "load", "--requests", "40", "--concurrency", "8"], timeout=900)
        self.assertEqual(ended.returncode, 0, ended.stdout + ended.stderr)
        for method in ("Generate", "GenerateStream"):
            self.assertRegex(ended.stdout, re.compile(
                rf"^{method}: 40 calls, .*p50 \d+ ms, p95 \d+ ms, p99 \d+ ms; 40 answers compared, 0 problems$", re.M))

    def test_a_difference_would_be_found(self):
        answer = answers.inference_pb2.GenerateResponse(request_id="0-1-2", text="a", token_ids=[1], seed=5)
        answer.usage.generated_tokens = 1
        expected = [(answers.comparable(answer), False)]
        self.assertEqual(answers.check_answers([answer], expected, 1), [])
        answer.seed = 6  # chosen by the server
        self.assertEqual(answers.check_answers([answer], expected, 1), [])
        answer.token_ids[0] = 2
        self.assertIn("request 0: alone", answers.check_answers([answer], expected, 1)[0])
        self.assertIn("expected 2, found 1", answers.check_answers([answer], expected, 2)[0])
        self.assertEqual(len(answers.check_statuses({"statusCodeDistribution": {"OK": 1, "Unavailable": 1}}, 2)), 1)


class KindsTest(unittest.TestCase):
    """Real ghz on a real cluster. What times may be is for bench/ghz/gates.json; here gates are wide, for tests may meet
    other work."""

    def load(self, kind, *flags, code=0):
        """Output and report of a run."""
        with tempfile.TemporaryDirectory() as folder:
            ended = run(["./dev", "load", kind, "--report", folder, *flags], timeout=600)
            self.assertEqual(ended.returncode, code, ended.stdout + ended.stderr)
            self.check_report(folder, kind)
            with open(os.path.join(folder, "report.md"), encoding="utf-8") as file:
                return ended.stdout, file.read()

    def check_report(self, folder, kind):
        with open(os.path.join(folder, "report.html"), encoding="utf-8") as file:
            page = file.read()
        self.assertIn(f"<h1>Load: {kind}</h1>", page)
        self.assertNotRegex(page, r"(src|href)=")  # one file is all of it
        with open(os.path.join(folder, "report.md"), encoding="utf-8") as file:
            plots = re.findall(r"^!\[\w+\]\((\w+\.svg)\)$", file.read(), re.M)
        self.assertGreaterEqual(len(plots), 3)
        self.assertEqual(set(plots), {name for name in os.listdir(folder) if name.endswith(".svg")})
        for name in plots:
            xml.etree.ElementTree.parse(os.path.join(folder, name))

    WIDE = tuple(word for name in ("p50_ms", "p99_ms", "ttft_p95_ms", "itl_p95_ms") for word in ("--gate", name + "=60000"))

    def test_unary_and_streaming(self):
        for kind in ("unary", "streaming"):
            output, text = self.load(kind, "--requests", "30", "--concurrency", "6", *self.WIDE)
            self.assertIn(f"{kind}: 4 gates, 0 broken; 0 problems", output)
            self.assertRegex(text, r"\| first token \(TTFT\) \| 30 \| \d")
            self.assertRegex(text, r"\| between tokens \(ITL\) \| \d+ \| \d")

    def test_a_broken_gate_fails(self):
        output, text = self.load("unary", "--requests", "10", *self.WIDE, "--gate", "p50_ms=0.001", code=1)
        self.assertIn("unary: 4 gates, 1 broken; 1 problems", output)
        self.assertRegex(output, r"gate p50_ms: a call took, at the median \S+, expected at most 0.001")
        self.assertRegex(text, r"\| p50_ms \|.*\| BROKEN \|")

    def test_ramp_and_soak(self):
        _, text = self.load("ramp", "--duration", "4s", "--rate", "3", *self.WIDE)
        self.assertIn("## In windows of time", text)
        begun = [float(row.split("|")[2]) for row in text.split("## In windows of time")[1].splitlines()[4:12]]
        self.assertLess(sum(begun[:4]), sum(begun[4:]))  # more and more
        _, text = self.load("soak", "--duration", "6s", "--rate", "5", *self.WIDE, "--gate", "drift=100", "--gate",
                            "memory_growth=10")
        self.assertRegex(text, r"\| memory_growth \|.*\| kept \|")

    def test_burst(self):
        _, text = self.load("burst", "--requests", "40", *self.WIDE)
        self.assertRegex(text, r"\| first token \(TTFT\) \| 40 \|")

    def test_forward(self):
        output, text = self.load("forward", "--requests", "60", "--gate", "p50_ms=60000", "--gate", "p99_ms=60000")
        self.assertIn("forward: 2 gates, 0 broken; 0 problems", output)
        self.assertIn("pairs of an experts' batch", text)

    def test_overload(self):
        output, text = self.load("overload", "--concurrency", "4", "--duration", "4s", "--gate", "refused_p99_ms=2000",
                                 "--gate", "good_ratio=0.3", "--gate", "pace_ratio=4", "--gate", "accepted_ratio=4",
                                 "--gate", "recovered_ratio=4", "--gate", "recovery_ms=2000")
        self.assertIn("overload: 7 gates, 0 broken; 0 problems", output)
        self.assertIn("retry_after_ms", text)

    def test_a_server_that_is_not_there_fails(self):
        ended = run(["./dev", "load", "unary", "--requests", "2", "--address", "127.0.0.1:1"], timeout=300)
        self.assertNotEqual(ended.returncode, 0)
        self.assertNotIn("0 problems", ended.stdout)

    def test_flags_that_a_kind_does_not_take_are_refused(self):
        for flags, message in ((("soak", "--requests", "5"), "goes by --duration"),
                               (("unary", "--duration", "5s"), "goes by --requests"),
                               (("soak", "--duration", "5"), "expected a number with"),
                               (("unary", "--gate", "p51_ms=1"), "expected NAME=VALUE"),
                               (("overload", "--rate", "5"), "overload"),
                               (("--rate", "5"), "not with answers")):
            ended = run(["./dev", "load", *flags], timeout=300)
            self.assertEqual(ended.returncode, 2, flags)
            self.assertIn(message, ended.stderr)


class PartsTest(unittest.TestCase):
    METRICS = """# HELP a_seconds Some.
# TYPE a_seconds histogram
a_seconds_count 10
a_seconds_sum 4
a_seconds_bucket{le="0.1"} 4
a_seconds_bucket{le="0.5"} 8
a_seconds_bucket{le="+Inf"} 10
# TYPE b_total counter
b_total{kind="x",peer="a b"} 3
b_total{kind="y",peer="a b"} 4.5
"""

    def test_metrics_are_added_up_and_subtracted(self):
        before, after = server_metrics.Metrics(), server_metrics.Metrics()
        before.add_text(self.METRICS)
        after.add_text(self.METRICS)
        after.add_text(self.METRICS)
        self.assertEqual(after.value("b_total"), 15)
        self.assertEqual(after.value("b_total", kind="x", peer="a b"), 6)
        grown = after.since(before)
        self.assertEqual(grown.by_label("b_total", "kind"), {"x": 3, "y": 4.5})
        histogram = grown.histogram("a_seconds")
        self.assertEqual((histogram.count, histogram.mean), (10, 0.4))
        self.assertEqual(histogram.counts(), [(0.1, 4), (0.5, 4), (float("inf"), 2)])

    def test_quantiles_as_prometheus_has_them(self):
        metrics = server_metrics.Metrics()
        metrics.add_text(self.METRICS)
        histogram = metrics.histogram("a_seconds")
        self.assertAlmostEqual(histogram.quantile(0.2), 0.05)
        self.assertAlmostEqual(histogram.quantile(0.4), 0.1)
        self.assertAlmostEqual(histogram.quantile(0.6), 0.3)
        self.assertAlmostEqual(histogram.quantile(0.99), 0.5)  # beyond the last bound
        self.assertIsNone(metrics.histogram("none_seconds").quantile(0.5))

    def test_calls_are_placed_by_their_beginning(self):
        details = [{"timestamp": "2026-01-01T00:00:03.5Z", "latency": 1500000000, "status": "OK", "error": ""},
                   {"timestamp": "2026-01-01T01:00:02.250000001+01:00", "latency": 1250000000, "status": "Unavailable",
                    "error": "x"}]
        calls = ghz.calls_of({"details": details})
        self.assertEqual([(call.begin, call.seconds, call.status) for call in calls],
                         [(0.0, 1.25, "Unavailable"), (1.0, 1.5, "OK")])
        self.assertEqual(ghz.statuses(calls), {"OK": 1, "Unavailable": 1})

    def test_any_status_but_ok_and_any_missing_call_is_a_problem(self):
        ok = [ghz.Call(0.0, 0.1, "OK")]
        self.assertEqual(kinds.status_problems(ok * 3, 3), [])
        self.assertEqual(len(kinds.status_problems(ok * 2, 3)), 1)
        self.assertEqual(len(kinds.status_problems(ok * 2 + [ghz.Call(0.0, 0.1, "Unavailable")], 3)), 1)
        self.assertEqual(len(kinds.status_problems([], None)), 1)

    def test_gates(self):
        rows = gates.check({"p50_ms": 10, "calls_per_s": 5, "drift": 2}, {"p50_ms": 10.0, "calls_per_s": 4.9})
        self.assertEqual([(name, kept) for name, _, _, kept in rows],
                         [("p50_ms", True), ("calls_per_s", False), ("drift", False)])
        self.assertEqual(len(gates.problems(rows)), 2)
        for kind in load.KINDS[1:]:
            self.assertEqual(set(gates.load(kind)) - set(gates.MEANINGS), set())

    def test_figures_of_calls(self):
        calls = [ghz.Call(i / 10, 0.010 * (i + 1), "OK") for i in range(100)]
        figures = kinds.client_figures(calls + [ghz.Call(0, 9, "Unavailable")])
        self.assertAlmostEqual(figures["p50_ms"], 500)
        self.assertAlmostEqual(figures["p99_ms"], 990)
        self.assertEqual(figures["calls"], 101)
        self.assertAlmostEqual(figures["calls_per_s"], 100 / 10.9)
        self.assertGreater(figures["drift"], 3)

    def test_reports_say_what_failed_and_escape_it(self):
        result = kinds.Result("unary", problems=["<b>"], tables=[("T", ("a", "b"), [("x", 0.12345), ("y", None)])],
                              plots=[("p", svg.bars("A & B", "x", "y", [("1", 2), ("2", 0)]))])
        result.gates = gates.check({"p50_ms": 1}, {"p50_ms": 2.0})
        text, page = report.markdown(result, [("model", "m")]), report.page(result, [("model", "m")])
        for found in (text, page):
            self.assertIn("0.1235", found)
            self.assertIn("BROKEN", found)
        self.assertIn("&lt;b&gt;", page)
        self.assertIn("A &amp; B", page)
        xml.etree.ElementTree.fromstring(result.plots[0][1])

    def test_ticks_are_round_and_cover(self):
        for low, high in ((0, 1), (0, 0.0173), (0, 99), (5, 5), (0, 123456), (-3, 7)):
            ticks = svg.nice_ticks(low, high)
            self.assertLessEqual(ticks[0], low)
            self.assertGreaterEqual(ticks[-1], high)
            self.assertLessEqual(len(ticks), 9)

    def test_ghz_flags(self):
        def flags(kind, **given):
            arguments = argparse.Namespace(requests=None, concurrency=None, duration=None, rate=None)
            vars(arguments).update(given)
            return kinds.overrides(ghz.config(kind), arguments)

        self.assertEqual(flags("unary", requests=5), ["--total", "5", "--concurrency", "5"])
        self.assertEqual(flags("burst", requests=30), ["--total", "30", "--concurrency", "30"])
        self.assertEqual(flags("burst", requests=30, concurrency=3), ["--total", "30", "--concurrency", "3"])
        self.assertEqual(flags("soak", duration="5s", rate=2),
                         ["--duration", "5s", "--concurrency", "64", "--rps", "2"])
        self.assertIn("--load-step", flags("ramp", rate=2))

    def test_every_configuration_is_ghz_s_and_its_prompts_are_requests(self):
        names = {name[:-5] for name in os.listdir(ghz.CONFIGS) if name.endswith(".json")}
        self.assertEqual(names - {"prompts", "gates"}, set(load.KINDS[1:]))
        with open(os.path.join(ghz.CONFIGS, "prompts.json"), encoding="utf-8") as file:
            text = file.read().replace("{{.RequestNumber}}", "7")
        requests = answers.json.loads(text)
        self.assertGreater(len(requests), 20)
        for request in requests:
            parsed = answers.json_format.ParseDict(request, answers.inference_pb2.GenerateRequest())
            self.assertTrue(parsed.WhichOneof("prompt") and parsed.max_tokens > 0)
        for kind in load.KINDS[1:]:
            self.assertTrue(os.path.exists(os.path.join(paths.SOURCE, ghz.config(kind).get("data-file", "dev"))))


if __name__ == "__main__":
    main()
