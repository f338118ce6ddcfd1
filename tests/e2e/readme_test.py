"""Every command of README.md, as it stands there."""

import os
import re
import shlex
import signal
import subprocess
import tempfile
import unittest

from support import atoll, is_alive, main, paths, run, wait_until

DEFAULT_ADDRESS = "127.0.0.1:8470"


def readme_commands():
    with open(os.path.join(paths.SOURCE, "README.md"), encoding="utf-8") as file:
        blocks = re.findall(r"^```sh\n(.*?)^```", file.read(), re.S | re.M)
    lines = [line.split("  #")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line]


def is_client(command):
    return re.match(r"build/bin/atoll (chat|generate|tokenize|nodes)\b|build/tools/ghz ", command)


def is_server(command):
    return re.match(r"build/bin/atoll (serve|cluster) ", command)


def is_role(command):
    return re.match(r"build/bin/atoll-(router|attention|expert) ", command)


def is_alone(command):
    """Needs no server and ends by itself."""
    return re.match(r"build/bin/atoll (plan|verify|make-model)\b|\./dev demo$", command)


# ./dev test is what runs this test; ./dev load is run by load_test.py; ./dev chat has a test of its own below.
ELSEWHERE = ["./dev test", "./dev load --requests 40", "./dev load streaming --requests 100", "./dev chat"]


def as_typed(command, folder):
    """The command's words, with this build's folder for build/, what it writes in `folder`, and loopback addresses for the machines'."""
    words = []
    for word in shlex.split(command):
        word = re.sub(r"^10\.0\.0\.", "127.0.0.", word)
        word = word.replace("build/random-model", os.path.join(folder, "random-model"))
        words.append(re.sub(r"^build/", paths.BUILD + "/", word))
    return words


