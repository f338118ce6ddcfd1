"""What deploy/image promises: small, the same bytes again, nobody's root, nothing missing."""

import hashlib
import io
import gzip
import json
import os
import re
import tarfile
import tempfile
import unittest

from support import paths, run

BUILD_IMAGE = os.path.join(paths.SOURCE, "deploy", "image", "build")


def blob(archive, descriptor):
    content = archive.extractfile("blobs/" + descriptor["digest"].replace(":", "/")).read()
    assert hashlib.sha256(content).hexdigest() == descriptor["digest"].split(":")[1]
    assert len(content) == descriptor["size"]
    return content


class ImageRules(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.paths = [os.path.join(cls.folder.name, name) for name in ("a.tar", "b.tar")]
        for path in cls.paths:
            ended = run([BUILD_IMAGE, paths.BUILD, path], timeout=120)
            if ended.returncode != 0:
                raise AssertionError(ended.stderr)
        with tarfile.open(cls.paths[0]) as archive:
            index = json.load(archive.extractfile("index.json"))
            cls.name = index["manifests"][0]["annotations"]["io.containerd.image.name"]
            manifest = json.loads(blob(archive, index["manifests"][0]))
            cls.config = json.loads(blob(archive, manifest["config"]))
            cls.layer = gzip.decompress(blob(archive, manifest["layers"][0]))
        with tarfile.open(fileobj=io.BytesIO(cls.layer)) as layer:
            cls.entries = layer.getmembers()

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def test_two_archives_are_equal(self):
        contents = []
        for path in self.paths:
            with open(path, "rb") as file:
                contents.append(file.read())
        self.assertEqual(contents[0], contents[1])

    def test_entries_are_sorted_and_have_no_time_and_no_owner(self):
        names = [entry.name for entry in self.entries]
        self.assertEqual(names, sorted(names))
        self.assertEqual({(e.mtime, e.uid, e.gid, e.uname, e.gname) for e in self.entries}, {(0, 0, 0, "", "")})

    def test_it_runs_as_nobody_and_holds_the_three_programs(self):
        self.assertEqual(self.config["config"]["User"], "65532:65532")
        self.assertEqual({os.path.basename(e.name) for e in self.entries if e.name.startswith("usr/bin/")},
                         {"atoll-router", "atoll-attention", "atoll-expert"})
        self.assertEqual([e.name for e in self.entries if e.mode & 0o7022], [])  # nobody may write, nothing is setuid

    def test_the_layer_is_what_the_config_says(self):
        self.assertEqual(self.config["rootfs"]["diff_ids"], ["sha256:" + hashlib.sha256(self.layer).hexdigest()])

    def test_it_is_small(self):
        self.assertLess(os.path.getsize(self.paths[0]), 40e6)

    def test_every_shared_library_is_inside(self):
        inside = {"/" + entry.name for entry in self.entries}
        for role in ("router", "attention", "expert"):
            listed = run(["ldd", paths.binary("atoll-" + role)]).stdout
            needed = set(re.findall(r"(/\S+) \(0x", listed))
            self.assertGreater(len(needed), 5)
            self.assertEqual(needed - inside, set())

    def test_the_manifests_name_it(self):
        with open(os.path.join(paths.SOURCE, "deploy", "overlays", "cpu", "kustomization.yaml"), encoding="utf-8") as file:
            image = re.search(r"newName: (\S+), newTag: ([\d.]+)", file.read())
        self.assertEqual(self.name, f"{image[1]}:{image[2]}")

    def test_the_containerfile_copies_what_the_script_makes(self):
        with open(os.path.join(paths.SOURCE, "deploy", "image", "Containerfile"), encoding="utf-8") as file:
            text = file.read()
        self.assertIn("./dev k8s image --folders /image", text)
        self.assertEqual(re.findall(r"^USER (.+)$", text, re.M), [self.config["config"]["User"]] * 2)
