"""What the processes of a cluster count, beside what its client saw; and that docs/metrics.md lists just what there is."""

import json
import os
import re
import signal
import unittest

import grpc

from documented_metrics import documented
from support import Cluster, Serve, api, main, paths, wait_until
from load import server_metrics  # support sets the path

ROLES = ("router", "attention", "expert")
# (prompt tokens, tokens to generate)
REQUESTS = [(1, 1), (2, 2), (5, 9), (40, 16), (64, 17), (65, 3), (130, 33), (200, 1), (17, 40), (130, 12)]


def of(cluster, *roles):
    return server_metrics.scrape(server_metrics.urls_of(cluster, *roles))


def request_of(idx, prompt, tokens):
    """No two prompts share a block."""
    ids = [3 + (11 * at + 37 * idx) % 300 for at in range(prompt)]
    return api.ids_request(ids, max_tokens=tokens, ignore_eos=True, temperature=0)


class CountsTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.cluster = Cluster(routers=2, attention=2, experts=2)
        cls.addClassCleanup(cls.cluster.__exit__, None, None, None)
        cls.usages, cls.timings = [], []
        with cls.cluster.client(0) as first, cls.cluster.client(1) as second:
            for i, (prompt, tokens) in enumerate(REQUESTS):
                client = (first, second)[i % 2]
                if i % 3:
                    last = client.generate(request_of(i, prompt, tokens))
                else:
                    *_, last = client.generate_stream(request_of(i, prompt, tokens))
                cls.usages.append(last.usage)
                cls.timings.append(last.timings)
            try:
                first.generate(api.ids_request([], max_tokens=1))
            except grpc.RpcError as error:
                cls.refusal = error.code()
        cls.routers = of(cls.cluster, "router")

    def test_the_answers_are_as_asked_for(self):
        self.assertEqual([(u.prompt_tokens, u.generated_tokens) for u in self.usages], REQUESTS)
        self.assertEqual(self.refusal, grpc.StatusCode.INVALID_ARGUMENT)

    def test_requests_by_status(self):
        self.assertEqual(self.routers.by_label("atoll_router_requests_total", "code"),
                         {"OK": len(REQUESTS), "INVALID_ARGUMENT": 1})

    def test_histograms_of_requests_count_requests(self):
        for name, count in (("time_to_first_token_seconds", len(REQUESTS)), ("queue_seconds", len(REQUESTS)),
                            ("request_seconds", len(REQUESTS)), ("request_prompt_tokens", len(REQUESTS)),
                            ("time_per_output_token_seconds", sum(tokens > 1 for _, tokens in REQUESTS)),
                            ("inter_token_seconds", sum(tokens - 1 for _, tokens in REQUESTS))):
            self.assertEqual(self.routers.histogram("atoll_router_" + name).count, count, name)

    def test_sums_are_those_of_the_answers_timings(self):
        for name, seconds in (("time_to_first_token_seconds", sum(t.ttft_s for t in self.timings)),
                              ("queue_seconds", sum(t.queue_s for t in self.timings)),
                              ("time_per_output_token_seconds", sum(t.tpot_s for t in self.timings))):
            self.assertAlmostEqual(self.routers.histogram("atoll_router_" + name).sum, seconds, delta=1e-6, msg=name)
        gaps = sum(t.tpot_s * (tokens - 1) for t, (_, tokens) in zip(self.timings, REQUESTS))
        self.assertAlmostEqual(self.routers.histogram("atoll_router_inter_token_seconds").sum, gaps, delta=1e-6)

    def test_every_request_is_in_its_bucket(self):
        for name, values in (("request_prompt_tokens", [prompt for prompt, _ in REQUESTS]),
                             ("request_generated_tokens", [tokens for _, tokens in REQUESTS])):
            histogram = self.routers.histogram("atoll_router_" + name)
            self.assertEqual(histogram.sum, sum(values))
            self.assertEqual([(bound, sum(value <= bound for value in values)) for bound, _ in histogram.buckets],
                             histogram.buckets)
            self.assertEqual([bound for bound, _ in histogram.buckets][:4], [1, 2, 4, 8])

    def test_tokens_of_routers_and_attention_nodes(self):
        prompts, tokens = sum(prompt for prompt, _ in REQUESTS), sum(tokens for _, tokens in REQUESTS)
        self.assertEqual(self.routers.value("atoll_router_prompt_tokens_total"), prompts)
        self.assertEqual(self.routers.value("atoll_router_generated_tokens_total"), tokens)
        attention = of(self.cluster, "attention")
        self.assertEqual(attention.value("atoll_attention_prompt_tokens_total"), prompts)
        self.assertEqual(attention.histogram("atoll_attention_queue_seconds").count, len(REQUESTS))
        # Nothing was cached, and the last token of each is not computed.
        self.assertEqual(attention.value("atoll_attention_prefill_tokens_total")
                         + attention.value("atoll_attention_decode_tokens_total"), prompts + tokens - len(REQUESTS))
        self.assertEqual(attention.value("atoll_attention_cached_tokens_total"), 0)

    def test_steps(self):
        def settled():  # a step is counted when its answers are out
            found = of(self.cluster, "attention")
            return found if found.histogram("atoll_attention_step_seconds").count == found.value(
                "atoll_attention_steps_total") else None

        attention = wait_until(settled, 10, "as many timed steps as steps")
        seconds = attention.histogram("atoll_attention_step_seconds")
        rows = attention.histogram("atoll_attention_step_rows")
        self.assertEqual(rows.count, seconds.count)
        self.assertEqual(rows.sum, attention.value("atoll_attention_prefill_tokens_total")
                         + attention.value("atoll_attention_decode_tokens_total"))
        self.assertEqual(attention.histogram("atoll_attention_step_sequences").sum, seconds.count)  # one at a time
        parts = attention.by_label("atoll_attention_step_part_seconds_total", "part")
        self.assertEqual(set(parts), {"plan", "attention", "experts", "sample", "draft"})
        self.assertAlmostEqual(sum(parts.values()), seconds.sum, delta=1e-6)
        self.assertTrue(all(parts[part] > 0 for part in ("plan", "attention", "experts", "sample")), parts)
        self.assertEqual(parts["draft"], 0)

    def test_rows_are_the_same_at_each_hop(self):
        attention, routers, experts = (of(self.cluster, role) for role in ("attention", "router", "expert"))
        rows = attention.value("atoll_attention_dispatched_rows_total")
        calls = routers.histogram("atoll_dispatch_call_rows")
        self.assertEqual(calls.sum, rows)
        self.assertEqual(routers.histogram("atoll_dispatch_call_seconds").count, calls.count)
        self.assertGreater(routers.value("atoll_dispatch_gate_seconds_total"), 0)
        self.assertGreater(routers.value("atoll_dispatch_combine_seconds_total"), 0)
        with open(os.path.join(paths.DEMO_MODEL, "config.json"), encoding="utf-8") as file:
            config = json.load(file)
        pairs = rows * (config["num_experts_per_tok"] + (config["n_shared_experts"] > 0))
        computed = experts.value("atoll_expert_rows_total")
        if routers.value("atoll_dispatch_retries_total") == 0:
            self.assertEqual(computed, pairs)
        self.assertGreaterEqual(computed, pairs)
        self.assertEqual(experts.histogram("atoll_expert_batch_rows").sum, computed)
        self.assertEqual(experts.value("atoll_expert_held_rows_total"), computed)
        self.assertEqual(experts.histogram("atoll_expert_queue_seconds").count, experts.value("atoll_expert_calls_total"))
        self.assertAlmostEqual(experts.histogram("atoll_expert_batch_seconds").sum,
                               experts.value("atoll_expert_busy_seconds_total"), delta=1e-6)
        for (layer, expert), count in self.described().items():
            self.assertEqual(experts.value("atoll_expert_held_rows_total", layer=str(layer), expert=str(expert)), count)

    def described(self):
        rows = {}
        for entry in self.cluster.processes("expert"):
            with api.Client(entry["addresses"]["grpc"]) as client:
                for expert in client.describe_expert().experts:
                    key = (expert.layer, expert.expert)
                    rows[key] = rows.get(key, 0) + expert.rows
        return rows

    def test_links_carry_what_the_other_end_gets(self):
        def flows():
            attention, routers, experts = (of(self.cluster, role) for role in ("attention", "router", "expert"))
            pairs = []
            for unit in ("bytes", "frames"):
                for a, to_b, b, to_a in ((attention, "router", routers, "attention"), (routers, "expert", experts, "caller")):
                    pairs += [(a.value(f"atoll_link_sent_{unit}_total", peer=to_b),
                               b.value(f"atoll_link_received_{unit}_total", peer=to_a)),
                              (b.value(f"atoll_link_sent_{unit}_total", peer=to_a),
                               a.value(f"atoll_link_received_{unit}_total", peer=to_b))]
            return pairs if all(sent == received > 0 for sent, received in pairs) else None

        wait_until(flows, 10, "links whose two ends count the same")
        routers = of(self.cluster, "router")
        self.assertEqual(routers.value("atoll_links", peer="expert"), 4)  # 2 x 2
        self.assertEqual(routers.value("atoll_link_deaths_total"), 0)


