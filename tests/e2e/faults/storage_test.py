"""Checkpoints that cannot be read, and disks that are full."""

import errno
import json
import os
import shutil
import struct
import subprocess
import tempfile

from harness import DEMO, PRESET, ExtraNode, FaultTest, main, paths, wait_until
from namespaces import SmallDisk, enter

MENDED_S = 5.0
# One byte, or two, that are no number.
NAN = {"F8_E4M3": b"\x7f", "BF16": b"\xc0\x7f", "F32": b"\x00\x00\xc0\x7f"}


def tensors(path):
    """{name: (dtype, first byte, end)} of a safetensors file."""
    with open(path, "rb") as file:
        size = struct.unpack("<Q", file.read(8))[0]
        header = json.loads(file.read(size))
    header.pop("__metadata__", None)
    return {name: (tensor["dtype"], *(8 + size + at for at in tensor["data_offsets"]))
            for name, tensor in header.items()}


class Scenarios:
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        self.copy = os.path.join(self.folder, "model")
        self.weights = os.path.join(self.copy, "model.safetensors")

    def copy_model(self):
        shutil.copytree(self.model, self.copy)

    def spoilt_while_it_is_used(self, spoil, complaint):
        """Two sound expert nodes and one whose own checkpoint goes bad. Then a sound one dies: what it held is to be
        loaded, and what the third cannot read by the second."""
        self.copy_model()
        with self.cluster(experts=2, flags=["--restart", "never"]) as cluster, \
                ExtraNode(cluster, "expert", "expert-copy", model=self.copy) as node:
            wait_until(lambda: cluster.num_held("expert-copy") > 0, 20, "experts at expert-copy")
            cluster.wait_settled()
            held = cluster.num_held("expert-copy")
            spoil()
            with self.streams(cluster) as streams:
                streams.wait_tokens(30)
                streams.fault()
                cluster.kill("expert-1")
                streams.wait_tokens(30)
            self.check(streams, longest_s=MENDED_S)
            self.assertRegex(node.log(), complaint)
            self.assertIsNone(node.process.poll())
            self.assertGreaterEqual(cluster.num_held("expert-copy"), held)  # what it has it serves on

    def test_file_cut_short_while_it_is_used(self):
        self.spoilt_while_it_is_used(lambda: os.truncate(self.weights, os.path.getsize(self.weights) // 50),
                                     r"model\.safetensors ends at byte \d+, expected \d+ bytes from \d+")

    def test_weights_that_are_no_numbers(self):
        """In every expert of one layer, so that whichever the node is to load is among them."""
        def write():
            with open(self.weights, "r+b") as file:
                for name, (dtype, begin, _) in tensors(self.weights).items():
                    if "layers.3.mlp." in name and name.endswith("down_proj.weight"):
                        file.seek(begin)
                        file.write(NAN[dtype])

        self.spoilt_while_it_is_used(write, r"model\.layers\.3\.mlp\.\S*experts\S*down_proj\.weight.*NaN")

    def test_file_cut_short_before_the_start(self):
        """As on a disk that was full when it was copied."""
        self.copy_model()
        with SmallDisk(self.folder, os.path.getsize(self.weights) // 2) as disk:
            with self.assertRaises(OSError) as full:
                shutil.copyfile(self.weights, os.path.join(disk.folder, "model.safetensors"))
            self.assertEqual(full.exception.errno, errno.ENOSPC)
            os.unlink(self.weights)
            os.symlink(os.path.join(disk.folder, "model.safetensors"), self.weights)
            for role in ("expert", "attention", "router"):
                ended = subprocess.run([paths.binary("atoll"), role, "--model", self.copy, "--listen", "127.0.0.1:0"],
                                       capture_output=True, text=True, timeout=30, check=False)
                self.assertEqual(ended.returncode, 1, role)
                self.assertIn("model.safetensors", ended.stderr)

    def test_full_disk_of_a_running_cluster(self):
        """Its status file and log are there. Streams do not notice; the file is written when there is room again."""
        with SmallDisk(self.folder, 1 << 18) as disk:
            before, tempfile.tempdir = tempfile.tempdir, disk.folder
            try:
                cluster = self.cluster(experts=3, flags=["--min-replicas", "2"])
            finally:
                tempfile.tempdir = before
            with cluster:
                cluster.wait_holders(2)
                with self.streams(cluster) as streams:
                    streams.wait_tokens(30)
                    streams.fault()
                    filler = disk.fill()
                    old, = cluster.kill("expert-1")
                    cluster.wait_restarted("expert-1", old)
                    streams.wait_tokens(30)
                    self.assertEqual(cluster.pid_of("expert-1"), old, "the file was written on a full disk")
                    os.unlink(filler)
                    wait_until(lambda: cluster.pid_of("expert-1") != old, 10, "the new process in the status file")
                self.check(streams, longest_s=0.25)

    def test_disk_that_hangs_under_the_status_file(self):
        """Where its temporary file is to be there is a pipe that nobody reads. Who died is started again all the same."""
        with self.cluster(experts=3, flags=["--min-replicas", "2"]) as cluster:
            cluster.wait_holders(2)
            os.mkfifo(f"{cluster.status_path}.{cluster.process.pid}.tmp")
            with self.streams(cluster) as streams:
                streams.wait_tokens(30)  # what runs where changes with them
                streams.fault()
                self.check_used_again(cluster, "expert-1")
                streams.wait_tokens(30)
            self.check(streams, longest_s=0.25)

    def test_a_checkpoint_that_does_not_fit(self):
        with SmallDisk(self.folder, 1 << 20) as disk:
            ended = subprocess.run([paths.binary("atoll"), "make-model", "--preset", self.model, "--out",
                                    os.path.join(disk.folder, "made")],
                                   capture_output=True, text=True, timeout=60, check=False)
            self.assertEqual(ended.returncode, 1)
            self.assertRegex(ended.stderr, r"the model has \d+ bytes, the disk has room for \d+")


class DemoTest(Scenarios, FaultTest):
    model = DEMO


class PresetTest(Scenarios, FaultTest):
    model = PRESET


if __name__ == "__main__":
    enter()
    main()
