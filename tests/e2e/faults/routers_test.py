"""Routers that die, hang or leave: clients go on at another one."""

import signal
import subprocess
import time

import grpc

from harness import DEMO, PRESET, FaultTest, Stopped, main, make_requests, paths, undisturbed, wait_until

RESUMED_S = 1.0
HANGS_S = 8.0  # clients, as nodes do, give a silent peer up after 2 s and 4 s


class Scenarios:
    def test_killed(self):
        with self.cluster(routers=2, attention=2, experts=2) as cluster:
            with self.streams(cluster) as streams:
                streams.wait_tokens(30)
                streams.fault()
                self.check_used_again(cluster, "router-0", router=1)
                streams.wait_tokens(30)
            self.check(streams, longest_s=RESUMED_S)
            self.assertGreater(sum(len(answer.breaks) for answer in streams.all()), 0)

    def test_all_killed_at_once(self):
        with self.cluster(routers=2, attention=2, experts=2) as cluster:
            with self.streams(cluster) as streams:
                streams.wait_tokens(30)
                streams.fault()
                cluster.kill("router-0", "router-1")
                streams.wait_tokens(30)
            self.check(streams, longest_s=3 * RESUMED_S)  # started again, joined, covered

    def test_stopped(self):
        with self.cluster(routers=2, attention=2, experts=2) as cluster:
            with self.streams(cluster) as streams:
                streams.wait_tokens(30)
                streams.fault()
                with Stopped([cluster.pid_of("router-0")]):
                    streams.wait_tokens(10)
                streams.wait_tokens(30)
            self.check(streams, longest_s=HANGS_S)

    def test_drained(self):
        """Streams run to their end, and new requests go elsewhere."""
        with self.cluster(routers=2, attention=2, experts=2, flags=["--drain-timeout", "30s"]) as cluster:
            requests = make_requests(self.model, prompts=(40, 200), tokens=600)
            with self.streams(cluster, count=4, requests=requests, once=True) as streams:
                streams.wait_tokens(30)
                with cluster.client(0) as client:
                    streams.fault()
                    cluster.send(signal.SIGTERM, "router-0")
                    wait_until(lambda: client.health("readiness") == 2, 5, "router-0 unready")
                    with self.assertRaises(grpc.RpcError) as refused:
                        client.generate(requests[0])
            self.assertEqual(refused.exception.code(), grpc.StatusCode.UNAVAILABLE)
            self.assertIn("RetryInfo", str(refused.exception.trailing_metadata()))
            self.check(streams, longest_s=0.25)
            self.assertEqual([answer.breaks for answer in streams.all()], [[]] * 4)

    def test_drained_before_its_streams_end(self):
        with self.cluster(routers=2, attention=2, experts=2, flags=["--drain-timeout", "300ms"]) as cluster:
            requests = make_requests(self.model, prompts=(40, 200), tokens=600)
            with self.streams(cluster, count=4, requests=requests, once=True) as streams:
                streams.wait_tokens(30)
                streams.fault()
                cluster.send(signal.SIGTERM, "router-0")
            breaks = [error for answer in streams.all() for error in answer.breaks]
            self.check(streams, longest_s=RESUMED_S)
            self.assertEqual([error.code() for error in breaks], [grpc.StatusCode.UNAVAILABLE] * len(breaks))
            self.assertIn("RetryInfo", str(breaks[0].trailing_metadata()))

    def test_its_sequences_end_with_it(self):
        with self.cluster(routers=2, flags=["--restart", "never"]) as cluster, cluster.client(0) as client:
            request = make_requests(self.model, prompts=(40,), tokens=1500)[0]
            call = client.generate_stream(request)
            next(call)
            self.assertEqual(cluster.sequences("attention-0"), 1)
            cluster.kill("router-0")
            killed = time.monotonic()
            wait_until(lambda: cluster.sequences("attention-0") == 0, 5, "the end of the sequence")
            print(f"\nits sequence ended after {1000 * (time.monotonic() - killed):.0f} ms", flush=True)
            self.assertLess(time.monotonic() - killed, 0.5)
            with self.assertRaises(grpc.RpcError) as broken:
                list(call)
            self.assertEqual(broken.exception.code(), grpc.StatusCode.UNAVAILABLE)

    def test_stopped_after_a_replay(self):
        """Its run goes on at the attention node, under the same request id and as a later run: the client's next one
        comes first all the same."""
        requests = make_requests(self.model, prompts=(40,), tokens=1200)
        expected = undisturbed(self.model, requests)
        requests[0].request_id = "the same"
        with self.cluster(routers=2, attention=2, flags=["--restart", "never"]) as cluster:
            with cluster.client(0) as client:
                call = client.generate_stream(requests[0])
                ids = list(next(call).token_ids)
                cluster.kill("attention-0")  # of equals, the first by name runs it
                wait_until(lambda: "request the same, run 0: UNAVAILABLE" in cluster.log(), 10, "a replay")
                for message in call:
                    ids += message.token_ids
                    if len(ids) > 100:
                        break
                with Stopped([cluster.pid_of("router-0")]), cluster.client(1) as other:
                    requests[0].resume_from.ids.extend(ids)
                    ids += other.generate(requests[0]).token_ids
                call.cancel()
            self.assertEqual(ids, expected[0])

    def the_command_goes_on(self, *names):
        requests = make_requests(self.model, prompts=(40,), tokens=1000)
        expected = undisturbed(self.model, requests)
        with self.cluster(routers=2, attention=2, experts=2) as cluster:
            commands = []
            for request, sampling in zip(requests, (["--temperature", "0"],
                                                    ["--temperature", "1", "--top-p", "0.95", "--seed", "1000"])):
                commands.append(subprocess.Popen(
                    [paths.binary("atoll"), "generate", "--ids", "--ignore-eos", "--max-tokens", "1000", *sampling,
                     "--address", ",".join(cluster.router_addresses()), "--token-ids",
                     ",".join(str(token) for token in request.token_ids.ids)],
                    stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True))
            heard = [command.stdout.read(200) for command in commands]  # both are under way
            killed = time.monotonic()
            cluster.kill(*names)
            for command, begin, ids in zip(commands, heard, expected):
                with command.stdout:
                    self.assertEqual([int(word) for word in (begin + command.stdout.read()).split()], ids)
                self.assertEqual(command.wait(60), 0)
            return time.monotonic() - killed

    def test_the_command_goes_on_by_itself(self):
        self.the_command_goes_on("router-0")

    def test_the_command_goes_on_when_all_are_back(self):
        undisturbed_s = self.the_command_goes_on()
        took = self.the_command_goes_on("router-0", "router-1")
        print(f"\n1000 tokens of two commands: {undisturbed_s:.1f} s undisturbed, {took:.1f} s over the loss of all "
              "routers", flush=True)
        self.assertLess(took, 2 * undisturbed_s + 2.0)


class DemoTest(Scenarios, FaultTest):
    model = DEMO


class PresetTest(Scenarios, FaultTest):
    model = PRESET


if __name__ == "__main__":
    main()
