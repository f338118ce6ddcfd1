"""Too much load, cache that is used up, clients that go, and bytes that are none of ours."""

import os
import signal
import socket
import threading
import time

import grpc

from harness import DEMO, PRESET, ExtraNode, FaultTest, api, is_alive, main, make_requests, undisturbed, wait_until


def ask(client, request, results, idx, timeout=60):
    """Puts ids or the error, and the seconds it took, into results[idx]."""
    began = time.monotonic()
    try:
        answer = list(client.generate(request, timeout=timeout).token_ids)
    except grpc.RpcError as error:
        answer = error
    results[idx] = (answer, time.monotonic() - began)


class Scenarios:
    def test_cache_blocks_used_up(self):
        """Eight sequences of up to 7 blocks in 16: newest ones give way and are replayed later."""
        requests = make_requests(self.model, prompts=(10, 40, 64, 100), tokens=300)
        with self.cluster(experts=2, flags=["--context", "512", "--cache-blocks", "16"]) as cluster:
            with self.streams(cluster, requests=requests, once=True) as streams:
                streams.fault()
            with api.Client(cluster.address(role="attention")) as client:
                preemptions = client.attention_stats().preemptions
            self.check(streams, longest_s=60)  # they wait for their turn
            print(f"{preemptions} preemptions", flush=True)
            self.assertGreater(preemptions, 0)

    def test_too_much_load(self):
        requests = make_requests(self.model, prompts=(40,), tokens=400)
        expected = undisturbed(self.model, requests)
        with self.cluster(experts=2, flags=["--max-concurrent-requests", "2", "--max-queued-requests",
                                            "2"]) as cluster, cluster.client() as client:
            results = [None] * 12
            threads = [threading.Thread(target=ask, args=(client, requests[i % 2], results, i)) for i in range(12)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
            refused = [(answer, took) for answer, took in results if isinstance(answer, grpc.RpcError)]
            self.assertEqual(len(refused), 8)
            for error, took in refused:
                self.assertEqual(error.code(), grpc.StatusCode.RESOURCE_EXHAUSTED)
                self.assertIn("RetryInfo", str(error.trailing_metadata()))
                self.assertLess(took, 1.0)
            for i, (answer, _) in enumerate(results):
                if not isinstance(answer, grpc.RpcError):
                    self.assertEqual(answer, expected[i % 2])

    def test_expired_requests_leave_the_queue(self):
        requests = make_requests(self.model, prompts=(40,), tokens=1500)
        with self.cluster(experts=2, flags=["--max-concurrent-requests", "1", "--max-queued-requests",
                                            "1"]) as cluster, cluster.client() as client:
            running = client.generate_stream(requests[0])
            next(running)
            results = [None] * 2
            ask(client, requests[1], results, 0, timeout=0.3)  # waits, and is given up
            self.assertEqual(results[0][0].code(), grpc.StatusCode.DEADLINE_EXCEEDED)
            wait_until(lambda: cluster.metric("router-0", "atoll_router_queued_requests") == 0, 5, "an empty queue")
            ask(client, requests[1], results, 1, timeout=0.3)  # its place is free: it waits too, and is not refused
            self.assertEqual(results[1][0].code(), grpc.StatusCode.DEADLINE_EXCEEDED)
            running.cancel()

    def test_clients_that_go(self):
        requests = make_requests(self.model, prompts=(40, 200), tokens=1500)
        with self.cluster(experts=2) as cluster, cluster.client() as client:
            calls = [client.generate_stream(request) for request in requests]
            for call in calls:
                next(call)
            with api.Client(cluster.address(role="attention")) as node:
                self.assertGreater(node.attention_stats().cache_blocks_used, 0)
                for call in calls:
                    call.cancel()
                gone = time.monotonic()
                wait_until(lambda: node.attention_stats().cache_blocks_used == 0, 5, "free blocks")
            print(f"\nblocks were free after {1000 * (time.monotonic() - gone):.0f} ms", flush=True)
            self.assertLess(time.monotonic() - gone, 0.5)

    def test_nobody_waits_for_experts_that_do_not_come(self):
        """A request is given up while its rows wait for an expert node: nothing of it is left to hold up a drain."""
        request = make_requests(self.model, prompts=(40,), tokens=100)[0]
        with self.cluster(experts=1, flags=["--restart", "never"]) as cluster, cluster.client() as client:
            cluster.kill("expert-0")
            results = [None]
            ask(client, request, results, 0, timeout=2)
            self.assertEqual(results[0][0].code(), grpc.StatusCode.DEADLINE_EXCEEDED)
            for name in ("attention-0", "router-0"):
                process = cluster.process_named(name)
                began = time.monotonic()
                os.kill(process["pid"], signal.SIGTERM)
                wait_until(lambda: not is_alive(process["pid"]), 60, f"{name} to end")
                print(f"{name} drained in {time.monotonic() - began:.2f} s", flush=True)
                self.assertLess(time.monotonic() - began, 5)  # of the 10 s that a drain may take

    def test_bytes_that_are_no_frames(self):
        with self.cluster(experts=2, flags=["--links", "tcp", "--min-replicas", "2"]) as cluster:
            pids = [entry["pid"] for entry in cluster.processes()]
            with self.streams(cluster) as streams:
                streams.wait_tokens(30)
                streams.fault()
                for entry in cluster.processes():
                    for kind in ("grpc", "data"):
                        if entry["addresses"][kind]:
                            self.send_garbage(entry["addresses"][kind])
                streams.wait_tokens(30)
            self.check(streams, longest_s=0.25)
            self.assertEqual([entry["pid"] for entry in cluster.processes()], pids)

    @staticmethod
    def send_garbage(address):
        """To its end: the peer closes."""
        host, port = address.rsplit(":", 1)
        with socket.create_connection((host, int(port)), timeout=10) as sock:
            sock.settimeout(15)
            try:
                sock.sendall(os.urandom(1 << 16))
                sock.shutdown(socket.SHUT_WR)
                while sock.recv(1 << 16):
                    pass
            except TimeoutError:
                raise
            except OSError:  # closed or reset already
                pass

    def test_bad_requests(self):
        bad = [api.ids_request(ids, **fields) for ids, fields in (
            ([], {}), ([1 << 31], {}), ([5], {"temperature": -1}), ([5], {"top_p": 0}),
            ([5], {"logprobs": 21}))]
        with self.cluster(experts=2) as cluster:
            with self.streams(cluster) as streams, cluster.client() as client:
                streams.wait_tokens(30)
                streams.fault()
                for request in bad:
                    with self.assertRaises(grpc.RpcError) as refused:
                        client.generate(request)
                    self.assertEqual(refused.exception.code(), grpc.StatusCode.INVALID_ARGUMENT)
                    self.assertIn("BadRequest", str(refused.exception.trailing_metadata()))
                with self.assertRaises(grpc.RpcError) as refused:
                    client.raw("/atollpb.v1.InferenceService/Generate", b"\xff" * 100)
                streams.wait_tokens(30)
            self.check(streams, longest_s=0.25)

    def test_a_node_of_another_model(self):
        other = PRESET if self.model == DEMO else DEMO
        with self.cluster(experts=2) as cluster:
            with self.streams(cluster) as streams:
                streams.wait_tokens(30)
                streams.fault()
                for role in ("expert", "attention"):
                    with ExtraNode(cluster, role, f"{role}-other", model=other) as node:
                        wait_until(lambda: "refuses this node" in node.log(), 20, "its refusal")
                        self.assertIn("model revision", node.log())
                        self.assertIsNone(node.process.poll())
                streams.wait_tokens(30)
            self.check(streams, longest_s=0.5)


class DemoTest(Scenarios, FaultTest):
    model = DEMO


class PresetTest(Scenarios, FaultTest):
    model = PRESET


if __name__ == "__main__":
    main()
