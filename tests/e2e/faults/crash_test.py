"""A request that brings down the nodes that run it: it ends with an error after three, and the cluster lives.

Nothing crashes by itself: with all expert nodes stopped no token can come, and whatever runs the sequence is killed.
"""

import threading

import grpc

from harness import DEMO, PRESET, FaultTest, Stopped, main, make_requests, undisturbed, wait_until

NODES = [f"attention-{i}" for i in range(4)]  # of equals, the first by name runs a sequence


class Scenarios:
    def test_a_sequence_that_lost_three_attention_nodes(self):
        requests = make_requests(self.model, prompts=(40,), tokens=200)
        expected = undisturbed(self.model, requests)
        requests[0].request_id = "deadly"
        result = {}
        with self.cluster(attention=4, experts=1, flags=["--restart", "never"]) as cluster, cluster.client() as client:
            with Stopped([cluster.pid_of("expert-0")]):
                thread = threading.Thread(target=self.ask, args=(client, requests[0], result))
                thread.start()
                wait_until(lambda: cluster.metric("router-0", "atoll_router_running_requests") == 1, 10, "a run")
                for run, node in enumerate(NODES[:3]):
                    cluster.kill(node)
                    wait_until(lambda: f"request deadly, run {run}:" in cluster.log(), 10, f"the end of run {run}")
                    self.assertIn(f"run {run}: UNAVAILABLE: attention node {node}", cluster.log())
                thread.join(20)
                self.assertFalse(thread.is_alive(), "no answer after three nodes")
            error = result["error"]
            print(f"\nafter three attention nodes: {error.code().name}: {error.details()}", flush=True)
            self.assertEqual(error.code(), grpc.StatusCode.INTERNAL)
            self.assertIn("request deadly has lost 3 attention nodes", error.details())
            self.assertIn("request deadly: lost 3 attention nodes", cluster.log())
            self.assertEqual(list(client.generate(requests[1]).token_ids), expected[1])

    @staticmethod
    def ask(client, request, result):
        try:
            result["answer"] = client.generate(request)
        except grpc.RpcError as error:
            result["error"] = error

    def test_two_lost_nodes_are_one_too_few(self):
        requests = make_requests(self.model, prompts=(300, 290), tokens=400)
        with self.cluster(attention=3, experts=1, flags=["--restart", "never"]) as cluster:
            with self.streams(cluster, count=4, requests=requests, once=True) as streams:
                streams.wait_tokens(30)
                streams.fault()
                with Stopped([cluster.pid_of("expert-0")]):
                    cluster.kill("attention-0")
                    wait_until(lambda: "run 0: UNAVAILABLE: attention node attention-0" in cluster.log(), 10, "a loss")
                    cluster.kill("attention-1")
            self.check(streams, longest_s=5.0)


class DemoTest(Scenarios, FaultTest):
    model = DEMO


class PresetTest(Scenarios, FaultTest):
    model = PRESET


if __name__ == "__main__":
    main()
