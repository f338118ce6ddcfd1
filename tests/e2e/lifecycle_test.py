"""`atoll cluster` as a process: its status file, children that die, its own end."""

import json
import os
import signal
import socket
import subprocess
import tempfile
import time
import unittest

from support import Cluster, Process, api, atoll, is_alive, main, paths, wait_until


class StatusFileTest(unittest.TestCase):
    def test_tells_of_every_process_where_it_is_and_what_it_holds(self):
        with Cluster(routers=2, attention=2, experts=3) as cluster:
            entries = cluster.processes()
            self.assertEqual([entry["name"] for entry in entries],
                             ["router-0", "router-1", "attention-0", "attention-1", "expert-0", "expert-1", "expert-2"])
            for entry in entries:
                self.assertEqual(set(entry), {"role", "name", "pid", "addresses", "holds"})
                self.assertEqual(set(entry["addresses"]), {"grpc", "data", "health", "metrics"})
                self.assertEqual(set(entry["holds"]), {"experts", "sequences"})
                self.assertEqual(entry["role"], entry["name"].split("-")[0])
                self.assertTrue(is_alive(entry["pid"]))
                with api.Client(entry["addresses"]["grpc"]) as client:
                    self.assertEqual(client.health("readiness"), 1, entry["name"])
            # 5 layers of 32 routed and 1 shared expert, all held when the file is first written.
            self.assertGreaterEqual(sum(entry["holds"]["experts"] for entry in entries), 5 * 33)
            for entry in cluster.processes("expert"):
                self.assertGreater(entry["holds"]["experts"], 0)

    def test_sequences_come_and_go(self):
        with Cluster() as cluster, cluster.client() as client:
            call = client.generate_stream(api.text_request("Hello", ignore_eos=True, max_tokens=2000))
            next(call)
            wait_until(lambda: cluster.process_named("attention-0")["holds"]["sequences"] == 1, 10, "one sequence held")
            call.cancel()
            wait_until(lambda: cluster.process_named("attention-0")["holds"]["sequences"] == 0, 10, "none held")


class RestartTest(unittest.TestCase):
    def test_a_killed_process_of_each_role_is_used_again(self):
        with Cluster(routers=2, attention=2, experts=2) as cluster:
            for name in ("expert-1", "attention-1", "router-1"):
                with self.subTest(name):
                    old = cluster.process_named(name)
                    os.kill(old["pid"], signal.SIGKILL)
                    killed = time.monotonic()
                    with cluster.client() as client:
                        wait_until(lambda: self.is_used_again(client, old), 10, f"a new {name}")
                        self.assertLess(time.monotonic() - killed, 1)  # back-off of 0.1 s, start, join, load
                        self.assertEqual(client.generate(api.chat_request("What is MLA?", max_tokens=5)).token_ids[:3],
                                         [1206, 784, 365])
                    wait_until(lambda: (cluster.process_named(name) or old)["pid"] != old["pid"], 5, "its entry")
            wait_until(lambda: cluster.process_named("expert-1")["holds"]["experts"] > 0, 5, "experts at expert-1")

    @staticmethod
    def is_used_again(client, old):
        """The router lists another process of that name; an expert node has loaded experts."""
        for node in client.snapshot().view.nodes:
            if node.info.name == old["name"] and node.info.pid != old["pid"]:
                return old["role"] != "expert" or len(node.state.holds) > 0
        return False

    def test_restart_never_leaves_it_down(self):
        with Cluster(attention=2, flags=["--restart", "never"]) as cluster:
            os.kill(cluster.process_named("attention-1")["pid"], signal.SIGKILL)
            wait_until(lambda: cluster.process_named("attention-1") is None, 10, "attention-1 out of the status file")
            with cluster.client() as client:
                self.assertEqual(len(client.generate(api.chat_request("Hello", max_tokens=3)).token_ids), 3)
            self.assertIsNone(cluster.process_named("attention-1"))
            self.assertIn("stays down", cluster.log())


class EndTest(unittest.TestCase):
    def test_ctrl_c_ends_all_with_code_0(self):
        with Cluster(routers=2, attention=2, experts=2) as cluster:
            pids = [entry["pid"] for entry in cluster.processes()]
            self.assertEqual(cluster.interrupt(), 0)
            self.assertEqual([pid for pid in pids if is_alive(pid)], [])
            self.assertEqual(cluster.processes(), [])

    def test_an_answer_under_way_is_finished_first(self):
        with Cluster() as cluster, cluster.client() as client:
            call = client.generate_stream(api.text_request("Hello", ignore_eos=True, max_tokens=200))
            first = next(call)
            cluster.process.send_signal(signal.SIGINT)
            rest = list(call)
            self.assertEqual(len(first.token_ids) + sum(len(message.token_ids) for message in rest), 200)
            self.assertEqual(cluster.process.wait(30), 0)

    def test_children_end_with_a_supervisor_that_is_killed(self):
        with Cluster(routers=2, attention=1, experts=2) as cluster:
            pids = [entry["pid"] for entry in cluster.processes()]
            cluster.process.kill()
            cluster.process.wait()
            wait_until(lambda: not any(is_alive(pid) for pid in pids), 5, "the children's end")

    def test_a_stopped_child_does_not_hold_up_the_end(self):
        with Cluster(flags=["--drain-timeout", "1s"]) as cluster:
            os.kill(cluster.process_named("expert-0")["pid"], signal.SIGSTOP)
            self.assertEqual(cluster.interrupt(), 0)


