"""The same tokens and logprobs from one process and from many, over every link and mode.

    arrangements_test.py [--full]     without it, a few arrangements
"""

import itertools
import sys
import unittest

from support import EXPECTED, Cluster, Serve, api, main

FULL = "--full" in sys.argv


def requests():
    """Greedy and sampled, short and long prompts."""
    made = [api.chat_request([(m["role"], m["content"]) for m in case["messages"]], max_tokens=24, logprobs=2,
                             temperature=0) for case in EXPECTED if case["kind"] == "chat"][:6]
    made += [api.ids_request([0] + [(7 * i * i + 3) % 2000 + 3 for i in range(length)], max_tokens=12, logprobs=1,
                             temperature=1.0, seed=length, ignore_eos=True, prompt_logprobs=0) for length in (1, 63, 64, 200)]
    return made


def answers(server):
    """What every request is answered with, less what may differ: id, times, cache hits."""
    result = []
    with server.client() as client:
        for request in requests():
            answer = client.generate(request)
            answer.ClearField("request_id")
            answer.ClearField("timings")
            answer.usage.ClearField("cached_prompt_tokens")
            if not request.sampling.HasField("seed"):
                answer.ClearField("seed")
            result.append(answer.SerializeToString(deterministic=True))
    return result


class ArrangementsTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        with Serve() as server:
            cls.expected = answers(server)

    def check_cluster(self, experts, dispatch, link, routers=1, attention=1):
        flags = ["--dispatch", dispatch, "--links", link]
        with self.subTest(experts=experts, dispatch=dispatch, link=link), \
                Cluster(routers=routers, attention=attention, experts=experts, flags=flags) as cluster:
            self.assertEqual(answers(cluster), self.expected)

    def test_one_process_inline(self):
        with Serve(flags=["--dispatch", "inline"]) as server:
            self.assertEqual(answers(server), self.expected)

    def test_clusters(self):
        if FULL:
            arrangements = itertools.product((1, 2, 4, 8), ("service", "inline"), ("shm", "unix", "tcp"))
        else:
            arrangements = [(1, "inline", "tcp"), (2, "service", "unix"), (4, "service", "tcp"), (4, "inline", "shm")]
        for experts, dispatch, link in arrangements:
            self.check_cluster(experts, dispatch, link)


class MoreArrangements:
    """With --full only."""

    def test_many_routers_and_attention_nodes(self):
        for attention in (2, 3):
            for dispatch in ("service", "inline"):
                self.check_cluster(3, dispatch, "unix", routers=2, attention=attention)

    def test_sizes_of_the_engine_do_not_matter(self):
        for flags in (["--prefill-chunk", "1"], ["--prefill-chunk", "7"], ["--prefix-cache", "false"],
                      ["--micro-batches", "1"], ["--threads", "1"], ["--threads", "4"], ["--isa", "portable"],
                      ["--cache-blocks", "40"]):
            with self.subTest(flags), Serve(flags=flags) as server:
                self.assertEqual(answers(server), self.expected)


if FULL:
    class FullArrangementsTest(MoreArrangements, ArrangementsTest):
        """All of ArrangementsTest over more arrangements, and the above."""

    del ArrangementsTest


if __name__ == "__main__":
    if FULL:
        sys.argv.remove("--full")
    main()
