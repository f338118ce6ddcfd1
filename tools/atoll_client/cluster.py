"""Real processes: `atoll cluster` and `atoll serve`, started and ended."""

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time

from atoll_client import api, paths

START_TIMEOUT_S = 90
END_TIMEOUT_S = 30


def wait_until(condition, timeout_s, what):
    """Polls until `condition` returns something true, which is returned."""
    deadline = time.monotonic() + timeout_s
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {timeout_s} s")
        time.sleep(0.01)


def is_alive(pid):
    """Runs, and is no zombie."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


class Process:
    """One process with its output in a file. Use as a context manager: it is ended at the end."""

    def __init__(self, arguments, env=None):
        self.folder = tempfile.mkdtemp(prefix="atoll-")
        self.log_path = os.path.join(self.folder, "log")
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            env={**os.environ, **(env or {})}, cwd=paths.SOURCE)
        self.pid = self.process.pid

    def __enter__(self):
        return self

    def __exit__(self, error_type, *_):
        if error_type is not None:
            print(f"---- log of {self.process.args[:2]}:\n{self.log()[-20000:]}\n----", flush=True)
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(END_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def log(self):
        with open(self.log_path, encoding="utf-8", errors="replace") as file:
            return file.read()

    def interrupt(self):
        """Ctrl-C; returns the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(END_TIMEOUT_S)


class Cluster(Process):
    """`atoll cluster` with its status file; returns from the constructor when it is ready."""

    def __init__(self, routers=1, attention=1, experts=2, model=paths.DEMO_MODEL, flags=(), listen="127.0.0.1:0",
                 wait=True):
        self.status_folder = tempfile.mkdtemp(prefix="atoll-status-")
        self.status_path = os.path.join(self.status_folder, "status.json")
        super().__init__([
            paths.binary("atoll"), "cluster", "--model", model, "--routers", str(routers), "--attention",
            str(attention), "--experts", str(experts), "--listen", listen, "--status-file", self.status_path,
            "--log-level", "warning", *flags
        ])
        if wait:
            self.wait_ready()

    def wait_ready(self):
        try:
            wait_until(lambda: os.path.exists(self.status_path) or self.process.poll() is not None, START_TIMEOUT_S,
                       "the status file")
            if self.process.poll() is not None:
                raise RuntimeError(f"atoll cluster ended with code {self.process.returncode}")
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise

    def __exit__(self, *error):
        super().__exit__(*error)
        shutil.rmtree(self.status_folder, ignore_errors=True)

    def processes(self, role=None):
        """Entries of the status file."""
        with open(self.status_path, encoding="utf-8") as file:
            entries = json.load(file)["processes"]
        return [entry for entry in entries if role in (None, entry["role"])]

    def process_named(self, name):
        """None while it is not running."""
        return next((entry for entry in self.processes() if entry["name"] == name), None)

    def address(self, idx=0, role="router"):
        return self.process_named(f"{role}-{idx}")["addresses"]["grpc"]

    def client(self, idx=0, role="router"):
        return api.Client(self.address(idx, role))


class Serve(Process):
    """`atoll serve`; returns from the constructor when it is ready."""

    def __init__(self, model=paths.DEMO_MODEL, flags=()):
        super().__init__([paths.binary("atoll"), "serve", "--model", model, "--listen", "127.0.0.1:0", *flags])
        try:
            self._address = wait_until(self._find_address, START_TIMEOUT_S, "atoll serve")
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise

    def _find_address(self):
        if self.process.poll() is not None:
            raise RuntimeError(f"atoll serve ended with code {self.process.returncode}: {self.log()}")
        for line in self.log().splitlines():
            if "gRPC on " in line:
                return line.split("gRPC on ")[1].split(",")[0].strip()
        return None

    def address(self):
        return self._address

    def client(self):
        return api.Client(self._address)
