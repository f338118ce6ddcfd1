"""The work is really where it should be: experts compute the experts' rows, and nobody else has their weights."""

import json
import os
import struct
import threading
import unittest

import grpc

from support import Cluster, Stopped, api, expert_rows, gate_rows, main, paths

QUIET_S = 1.5  # many times a token's time


def setUpModule():
    global CLUSTER
    CLUSTER = Cluster(routers=2, attention=2, experts=3)
    unittest.addModuleCleanup(CLUSTER.__exit__, None, None, None)


class ExpertsTest(unittest.TestCase):
    def test_rows_of_experts_equal_the_gates_choices(self):
        before_experts, before_gates = expert_rows(CLUSTER), gate_rows(CLUSTER)
        prompts = ["What is MLA?", "Are tokens dropped?", "count to ten", "who made you"]
        generated = []
        threads = []
        for idx, prompt in enumerate(prompts):
            def ask(idx=idx, prompt=prompt):
                with CLUSTER.client(idx % 2) as client:
                    generated.append(client.generate(api.chat_request(prompt, max_tokens=20)).usage)
            threads.append(threading.Thread(target=ask))
            threads[-1].start()
        for thread in threads:
            thread.join()
        self.assertEqual(len(generated), len(prompts))
        after_experts, after_gates = expert_rows(CLUSTER), gate_rows(CLUSTER)
        self.assertEqual(after_experts, after_gates)
        self.assertNotEqual(after_experts, before_experts)
        self.assertEqual(before_experts, before_gates)
        # Each row goes to the shared expert (id 32) once and to 4 routed ones, in each of the layers 1 to 5.
        for layer in range(1, 6):
            shared = after_gates[layer, 32]
            routed = sum(rows for (at, expert), rows in after_gates.items() if at == layer and expert < 32)
            self.assertEqual(routed, 4 * shared)
        # All tokens but each answer's last one went through the layers (fewer where the prefix cache had them).
        most = sum(usage.prompt_tokens - usage.cached_prompt_tokens + usage.generated_tokens - 1 for usage in generated)
        self.assertEqual(after_gates[1, 32] - before_gates.get((1, 32), 0), most)


class SpeculationTest(unittest.TestCase):
    def test_the_same_tokens_with_guesses_and_rows_are_still_the_gates_choices(self):
        requests = [api.chat_request("What is MLA?", max_tokens=40, temperature=0),
                    api.chat_request("who made you", max_tokens=40, temperature=1, seed=5, logprobs=2)]
        with CLUSTER.client() as client:
            expected = [client.generate(request) for request in requests]
        with Cluster(flags=["--speculate=2"], attention=1, experts=2) as cluster, cluster.client() as client:
            for request, before in zip(requests, expected):
                answer = client.generate(request)
                self.assertEqual(list(answer.token_ids), list(before.token_ids))
                self.assertEqual(list(answer.logprobs), list(before.logprobs))
                self.assertEqual(answer.text, before.text)
            self.assertEqual(expert_rows(cluster), gate_rows(cluster))
            self.assertGreater(gate_rows(cluster).get((6, 32), 0), 0, "no row of the MTP layer, 6")
            entry, = cluster.processes("attention")
            with api.Client(entry["addresses"]["grpc"]) as node:
                stats = node.attention_stats()
            self.assertGreater(stats.accepted_tokens, 0)
            self.assertGreaterEqual(stats.drafted_tokens, stats.accepted_tokens)


class StoppedExpertsTest(unittest.TestCase):
    def test_no_token_appears_while_all_experts_are_stopped(self):
        # A cluster of its own: what hangs for seconds may be given up and loaded anew, which begins its counters again.
        with Cluster(routers=2, attention=2, experts=3) as cluster, cluster.client() as client:
            request = api.text_request("Hello", ignore_eos=True, max_tokens=300, temperature=0)
            undisturbed = list(client.generate(request).token_ids)
            call = client.generate_stream(request)
            ids = list(next(call).token_ids)
            arrived = threading.Semaphore(0)
            failures = []

            def read():
                try:
                    for message in call:
                        ids.extend(message.token_ids)
                        arrived.release()
                except grpc.RpcError as error:
                    failures.append(error)
                arrived.release()

            reader = threading.Thread(target=read)
            reader.start()
            with Stopped([entry["pid"] for entry in cluster.processes("expert")]):
                while arrived.acquire(timeout=QUIET_S):  # what was already on its way
                    pass
                frozen = len(ids)
                self.assertLess(frozen, 300)
                self.assertFalse(arrived.acquire(timeout=QUIET_S), "a token without experts")
                self.assertEqual(len(ids), frozen)
            reader.join(60)
            self.assertFalse(reader.is_alive())
            self.assertEqual(failures, [])
            self.assertEqual(ids, undisturbed)


class MemoryTest(unittest.TestCase):
    def test_no_mapping_of_attention_and_router_processes_covers_an_experts_weights(self):
        path = os.path.realpath(os.path.join(paths.DEMO_MODEL, "model.safetensors"))
        ranges = expert_ranges(path)
        self.assertEqual(len(ranges), 6 * 33 * 3)  # 5 layers and the MTP layer, 33 experts, 3 matrices
        for entry in CLUSTER.processes("attention") + CLUSTER.processes("router"):
            for begin, end in mappings(entry["pid"], path):
                for name, first, last in ranges:
                    self.assertFalse(begin < last and first < end, f"{entry['name']} has mapped {name}")

    def test_the_check_above_sees_a_mapping(self):
        import mmap
        path = os.path.realpath(os.path.join(paths.DEMO_MODEL, "model.safetensors"))
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ):
            self.assertEqual(mappings(os.getpid(), path)[0][0], 0)
        self.assertEqual(mappings(os.getpid(), path), [])


def expert_ranges(path):
    """(name, first byte, end) of each expert's matrices in a safetensors file."""
    with open(path, "rb") as file:
        size = struct.unpack("<Q", file.read(8))[0]
        header = json.loads(file.read(size))
    return [(name, 8 + size + tensor["data_offsets"][0], 8 + size + tensor["data_offsets"][1])
            for name, tensor in header.items()
            if "experts." in name and name.endswith("_proj.weight")]


def mappings(pid, path):
    """(offset of the first byte, end) in the file of each mapping of it."""
    found = []
    with open(f"/proc/{pid}/smaps", encoding="ascii", errors="replace") as file:
        for line in file:
            words = line.split()
            if len(words) >= 6 and "-" in words[0] and words[5] == path:
                begin, end = (int(address, 16) for address in words[0].split("-"))
                offset = int(words[2], 16)
                found.append((offset, offset + end - begin))
    return found


if __name__ == "__main__":
    main()
