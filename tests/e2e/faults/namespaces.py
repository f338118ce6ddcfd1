"""Hosts on this machine: network namespaces whose links are set down and up, and small disks.

Needs iproute2, util-linux, and root or user namespaces. Nothing is seen outside: all ends with the test's process.
"""

import os
import subprocess
import sys

from harness import Process, paths, wait_until

_MARK = "ATOLL_TEST_NAMESPACES"
SKIPPED = 77  # CTest's SKIP_RETURN_CODE


def enter(required=True):
    """Runs this program again in namespaces of its own. Where that is not allowed it ends as skipped, or False is
    returned if they are not required."""
    if os.environ.get(_MARK):
        _run("ip", "link", "set", "lo", "up")
        return True
    for flags in (["--net", "--mount"], ["--user", "--map-root-user", "--net", "--mount"]):
        command = ["unshare", *flags]
        probe = "ip link add probe0 type veth peer name probe1 && ip link set lo up && mount -t tmpfs none /mnt"
        try:
            if subprocess.run([*command, "sh", "-c", probe], capture_output=True, check=False).returncode == 0:
                os.environ[_MARK] = "1"
                os.execvp("unshare", [*command, sys.executable, *sys.argv])
        except FileNotFoundError:
            break
    if not required:
        return False
    print("skipped: namespaces, veth or mounts are not allowed here")
    return sys.exit(SKIPPED)


def _run(*command):
    subprocess.run(command, check=True, capture_output=True)


class Network:
    """Hosts at 10.77.0.2 and on, all on one bridge; this process is at 10.77.0.1. Use as a context manager."""

    def __init__(self):
        _run("ip", "link", "add", "hub", "type", "bridge")
        _run("ip", "addr", "add", "10.77.0.1/24", "dev", "hub")
        _run("ip", "link", "set", "hub", "up")
        self.hosts = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for host in self.hosts:
            host.close()
        _run("ip", "link", "del", "hub")

    def add_host(self):
        self.hosts.append(Host(len(self.hosts) + 2))
        return self.hosts[-1]


class Host:
    def __init__(self, number):
        self.address, self.link = f"10.77.0.{number}", f"host{number}"
        self._keeper = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
        self.namespace = f"/proc/{self._keeper.pid}/ns/net"
        own = os.readlink("/proc/self/ns/net")
        wait_until(lambda: os.readlink(self.namespace) != own, 10, "a network namespace")
        _run("ip", "link", "add", self.link, "type", "veth", "peer", "name", "eth0", "netns", str(self._keeper.pid))
        _run("ip", "link", "set", self.link, "master", "hub", "up")
        for command in (["addr", "add", f"{self.address}/24", "dev", "eth0"], ["link", "set", "eth0", "up"],
                        ["link", "set", "lo", "up"]):
            _run("nsenter", f"--net={self.namespace}", "ip", *command)

    def close(self):
        self._keeper.kill()
        self._keeper.wait()
        subprocess.run(["ip", "link", "del", self.link], check=False, capture_output=True)

    def cut(self):
        """What is sent is lost; nobody is told."""
        _run("ip", "link", "set", self.link, "down")

    def mend(self):
        _run("ip", "link", "set", self.link, "up")

    def start(self, role, name, model, join, *flags):
        """A node on this host, at port 8470."""
        return HostedNode([
            "nsenter", f"--net={self.namespace}", paths.binary("atoll"), role, "--model", model, "--name", name,
            "--listen", f"{self.address}:8470", "--join", ",".join(join), "--insecure", "true", "--links", "tcp",
            "--log-level", "info", *flags])


class HostedNode(Process):
    def __exit__(self, *error):
        self.process.kill()
        self.process.wait()
        super().__exit__(*error)


class SmallDisk:
    """A tmpfs of so many bytes. Use as a context manager."""

    def __init__(self, folder, size_bytes):
        self.folder = os.path.join(folder, "disk")
        os.mkdir(self.folder)
        _run("mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "none", self.folder)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        _run("umount", "--lazy", self.folder)

    def fill(self):
        """Until nothing more fits; the file that can be removed again."""
        path = os.path.join(self.folder, "filler")
        with open(path, "wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                return path
