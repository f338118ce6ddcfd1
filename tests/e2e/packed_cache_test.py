"""A packed cache changes no token, whoever holds the weights, and no process maps what another role holds."""

import os
import shutil
import tempfile
import unittest

from support import Cluster, Serve, api, atoll, main, paths

DEMO = paths.DEMO_MODEL
NUM_EXPERTS = 6 * 33  # 5 layers and the MTP layer; routers place the latter with --speculate alone
NUM_PLACED = 5 * 33


def ask(server):
    requests = [api.chat_request("What is MLA?", max_tokens=40, temperature=0),
                api.chat_request("who made you", max_tokens=30, temperature=1, seed=5, logprobs=2)]
    with server.client() as client:
        answers = [client.generate(request) for request in requests]
    return [(list(answer.token_ids), list(answer.logprobs)) for answer in answers]


def kept(folder):
    """{name: (inode, time of writing)} of the files in a cache's only subfolder."""
    subfolder, = os.listdir(folder)
    at = os.path.join(folder, subfolder)
    return {name: (os.stat(os.path.join(at, name)).st_ino, os.stat(os.path.join(at, name)).st_mtime_ns)
            for name in os.listdir(at)}


def is_expert(name):
    return "experts" in name


def mapped(pid, folder):
    """Names of the files in `folder` that a process has mapped."""
    with open(f"/proc/{pid}/maps", encoding="ascii", errors="replace") as file:
        paths_mapped = [line.split(maxsplit=5)[5].strip() for line in file if len(line.split(maxsplit=5)) == 6]
    return {os.path.basename(path) for path in paths_mapped if path.startswith(folder + "/")}


class PackedCacheTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        with Serve() as server:
            cls.expected = ask(server)

    def setUp(self):
        self.folder = os.path.realpath(tempfile.mkdtemp(prefix="atoll-packed-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def cluster(self, *flags):
        return Cluster(routers=1, attention=2, experts=2, flags=["--packed-cache", self.folder, *flags])

    def test_cold_warm_and_mapped_clusters_give_the_tokens_of_one_process(self):
        with self.cluster() as cluster:
            self.assertEqual(ask(cluster), self.expected)
        first = kept(self.folder)
        self.assertEqual(sum(is_expert(name) for name in first), NUM_PLACED)
        with self.cluster() as cluster:
            self.assertEqual(ask(cluster), self.expected)
            for entry in cluster.processes():
                self.assertEqual(mapped(entry["pid"], self.folder), set(), entry["name"])
        self.assertEqual(kept(self.folder), first, "a warm start wrote files")
        with self.cluster("--map-weights") as cluster:
            self.assertEqual(ask(cluster), self.expected)
            self.check_mappings(cluster, first)
        self.assertEqual(kept(self.folder), first)

    def check_mappings(self, cluster, files):
        held = set()
        for entry in cluster.processes():
            names = mapped(entry["pid"], self.folder)
            if entry["role"] == "router":
                self.assertEqual(names, set())
            elif entry["role"] == "attention":
                self.assertEqual(names, {name for name in files if not is_expert(name)})
            else:
                self.assertTrue(all(is_expert(name) for name in names), names)
                held |= names
        self.assertEqual(held, {name for name in files if is_expert(name)})

    def test_one_process_and_a_cluster_share_a_folder(self):
        with Serve(flags=["--packed-cache", self.folder, "--speculate", "1"]) as server:
            self.assertEqual(ask(server), self.expected)
        first = kept(self.folder)
        self.assertEqual(sum(is_expert(name) for name in first), NUM_EXPERTS)
        with self.cluster("--map-weights") as cluster:
            self.assertEqual(ask(cluster), self.expected)
        self.assertEqual(kept(self.folder), first)

    def test_damaged_files_are_told_and_written_anew(self):
        flags = ["--packed-cache", self.folder]
        with Serve(flags=flags):
            pass
        subfolder, = os.listdir(self.folder)
        names = ["model.layers.2.mlp.experts.3", "model.layers.1.self_attn"]
        for name in names:
            with open(os.path.join(self.folder, subfolder, name), "r+b") as file:
                file.seek(1000)
                byte = file.read(1)
                file.seek(1000)
                file.write(bytes([byte[0] ^ 1]))
        with Serve(flags=flags) as server:
            self.assertEqual(ask(server), self.expected)
            for name in names:
                self.assertEqual(server.log().count(name + ": the checksum"), 1, server.log())
        with Serve(flags=[*flags, "--map-weights"]) as server:
            self.assertEqual(ask(server), self.expected)
            self.assertNotIn("checksum", server.log())
            self.assertRegex(server.log(), r": 0\.0 MB made, 0\.0 MB copied and \d+\.\d MB mapped from ")

    def test_a_folder_that_cannot_be_made_is_told_and_serving_goes_on(self):
        path = os.path.join(self.folder, "file")
        with open(path, "wb") as file:
            file.write(b"text")
        with Serve(flags=["--packed-cache", path, "--map-weights"]) as server:
            self.assertEqual(ask(server), self.expected)
            self.assertEqual(server.log().count("packed cache: nothing is written"), 1, server.log())

    def test_mapping_without_a_folder_is_a_mistake(self):
        for command in (["serve"], ["cluster"]):
            ended = atoll(*command, "--model", DEMO, "--map-weights")
            self.assertEqual(ended.returncode, 2)
            self.assertIn("--packed-cache DIR", ended.stderr)


if __name__ == "__main__":
    main()
