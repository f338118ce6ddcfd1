"""The client commands as a user types them."""

import json
import os
import pty
import shutil
import signal
import subprocess
import tempfile
import unittest

from support import Cluster, Serve, api, atoll, is_alive, main, paths, wait_until

COUNT = "One, two, three, four, five, six, seven, eight, nine, ten."
DEMO = paths.DEMO_MODEL


def setUpModule():
    global CLUSTER
    CLUSTER = Cluster(routers=2, attention=1, experts=2)
    unittest.addModuleCleanup(CLUSTER.__exit__, None, None, None)


class GenerateTest(unittest.TestCase):
    def generate(self, *arguments, code=0, **options):
        ended = atoll("generate", "--address", CLUSTER.address(), *arguments, **options)
        self.assertEqual(ended.returncode, code, ended.stderr)
        return ended

    def test_streams_text(self):
        self.assertEqual(self.generate("--chat", "count to ten").stdout, COUNT + "\n")
        self.assertEqual(self.generate("--chat", "--unary", "count to ten").stdout, COUNT + "\n")

    def test_reads_the_prompt_from_standard_input(self):
        self.assertEqual(self.generate("--chat", "-", input="count to ten").stdout, COUNT + "\n")

    def test_ids_in_and_out(self):
        ids = atoll("tokenize", "--model", DEMO, "count to ten").stdout.split()
        out = self.generate("--ids", "--token-ids", ",".join(["0", "2046", *ids, "2047"])).stdout.split()
        text = atoll("tokenize", "--model", DEMO, "--decode", " ".join(out)).stdout
        self.assertEqual(text, COUNT + "\n")

    def test_json_has_the_whole_answer(self):
        answer = json.loads(self.generate("--json", "--chat", "--logprobs", "1", "--seed", "7", "count to ten").stdout)
        self.assertEqual(answer["text"], COUNT)
        self.assertEqual(len(answer["logprobs"]), answer["usage"]["generated_tokens"])
        self.assertEqual(answer["seed"], "7")
        self.assertEqual(answer["finish_reason"], "FINISH_REASON_STOP")

    def test_json_stays_json_with_verbose(self):
        ended = self.generate("--json", "--verbose", "--chat", "count to ten")
        self.assertEqual(json.loads(ended.stdout)["text"], COUNT)
        self.assertIn("tokens/s", ended.stderr)

    def test_sampling_flags_reach_the_server(self):
        with CLUSTER.client() as client:
            request = api.chat_request("What is MLA?", temperature=1.5, top_p=0.9, top_k=50, min_p=0.01, seed=5,
                                       repetition_penalty=1.1, presence_penalty=0.5, frequency_penalty=-0.5,
                                       logit_bias={5: 1.5}, max_tokens=20, stop=[" xyz"], ignore_eos=True)
            wanted = client.generate(request).text
        self.assertEqual(
            self.generate("--chat", "--temperature", "1.5", "--top-p", "0.9", "--top-k", "50", "--min-p", "0.01", "--seed",
                          "5", "--repetition-penalty", "1.1", "--presence-penalty", "0.5", "--frequency-penalty", "-0.5",
                          "--logit-bias", "5=1.5", "--max-tokens", "20", "--stop", " xyz", "--ignore-eos",
                          "What is MLA?").stdout, wanted + "\n")

    def test_bytes_that_are_no_utf8_are_refused(self):
        for arguments, what in ((["generate", b"ab\xff"], b"prompt"), (["generate", "x", "--stop", b"ab\xff"], b"--stop"),
                                (["tokenize", b"ab\xff"], b"input"), (["chat", "--system", b"ab\xff"], b"--system")):
            ended = subprocess.run([paths.binary("atoll"), *arguments, "--address", CLUSTER.address()],
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False,
                                   timeout=60)
            self.assertNotEqual(ended.returncode, 0)
            self.assertIn(what + b": expected UTF-8, found the byte 0xff at offset 2", ended.stderr)

    def test_verbose_tells_who_computed_what(self):
        lines = self.generate("--chat", "--verbose", "count to ten").stdout.splitlines()
        self.assertIn("tokens/s", lines[1])
        self.assertIn("router-0 answered; attention: attention-0 ", lines[2])
        self.assertRegex(lines[2], r"rows at the experts: expert-0 \d+, expert-1 \d+$")

    def test_errors_are_clear(self):
        gone = atoll("generate", "--address", "127.0.0.1:1", "x")
        self.assertEqual(gone.returncode, 1)
        self.assertIn("no Atoll server answers at 127.0.0.1:1", gone.stderr)
        self.assertIn("top_p", self.generate("--top-p", "3", "x", code=1).stderr)
        self.assertIn("--token-ids", self.generate("--token-ids", "5,x", code=2).stderr)
        self.assertIn("--max-tokens", self.generate("--max-tokns", "5", "x", code=2).stderr)
        for unused in (["--token-ids", "5", "Hello"], ["--token-ids", "5", "6"], ["--token-ids", "5", "--chat"],
                       ["--system", "Be brief.", "Hello"], ["--logprobs", "1", "Hello"], ["--seed", "-1", "Hello"]):
            self.assertIn(unused[0], self.generate(*unused, code=2).stderr)

    def test_the_call_ends_when_nobody_reads_the_answer(self):
        with subprocess.Popen([paths.binary("atoll"), "generate", "--address", CLUSTER.address(), "--ignore-eos",
                               "--max-tokens", "2000", "Hello"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              text=True) as process:
            process.stdout.read(1)
            process.stdout.close()
            self.assertEqual(process.stderr.read(), "")
            self.assertEqual(process.wait(20), 1)
        wait_until(lambda: CLUSTER.process_named("attention-0")["holds"]["sequences"] == 0, 10, "the sequence's end")

    def test_an_error_leaves_standard_output_empty(self):
        self.assertEqual(self.generate("--top-p", "3", "x", code=1).stdout, "")

    def test_ctrl_c_ends_an_answer_with_code_130(self):
        with subprocess.Popen([paths.binary("atoll"), "generate", "--address", CLUSTER.address(), "--ignore-eos",
                               "--max-tokens", "2000", "Hello"], stdout=subprocess.PIPE) as process:
            process.stdout.read(1)
            process.send_signal(signal.SIGINT)
            process.stdout.read()
            self.assertEqual(process.wait(20), 130)
        wait_until(lambda: CLUSTER.process_named("attention-0")["holds"]["sequences"] == 0, 10, "the sequence's end")

    def test_goes_on_at_another_router_when_its_own_is_killed(self):
        request = ["--ignore-eos", "--max-tokens", "600", "--temperature", "1", "--seed", "4", "Hello"]
        wanted = self.generate("--ids", *request).stdout
        with subprocess.Popen([paths.binary("atoll"), "generate", "--ids", "--address",
                               f"{CLUSTER.address(1)},{CLUSTER.address(0)}", *request], stdout=subprocess.PIPE,
                              text=True) as process:
            first = process.stdout.read(20)
            old = CLUSTER.process_named("router-1")
            os.kill(old["pid"], signal.SIGKILL)
            rest = process.stdout.read()
            self.assertEqual(process.wait(60), 0)
        self.assertEqual(first + rest, wanted)
        wait_until(lambda: (CLUSTER.process_named("router-1") or old)["pid"] != old["pid"], 20, "router-1 back")


class ChatTest(unittest.TestCase):
    def test_a_conversation_from_standard_input(self):
        ended = atoll("chat", "--address", CLUSTER.address(), input="count to ten\n\n/new\ncount to ten")
        self.assertEqual(ended.returncode, 0, ended.stderr)
        self.assertEqual(ended.stdout, COUNT + "\n" + COUNT + "\n")

    def test_help_and_quit_are_not_asked(self):
        ended = atoll("chat", "--address", CLUSTER.address(), input="/help\n/quit\ncount to ten\n")
        self.assertEqual(ended.returncode, 0, ended.stderr)
        self.assertEqual(len(ended.stdout.splitlines()), 1)
        self.assertIn("/new begins a new conversation", ended.stdout)

    def test_a_full_context_names_the_way_out(self):
        lines = ["count to ten", "word " * 3000, "/new", "count to ten"]
        ended = atoll("chat", "--address", CLUSTER.address(), input="\n".join(lines))
        self.assertEqual(ended.stdout, COUNT + "\n" + COUNT + "\n")
        self.assertEqual(ended.returncode, 1)
        self.assertIn("/new begins a new conversation", ended.stderr)

    def test_turns_are_remembered(self):
        turns = ["What happens when an expert node dies?", "Does the text change when a node fails?"]
        out = atoll("chat", "--address", CLUSTER.address(), input="\n".join(turns)).stdout.splitlines()
        with CLUSTER.client() as client:
            second = client.generate(api.chat_request([("user", turns[0]), ("assistant", out[0]), ("user", turns[1])]))
        self.assertEqual(out[1], second.text)

    def test_no_server_is_said(self):
        ended = atoll("chat", "--address", "127.0.0.1:1", input="x\n")
        self.assertEqual(ended.returncode, 1)
        self.assertIn("no Atoll server answers at 127.0.0.1:1", ended.stderr)

    def test_ctrl_c_ends_an_answer_and_then_the_chat(self):
        master, slave = pty.openpty()
        process = subprocess.Popen([paths.binary("atoll"), "chat", "--address", CLUSTER.address(), "--ignore-eos",
                                    "--max-tokens", "2000"], stdin=slave, stdout=slave, stderr=slave, close_fds=True,
                                   start_new_session=True)
        os.close(slave)
        self._read_until(master, "> ")
        os.write(master, b"Hello\n")
        self._read_until(master, "Hello! I am")
        process.send_signal(signal.SIGINT)
        self._read_until(master, "\n> ")  # the prompt again: the chat goes on
        process.send_signal(signal.SIGINT)
        self.assertEqual(process.wait(20), 130)
        os.close(master)

    def _read_until(self, descriptor, text):
        seen = ""

        def more():
            nonlocal seen
            seen += os.read(descriptor, 4096).decode("utf-8", "replace").replace("\r", "")
            return text in seen

        wait_until(more, 30, text)


class ToolsTest(unittest.TestCase):
    def test_tokenize_is_the_same_here_and_at_the_server(self):
        text = "What is MLA? \U0001f600 \n\u00e9"
        here = atoll("tokenize", "--model", DEMO, "--special", text).stdout
        there = atoll("tokenize", "--address", CLUSTER.address(), "--special", text).stdout
        self.assertEqual(here, there)
        self.assertEqual(here.split()[0], "0")
        for where in (["--model", DEMO], ["--address", CLUSTER.address()]):
            self.assertEqual(atoll("tokenize", *where, "--decode", here.strip()).stdout, text + "\n")

    def test_tokenize_reads_standard_input_and_refuses_ids_beyond_the_vocabulary(self):
        for where in (["--model", DEMO], ["--address", CLUSTER.address()]):
            given = atoll("tokenize", *where, "What is MLA?").stdout
            self.assertEqual(atoll("tokenize", *where, input="What is MLA?").stdout, given)
            self.assertEqual(atoll("tokenize", *where, "--decode", "-", input=given).stdout, "What is MLA?\n")
            beyond = atoll("tokenize", *where, "--decode", "1 9999999")
            self.assertEqual((beyond.returncode, beyond.stdout), (1, ""))
            self.assertIn("9999999", beyond.stderr)

    def test_output_that_cannot_be_written_is_a_failure(self):
        ask = ["--address", CLUSTER.address()]
        for arguments in (["generate", *ask, "--max-tokens", "2", "Hello"],
                          ["generate", *ask, "--max-tokens", "2", "--json", "Hello"], ["tokenize", *ask, "Hello"],
                          ["nodes", *ask], ["plan", "--model", "v3"], ["chat", *ask], ["--help"], ["serve", "--help"]):
            with open("/dev/full", "w", encoding="utf-8") as full:
                ended = subprocess.run([paths.binary("atoll"), *arguments], input="count to ten\n", stdout=full,
                                       stderr=subprocess.PIPE, text=True, check=False, timeout=60)
            self.assertEqual(ended.returncode, 1, arguments)
            self.assertIn("writing to stdout: No space left on device", ended.stderr, arguments)
            closed = subprocess.run(["sh", "-c", 'exec "$@" >&-', "sh", paths.binary("atoll"), *arguments],
                                    input="count to ten\n", stderr=subprocess.PIPE, text=True, check=False, timeout=60)
            self.assertEqual(closed.returncode, 1, arguments)
            self.assertIn("writing to stdout: Bad file descriptor", closed.stderr, arguments)

    def test_nodes_lists_everybody(self):
        out = atoll("nodes", "--address", "127.0.0.1:1," + CLUSTER.address(1)).stdout
        self.assertEqual([line.split()[0] for line in out.splitlines()[1:-1]],
                         ["attention-0", "expert-0", "expert-1", "router-0", "router-1"])
        self.assertIn("ready, plans", out)
        self.assertIn("as seen by router-1; 0 experts without a holder", out)

    def test_help_of_every_command_shows_defaults_and_variables(self):
        listed = [line.split()[0] for line in atoll("--help").stdout.splitlines() if line.startswith("  ")]
        self.assertGreaterEqual(len(listed), 9)
        for command in listed:
            ended = atoll(command, "--help")
            self.assertEqual(ended.returncode, 0, command)
            self.assertIn("ATOLL_", ended.stdout, command)
            self.assertEqual(atoll("help", command).stdout, ended.stdout)
        self.assertRegex(atoll("--version").stdout, r"^atoll \d+\.\d+\.\d+\n$")
        self.assertEqual(atoll("help", "nothing").returncode, 2)

    def test_sizes_that_would_stop_everything_are_refused(self):
        for command, flag, value in (("serve", "--max-running", "0"), ("cluster", "--prefill-chunk", "-1"),
                                     ("attention", "--max-step-tokens", "0"),
                                     ("router", "--max-concurrent-requests", "0")):
            ended = atoll(command, "--model", DEMO, flag, value)
            self.assertEqual(ended.returncode, 2, ended.stderr)
            self.assertIn(f"{flag}: expected at least 1, found {value}", ended.stderr)
        too_many = atoll("serve", "--model", DEMO, "--max-step-tokens", "1000000")
        self.assertEqual(too_many.returncode, 1)
        self.assertIn("rows of a link's window", too_many.stderr)

    def test_the_role_binaries_are_the_role_commands(self):
        for role in ("router", "attention", "expert"):
            own = subprocess.run([paths.binary(f"atoll-{role}"), "--help"], stdout=subprocess.PIPE, text=True, check=True)
            same = atoll(role, "--help")
            self.assertEqual(own.stdout.replace(f"atoll-{role}", f"atoll {role}"), same.stdout)


class LocalToolsTest(unittest.TestCase):
    def test_the_default_profile_is_as_near_to_the_reference_as_promised(self):
        texts = os.path.join(DEMO, "making", "corpus", "paragraphs.txt")
        ended = atoll("verify", "--model", DEMO, "--texts", texts, "--max-kl", "0.005", "--min-top1", "0.99")
        self.assertEqual(ended.returncode, 0, ended.stdout + ended.stderr)
        self.assertRegex(ended.stdout, r"^q8 against reference at \d{4,} positions\n")
        # The same command fails where a bound is passed.
        self.assertEqual(atoll("verify", "--model", DEMO, "--texts", texts, "--max-kl", "1e-12").returncode, 1)

    def test_the_reference_is_at_no_distance_from_itself(self):
        ended = atoll("verify", "--model", DEMO, "--profile", "reference", "--max-tokens", "40")
        self.assertIn("mean KL divergence        0 nats (largest 0)", ended.stdout)
        self.assertIn("same most likely token    100.000 %", ended.stdout)

    def test_plan_counts_published_models_and_refuses_unknown_ones(self):
        self.assertIn("671.03 B", atoll("plan", "--model", "v3").stdout)
        for model, context in ((DEMO, "2048"), ("deepseek-moe-16b", "4096"), ("v3", "32768")):
            ended = atoll("plan", "--model", model)
            self.assertEqual(ended.returncode, 0, ended.stderr)
            self.assertIn(f"({context} tokens)", ended.stdout)
        beyond = atoll("plan", "--model", DEMO, "--context", "2049")
        self.assertEqual(beyond.returncode, 1)
        self.assertIn("a context of 2049 tokens, expected at most 2048", beyond.stderr)
        unknown = atoll("plan", "--model", "v7")
        self.assertEqual(unknown.returncode, 1)
        self.assertIn("v7", unknown.stderr)
        self.assertEqual(atoll("plan").returncode, 2)

    def test_a_model_that_is_ended_while_it_is_made_leaves_no_part(self):
        with tempfile.TemporaryDirectory() as folder:
            with subprocess.Popen([paths.binary("atoll"), "make-model", "--preset", "v2-lite", "--layers", "2", "--experts",
                                   "8", "--threads", "1", "--out", folder], stderr=subprocess.PIPE, text=True) as process:
                self.assertRegex(process.stderr.readline(), r"^\d+\.\d\d GB to write\n$")
                wait_until(lambda: any(name.endswith(".part") for name in os.listdir(folder)), 20, "an unfinished file")
                process.send_signal(signal.SIGTERM)
                self.assertEqual(process.wait(60), 128 + signal.SIGTERM)
            self.assertEqual(os.listdir(folder), [])

    def test_a_made_model_is_served_with_ids_alone(self):
        with tempfile.TemporaryDirectory() as folder:
            model = os.path.join(folder, "model")
            make = ["make-model", "--preset", "v2-lite", "--layers", "2", "--experts", "8", "--set",
                    "vocab_size=512,bos_token_id=0,eos_token_id=1,hidden_size=256,moe_intermediate_size=64,"
                    "intermediate_size=256", "--out", model]
            made = atoll(*make)
            self.assertEqual(made.returncode, 0, made.stderr)
            again = atoll(*make)
            self.assertEqual(again.returncode, 1)
            self.assertIn(model, again.stderr)
            with Serve(model=model) as server:
                ask = ["generate", "--address", server.address(), "--max-tokens", "6", "--ignore-eos"]
                ids = atoll(*ask, "--token-ids", "1,2,3").stdout.split()
                self.assertEqual(len(ids), 6)
                refused = atoll(*ask, "text")
                self.assertEqual(refused.returncode, 1)
                self.assertIn("tokenizer.json", refused.stderr)


class ServeTest(unittest.TestCase):
    def test_one_process_answers_and_ends_cleanly(self):
        with Serve() as server:
            ended = atoll("generate", "--chat", "--address", server.address(), "count to ten")
            self.assertEqual(ended.stdout, COUNT + "\n")
            nodes = atoll("nodes", "--address", server.address())
            self.assertEqual((nodes.returncode, nodes.stdout),
                             (0, f"{server.address()}: one process (atoll serve), no nodes\n"), nodes.stderr)
            self.assertEqual(server.interrupt(), 0)
            self.assertFalse(is_alive(server.pid))

    def test_a_wrong_model_folder_is_said(self):
        with tempfile.TemporaryDirectory() as empty:
            ended = atoll("serve", "--model", empty, "--listen", "127.0.0.1:0")
            self.assertEqual(ended.returncode, 1)
            self.assertIn(os.path.join(empty, "config.json"), ended.stderr)

    def test_a_broken_tokenizer_is_said_with_its_folder_once(self):
        with tempfile.TemporaryDirectory() as folder:
            model = os.path.join(folder, "model")
            shutil.copytree(DEMO, model, ignore=shutil.ignore_patterns("making"))
            with open(os.path.join(model, "tokenizer.json"), "w", encoding="utf-8") as file:
                file.write("{")
            ended = atoll("serve", "--model", model, "--listen", "127.0.0.1:0")
            self.assertEqual(ended.returncode, 1)
            self.assertIn(f"atoll serve: {model}: tokenizer.json: not JSON", ended.stderr)

    def test_a_port_in_use_is_said(self):
        ended = atoll("serve", "--model", DEMO, "--listen", CLUSTER.address())
        self.assertEqual(ended.returncode, 1)
        self.assertIn(CLUSTER.address(), ended.stderr)


if __name__ == "__main__":
    main()
