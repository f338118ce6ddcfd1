"""The cluster of a soak: `atoll cluster`, nodes that join it and leave, and nodes on hosts that can be cut off."""

import contextlib
import os
import re
import signal

import grpc

from harness import ExtraNode, FaultyCluster, api, is_alive, wait_until
from namespaces import Network
from soak_schedule import role_of

from atollpb.v1 import cluster_pb2, router_pb2

ROUTERS, ATTENTION, EXPERTS = 2, 2, 3
REPLICAS = 2  # of every expert: a node that dies is nobody's loss
CALL_TIMEOUT_S = 2
START_S = 15  # of a process, the supervisor's wait included
DRAIN = ["--drain-timeout", "3s"]
_END = re.compile(r"(\S+) \(pid (\d+)\) (was ended by signal|ended with code) (\d+)")


def supervised_names():
    return [f"{role}-{i}" for role, count in (("router", ROUTERS), ("attention", ATTENTION), ("expert", EXPERTS))
            for i in range(count)]


def hosted_names(dispatch):
    """One of each role that reaches routers alone: with inline dispatch attention nodes call expert nodes as well."""
    return ["expert-hosted"] + (["attention-hosted"] if dispatch == "service" else [])


class SoakCluster(FaultyCluster):
    """`model` on supervised nodes, and on hosted ones where there are network namespaces. Use as a context manager."""

    def __init__(self, model, dispatch, namespaces):
        self._stack = contextlib.ExitStack()
        self._dispatch = ["--dispatch", dispatch]
        self._joined = {}  # name -> ExtraNode
        self._hosts, self._hosted = {}, {}  # name -> Host, HostedNode
        self._wanted_ends = {}  # pid -> ways it may end: "signal 9", "code 0"
        self._hit = set()  # pids that are to end
        self._odd_ends = []  # of joined and hosted nodes
        network = self._stack.enter_context(Network()) if namespaces else None
        listen = ["10.77.0.1:0", ["--insecure", "true"]] if network else ["127.0.0.1:0", []]
        super().__init__(model=model, routers=ROUTERS, attention=ATTENTION, experts=EXPERTS, listen=listen[0],
                         flags=["--min-replicas", str(REPLICAS), *self._dispatch, *DRAIN, *listen[1]])
        self.routers = self.router_addresses()  # theirs for good: the supervisor keeps the ports
        if network:
            for name in hosted_names(dispatch):
                self._hosts[name] = network.add_host()
                self._start_hosted(name)

    def __exit__(self, *error):
        for node in [*self._joined.values(), *self._hosted.values()]:
            node.__exit__(*error)
        super().__exit__(*error)
        self._stack.__exit__(*error)

    # What can be done to its nodes.

    @property
    def has_hosts(self):
        return bool(self._hosts)

    def pid_of(self, name):
        """Of a living process: where it is being started again, when it has been."""
        self.look_after()
        node = self._joined.get(name) or self._hosted.get(name)
        return node.pid if node else wait_until(lambda: self._living(name), START_S, f"{name} running")

    def _living(self, name):
        entry = self.process_named(name)
        return entry["pid"] if entry and is_alive(entry["pid"]) else None

    def hit(self, number, name):
        """SIGKILL or SIGTERM, which end it: a supervised or hosted node is started again, a joined one not."""
        pid = self.pid_of(name)
        self._hit.add(pid)
        self._wanted_ends.setdefault(pid, set()).update(
            {"signal 9"} if number == signal.SIGKILL else {"code 0", "signal 15"})  # 15: before it listened for it
        os.kill(pid, number)

    def join(self, name):
        insecure = ["--insecure", "true"] if self._hosts else []
        self._joined[name] = ExtraNode(self, role_of(name), name, flags=self._flags_of(name) + insecure,
                                       join=self.routers)

    def cut(self, name):
        self._hosts[name].cut()

    def mend(self, name):
        self._hosts[name].mend()

    def look_after(self):
        """Starts hosted nodes again that have ended, forgets joined ones: what the supervisor does for the others."""
        for nodes in (self._joined, self._hosted):
            for name, node in list(nodes.items()):
                if node.process.poll() is None:
                    continue
                self._note_end(name, node)
                node.__exit__(None)
                del nodes[name]
                if name in self._hosts:
                    self._start_hosted(name)

    def _start_hosted(self, name):
        self._hosted[name] = self._hosts[name].start(role_of(name), name, self.model, self.routers,
                                                     *self._flags_of(name))

    def _flags_of(self, name):
        return [*DRAIN, *(self._dispatch if role_of(name) == "attention" else [])]

    # What it looks like.

    def unmended(self):
        """What is not as it should be, or None: what was hit has ended, every node is known to every router and none
        that is gone, every expert has its holders."""
        self._hit = {pid for pid in self._hit if is_alive(pid)}
        if self._hit:
            return f"still running: {sorted(self._hit)}"
        entries = self.processes()
        wanted = {(entry["name"], entry["pid"]) for entry in entries if is_alive(entry["pid"])}
        missing = set(supervised_names()) - {name for name, _ in wanted}
        if missing:
            return f"not running: {', '.join(sorted(missing))}"
        wanted |= {(name, node.pid) for nodes in (self._joined, self._hosted) for name, node in nodes.items()}
        for address in self.routers:
            with api.Client(address) as client:
                try:
                    problem = self._unmended_at(client, wanted)
                except grpc.RpcError as error:
                    problem = f"{error.code().name}: {error.details()}"
            if problem:
                return f"router at {address}: {problem}"
        return None

    @staticmethod
    def _unmended_at(client, wanted):
        snapshot = client.call("ClusterService/GetSnapshot", cluster_pb2.GetSnapshotRequest(), CALL_TIMEOUT_S)
        found = {(node.info.name, node.info.pid) for node in snapshot.view.nodes}
        if found != wanted:
            return f"nodes: expected {sorted(wanted - found)} more, {sorted(found - wanted)} less"
        if snapshot.missing_experts:
            return f"{snapshot.missing_experts} experts have no holder"
        placement = client.call("RouterService/GetPlacement", router_pb2.GetPlacementRequest(), CALL_TIMEOUT_S)
        few = sum(len(set(entry.nodes)) < REPLICAS for entry in placement.entries)
        return f"{few} experts have fewer than {REPLICAS} holders" if few else None

    def leftovers(self):
        """Sequences, cache blocks and requests that nobody asked for any more, one line a node."""
        found = []
        addresses = [entry["addresses"]["grpc"] for entry in self.processes("attention")]
        addresses += [f"{host.address}:8470" for name, host in self._hosts.items() if role_of(name) == "attention"]
        for address in addresses:
            with api.Client(address) as client:
                stats = client.attention_stats()
            counts = (stats.running_sequences, stats.waiting_sequences, stats.cache_blocks_used)
            if any(counts):
                found.append(f"attention node at {address}: {counts} sequences running, waiting, cache blocks used")
        for entry in self.processes("router"):
            for metric in ("atoll_router_running_requests", "atoll_router_queued_requests"):
                if self.metric(entry["name"], metric) > 0:
                    found.append(f"{entry['name']}: {metric} {self.metric(entry['name'], metric):.0f}")
        return found

    def unwanted_ends(self):
        """Of processes that nobody ended that way."""
        ends = [f"{name} (pid {pid}): {way.split()[-1]} {number}" for name, pid, way, number in _END.findall(self.log())
                if f"{way.split()[-1]} {number}" not in self._wanted_ends.get(int(pid), ())]
        return ends + self._odd_ends

    def logs(self):
        """The last of each process's."""
        nodes = {**self._joined, **self._hosted}
        return "\n".join([self.log()[-20000:], *(f"-- {name}:\n{node.log()[-5000:]}" for name, node in nodes.items())])

    def _note_end(self, name, node):
        code = node.process.returncode
        way = f"signal {-code}" if code < 0 else f"code {code}"
        if way not in self._wanted_ends.get(node.pid, ()):
            self._odd_ends.append(f"{name} (pid {node.pid}): {way}: {node.log()[-2000:]}")


def continue_process(pid):
    """SIGCONT, if it still lives."""
    if is_alive(pid):
        os.kill(pid, signal.SIGCONT)