class FaultsTest(unittest.TestCase):
    def test_a_killed_expert_node_is_a_death(self):
        with Cluster(routers=2, attention=1, experts=2) as cluster:
            urls = server_metrics.urls_of(cluster, "router")

            def each_router_has(metric, count):
                wait_until(lambda: all(server_metrics.scrape([url]).value(metric, peer="expert") == count for url in urls), 10,
                           f"{metric} of {count} at each router")

            each_router_has("atoll_links", 2)
            os.kill(cluster.process_named("expert-1")["pid"], signal.SIGKILL)
            # At each router, or at one alone: one that hears of it from the other first drops its link itself.
            wait_until(lambda: 1 <= server_metrics.scrape(urls).value("atoll_link_deaths_total", peer="expert") <= 2, 10, "a death")
            each_router_has("atoll_links", 2)
            with cluster.client() as client:
                client.generate(request_of(0, 5, 5))


class DocumentedTest(unittest.TestCase):
    def check(self, found, expected_names):
        listed = documented()
        types = {name: kind for name, kind in found.types.items() if not name.startswith("exposer_")}  # prometheus-cpp's own
        self.assertEqual(set(types), expected_names)
        for name, kind in types.items():
            self.assertEqual(listed[name][0], kind, name)
        for (name, labels) in found.samples:
            if name.startswith("exposer_"):
                continue
            name = name if name in listed else re.sub("_(bucket|sum|count)$", "", name)
            self.assertEqual({label for label, _ in labels} - {"le"}, listed[name][1], name)

    def test_each_role_tells_what_is_listed(self):
        names = set(documented())
        of_role = {role: {name for name in names if name.startswith((f"atoll_{role}_", "atoll_link"))} for role in ROLES}
        dispatch = {name for name in names if name.startswith("atoll_dispatch_")}
        self.assertEqual(set().union(*of_role.values()) | dispatch, names)
        for dispatch_at in ("router", "attention"):
            flags = ["--dispatch", "inline"] if dispatch_at == "attention" else []
            with Cluster(routers=1, attention=1, experts=1, flags=flags) as cluster, cluster.client() as client:
                client.generate(request_of(0, 5, 5))
                self.check(of(cluster, "router"), of_role["router"] | dispatch)
                self.check(of(cluster, "expert"), of_role["expert"])
                self.check(of(cluster, "attention"), of_role["attention"] | (dispatch if flags else set()))

    def test_one_process_tells_it_all_but_links(self):
        with Serve(flags=["--metrics-listen", "127.0.0.1:0"]) as server, server.client() as client:
            client.generate(request_of(0, 5, 5))
            address = re.search(r"metrics on (\S+)", server.log())[1].rstrip(",")
            self.check(server_metrics.scrape([f"http://{address}/metrics"]),
                       {name for name in documented() if not name.startswith("atoll_link")})

    def test_names_follow_the_conventions(self):
        for name, (kind, _) in documented().items():
            self.assertEqual(name.endswith("_total"), kind == "counter", name)
            self.assertNotRegex(name, r"_(ms|us|ns|milliseconds|kib|mb)(_|$)")
            if kind == "histogram":
                self.assertRegex(name, r"_(seconds|rows|tokens|sequences)$")


if __name__ == "__main__":
    main()