class ReadmeTest(unittest.TestCase):
    def run_command(self, command, folder, **options):
        ended = run(as_typed(command, folder), timeout=300, **options)
        self.assertEqual(ended.returncode, 0, command + "\n" + ended.stdout + ended.stderr)
        self.assertNotEqual(ended.stdout.strip(), "", command)
        return ended.stdout

    def test_every_command_is_of_a_known_kind(self):
        commands = readme_commands()
        self.assertGreaterEqual(len(commands), 14)
        for command in commands:
            kinds = [bool(is_client(command)), bool(is_server(command)), bool(is_role(command)), bool(is_alone(command)), command in ELSEWHERE]
            self.assertEqual(sum(kinds), 1, command)
        for command in ELSEWHERE:
            self.assertIn(command, commands)

    def test_commands_that_need_no_server(self):
        with tempfile.TemporaryDirectory() as folder:
            for command in filter(is_alone, readme_commands()):
                with self.subTest(command):
                    out = self.run_command(command, folder)
                    if command == "./dev demo":
                        self.assertEqual(out.count("rows at the experts: expert-0 "), 3)
                        self.assertIn("Multi-head latent attention, or MLA, compresses", out)

    def test_clients_at_each_server(self):
        clients = list(filter(is_client, readme_commands()))
        servers = list(filter(is_server, readme_commands()))
        self.assertEqual(len(servers), 2)
        with tempfile.TemporaryDirectory() as folder:
            for server in servers:
                process = subprocess.Popen(as_typed(server, folder), cwd=paths.SOURCE, stdin=subprocess.DEVNULL,
                                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                try:
                    wait_until(lambda: process.poll() is not None or self.answers(), 90, server)
                    for client in clients:
                        if " nodes" in client and " serve " in server:
                            continue  # one process has no nodes
                        with self.subTest(server=server, client=client):
                            self.run_command(client, folder, input="count to ten\n")
                finally:
                    process.send_signal(signal.SIGINT)
                    self.assertEqual(process.wait(60), 0, server)

    def test_roles_by_themselves(self):
        roles = list(filter(is_role, readme_commands()))
        client = next(command for command in readme_commands() if is_client(command) and "10.0.0.1" in command)
        self.assertEqual(len(roles), 3)
        with tempfile.TemporaryDirectory() as folder:
            processes = [subprocess.Popen(as_typed(role, folder), cwd=paths.SOURCE, stdin=subprocess.DEVNULL,
                                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for role in reversed(roles)]
            try:
                wait_until(self.answers, 90, "an answer of three processes")
                self.run_command(client, folder)
            finally:
                for process in processes:
                    process.send_signal(signal.SIGINT)
                for role, process in zip(reversed(roles), processes):
                    self.assertEqual(process.wait(60), 0, role)

    @staticmethod
    def answers():
        return atoll("generate", "--max-tokens", "1", "x").returncode == 0

    def test_dev_chat_leaves_its_cluster_up(self):
        out = run(["./dev", "chat"], timeout=300, input="count to ten\n")
        self.assertEqual(out.returncode, 0, out.stdout + out.stderr)
        self.assertIn("One, two, three, four, five, six, seven, eight, nine, ten.", out.stdout)
        pid = int(re.search(r"kill -INT (\d+)", out.stdout).group(1))
        try:
            self.assertTrue(self.answers())
            again = run(["./dev", "chat"], timeout=60, input="count to ten\n")
            self.assertEqual(again.returncode, 0, again.stderr)
        finally:
            os.kill(pid, signal.SIGINT)
            wait_until(lambda: not is_alive(pid), 30, "the cluster's end")


    def test_a_killed_demo_leaves_nothing(self):
        demo = subprocess.Popen(["./dev", "demo"], cwd=paths.SOURCE, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        while not demo.stdout.readline().startswith("User:"):
            self.assertIsNone(demo.poll())
        with open(f"/proc/{demo.pid}/task/{demo.pid}/children", encoding="utf-8") as file:
            children = [int(pid) for pid in file.read().split()]
        demo.kill()
        demo.wait()
        demo.stdout.close()
        self.assertNotEqual(children, [])
        wait_until(lambda: not any(map(is_alive, children)), 30, "the end of what the demo started")


class PackagesTest(unittest.TestCase):
    """What ./dev does where packages are missing, with scripts in place of the system's tools."""

    def run_dev(self, uid, sudo_works):
        with tempfile.TemporaryDirectory() as folder:
            log = os.path.join(folder, "log")
            tools = {
                "id": f"echo {uid}",
                "dpkg-query": "exit 1",
                "sudo": f'[ {int(sudo_works)} = 1 ] || exit 1; [ "$1" = -n ] && shift; exec "$@"',
                "env": 'shift; exec "$@"',
                "apt-get": f'echo "$*" >>{log}',
                "cmake": "exit 1",
            }
            for name, body in tools.items():
                path = os.path.join(folder, name)
                with open(path, "w", encoding="utf-8") as file:
                    file.write(f"#!/bin/bash\n{body}\n")
                os.chmod(path, 0o755)
            ended = run(["/bin/bash", "./dev", "build"], stdin=subprocess.DEVNULL,
                        env={**os.environ, "PATH": folder + ":" + os.environ["PATH"],
                             "ATOLL_BUILD": os.path.join(folder, "build")})
            installed = ""
            if os.path.exists(log):
                with open(log, encoding="utf-8") as file:
                    installed = file.read()
            return ended, installed

    def test_root_installs_and_says_what(self):
        ended, installed = self.run_dev(uid=0, sudo_works=False)
        self.assertRegex(ended.stdout, r"installing with apt-get: build-essential .*libgrpc\+\+-dev")
        self.assertRegex(installed, r"^update -qq\ninstall -y .*libgrpc\+\+-dev")

    def test_a_user_with_sudo_installs(self):
        _, installed = self.run_dev(uid=1000, sudo_works=True)
        self.assertRegex(installed, r"^update -qq\ninstall -y .*libgrpc\+\+-dev")

    def test_a_user_who_may_not_install_is_told_what_is_missing(self):
        ended, installed = self.run_dev(uid=1000, sudo_works=False)
        self.assertEqual(ended.returncode, 1)
        self.assertEqual(installed, "")
        self.assertRegex(ended.stderr, r"packages are missing .*\n +apt-get update && apt-get install .*libgrpc\+\+-dev")


class DevTest(unittest.TestCase):
    def test_help_names_every_command_of_the_script(self):
        out = run(["./dev", "help"]).stdout
        with open(os.path.join(paths.SOURCE, "dev"), encoding="utf-8") as file:
            commands = re.findall(r"^cmd_(\w+)\(\)", file.read(), re.M)
        for command in commands:
            if command != "help":
                self.assertIn(f"./dev {command}", out)

    def test_unknown_commands_and_flags_are_refused(self):
        for arguments in (["tset"], ["test", "--fully"], ["build", "--fast"]):
            ended = run(["./dev", *arguments])
            self.assertEqual(ended.returncode, 1)
            self.assertIn("dev: ", ended.stderr)


if __name__ == "__main__":
    main()