class StartTest(unittest.TestCase):
    def test_two_clusters_side_by_side_answer_alike(self):
        with Cluster(routers=2) as first, Cluster(routers=2) as second:
            answers = []
            for cluster in (first, second):
                for idx in range(2):
                    with cluster.client(idx) as client:
                        answers.append(client.generate(api.chat_request("count to ten")).text)
            self.assertEqual(answers, ["One, two, three, four, five, six, seven, eight, nine, ten."] * 4)

    def test_a_port_in_use_is_said(self):
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            with Cluster(listen=f"127.0.0.1:{port}", wait=False) as cluster:
                self.assertEqual(cluster.process.wait(30), 1)
                self.assertIn(f"port {port} of 127.0.0.1 is in use", cluster.log())

    def test_the_port_of_another_cluster_is_said(self):
        with Cluster() as first, Cluster(listen=first.address(), wait=False) as second:
            self.assertEqual(second.process.wait(30), 1)
            self.assertIn(first.address().split(":")[1], second.log())
            with first.client() as client:
                self.assertEqual(client.health("readiness"), 1)

    def test_a_wrong_model_folder_is_said_once(self):
        with tempfile.TemporaryDirectory() as empty:
            for folder in ("/no/such/folder", empty):
                ended = atoll("cluster", "--model", folder, "--listen", "127.0.0.1:0")
                self.assertEqual(ended.returncode, 1)
                self.assertIn(folder, ended.stderr)
                self.assertIn("config.json", ended.stderr)
                self.assertEqual(ended.stderr.count("\n"), 1)

    def test_wrong_flags_end_with_code_2(self):
        for flags, expected in ((["--experts", "0"], "--experts: expected 1 to 256, found 0"),
                                (["--profile", "fp3"], "fp3"),
                                (["--dispatch", "inlined"], "expected service|inline, found \"inlined\""),
                                (["--routres", "2"], "did you mean --routers?"),
                                (["--listen", "8470"], "--listen")):
            ended = atoll("cluster", "--model", paths.DEMO_MODEL, *flags)
            self.assertEqual(ended.returncode, 2, expected)
            self.assertIn(expected, ended.stderr)
        self.assertEqual(atoll("cluster").returncode, 2)
        self.assertIn("did you mean \"cluster\"", atoll("clutser").stderr.replace("cluster?", "\"cluster\""))

    def test_a_status_file_that_cannot_be_written_is_said_at_once(self):
        ended = atoll("cluster", "--model", paths.DEMO_MODEL, "--listen", "127.0.0.1:0", "--status-file",
                      "/no/such/folder/status.json")
        self.assertEqual(ended.returncode, 1)
        self.assertIn("/no/such/folder/status.json", ended.stderr)

    def test_flags_come_from_the_environment_too(self):
        with tempfile.TemporaryDirectory() as folder:
            status = os.path.join(folder, "status.json")
            variables = {"ATOLL_MODEL": paths.DEMO_MODEL, "ATOLL_EXPERTS": "3", "ATOLL_LISTEN": "127.0.0.1:0",
                         "ATOLL_STATUS_FILE": status}
            with Process([paths.binary("atoll"), "cluster"], env=variables):
                wait_until(lambda: os.path.exists(status), 60, "the status file")
                with open(status, encoding="utf-8") as file:
                    roles = [entry["role"] for entry in json.load(file)["processes"]]
                self.assertEqual(roles, ["router", "attention", "expert", "expert", "expert"])


class SingleProcessesTest(unittest.TestCase):
    def test_nodes_started_one_by_one_in_any_order_make_a_cluster(self):
        with tempfile.TemporaryDirectory() as folder, socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            router = f"127.0.0.1:{probe.getsockname()[1]}"
            probe.close()
            join_file = os.path.join(folder, "routers")
            model = ["--model", paths.DEMO_MODEL]
            with Process([paths.binary("atoll-expert"), *model, "--join", router]), \
                    Process([paths.binary("atoll-attention"), *model, "--join", f"file:{join_file}"]), \
                    Process([paths.binary("atoll"), "expert", *model, "--join", f"dns:localhost:{router.split(':')[1]}"]):
                with Process([paths.binary("atoll-router"), *model, "--listen", router]) as router_process:
                    with open(join_file, "w", encoding="utf-8") as file:
                        file.write(router + "\n")
                    answer = wait_until(lambda: self._answer(router), 60, "an answer")
                    self.assertEqual(answer, "One, two, three, four, five, six, seven, eight, nine, ten.")
                    self.assertEqual(router_process.interrupt(), 0)

    @staticmethod
    def _answer(router):
        ended = atoll("generate", "--chat", "--address", router, "count to ten")
        return ended.stdout.strip() if ended.returncode == 0 else None


if __name__ == "__main__":
    main()
