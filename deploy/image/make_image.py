#!/usr/bin/env python3
"""Makes a container image of programs and files, with nothing but Python: no engine, no base image.

    make_image.py --name NAME:TAG --out FILE.tar PART...      an OCI archive
    make_image.py --rootfs FOLDER PART...                     the same files as a folder (Containerfile)

PART:  --program SRC:DEST   a program, with the shared libraries that it needs at the paths where they lie here, and
                            those packages' licences
       --file SRC:DEST      a file
Equal inputs give equal bytes: entries are sorted, owners are root, times and created are SOURCE_DATE_EPOCH (0).
"""

import argparse
import gzip
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time

USER = "65532:65532"  # nobody that any file belongs to
# Names are looked up in /etc/hosts first; the image has no other configuration.
NSSWITCH = b"hosts: files dns\n"


def shared_libraries(program):
    """Absolute paths that the loader would map."""
    listed = subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout
    if "not found" in listed:
        raise SystemExit(f"{program}: " + "; ".join(line.strip() for line in listed.splitlines() if "not found" in line))
    return re.findall(r"(/\S+) \(0x", listed)


def licences(paths):
    """Copyright files of the Debian packages that the files are of; none where there is no dpkg."""
    if not shutil.which("dpkg-query"):
        return []
    told = subprocess.run(["dpkg-query", "-S", *paths], capture_output=True, text=True, check=False).stdout
    packages = {line.split(":")[0] for line in told.splitlines()}
    found = [f"/usr/share/doc/{package}/copyright" for package in packages]
    return [path for path in found if os.path.exists(path)]


class Files:
    """Path in the image -> (bytes, mode); folders are implied."""

    def __init__(self):
        self.entries = {"etc/nsswitch.conf": (NSSWITCH, 0o644)}

    def add(self, path, source, mode):
        with open(source, "rb") as file:
            self.entries[path.strip("/")] = (file.read(), mode)

    def add_program(self, source, destination):
        self.add(destination, source, 0o755)
        libraries = shared_libraries(source)
        # Each at the path that the loader asks for, as a plain file: links would need their folders' links too.
        for path in libraries:
            self.add(path, path, 0o755)
        owned = sorted({name for path in libraries for name in (path, os.path.realpath(path))})
        for path in licences(owned):
            self.add(path, path, 0o644)

    def folders(self):
        found = set()
        for path in self.entries:
            while path := os.path.dirname(path):
                found.add(path)
        return found


def tar_info(name, kind, mode, size, when):
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.size, info.mtime = kind, mode, size, when
    return info


def layer(files, when):
    """The layer's tar."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(files.folders() | set(files.entries)):
            if path in files.entries:
                content, mode = files.entries[path]
                tar.addfile(tar_info(path, tarfile.REGTYPE, mode, len(content), when), io.BytesIO(content))
            else:
                tar.addfile(tar_info(path, tarfile.DIRTYPE, 0o755, 0, when))
    return out.getvalue()


class Blobs:
    def __init__(self):
        self.by_name = {}

    def add(self, content, media_type):
        digest = hashlib.sha256(content).hexdigest()
        self.by_name["blobs/sha256/" + digest] = content
        return {"mediaType": media_type, "digest": "sha256:" + digest, "size": len(content)}


def encoded(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def write_archive(files, name, path, when, entrypoint):
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(when))
    plain = layer(files, when)
    blobs = Blobs()
    packed = blobs.add(gzip.compress(plain, compresslevel=6, mtime=0), "application/vnd.oci.image.layer.v1.tar+gzip")
    run = {"User": USER, "WorkingDir": "/", "Env": ["PATH=/usr/bin"]}
    if entrypoint:
        run["Entrypoint"] = entrypoint
    machine = os.uname().machine
    config = blobs.add(encoded({
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine), "os": "linux", "created": created,
        "config": run, "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(plain).hexdigest()]},
        "history": [{"created": created, "created_by": "make_image.py"}]}), "application/vnd.oci.image.config.v1+json")
    manifest = blobs.add(encoded({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
                                  "config": config, "layers": [packed]}), "application/vnd.oci.image.manifest.v1+json")
    manifest["annotations"] = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name.rsplit(":", 1)[1]}
    members = {"oci-layout": encoded({"imageLayoutVersion": "1.0.0"}),
               "index.json": encoded({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
                                      "manifests": [manifest]}), **blobs.by_name}
    with tarfile.open(path + ".part", "w", format=tarfile.PAX_FORMAT) as tar:
        for folder in ("blobs", "blobs/sha256"):
            tar.addfile(tar_info(folder, tarfile.DIRTYPE, 0o755, 0, when))
        for member in sorted(members):
            tar.addfile(tar_info(member, tarfile.REGTYPE, 0o644, len(members[member]), when), io.BytesIO(members[member]))
    os.replace(path + ".part", path)


def write_folder(files, root):
    for path, (content, mode) in files.entries.items():
        full = os.path.join(root, path)
        os.makedirs(os.path.dirname(full), exist_ok=True)
        with open(full, "wb") as file:
            file.write(content)
        os.chmod(full, mode)


def pair(text):
    source, colon, destination = text.partition(":")
    if not colon or not destination.startswith("/"):
        raise argparse.ArgumentTypeError(f"expected SRC:/DEST, found {text}")
    return source, destination


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name")
    parser.add_argument("--out")
    parser.add_argument("--rootfs")
    parser.add_argument("--program", type=pair, action="append", default=[])
    parser.add_argument("--file", type=pair, action="append", default=[])
    parser.add_argument("--entrypoint", type=json.loads)
    arguments = parser.parse_args()
    if bool(arguments.out) == bool(arguments.rootfs):
        parser.error("expected either --out or --rootfs")
    if arguments.out and not re.fullmatch(r".+:[\w.-]+", arguments.name or ""):
        parser.error("expected --name NAME:TAG")

    files = Files()
    for source, destination in arguments.program:
        files.add_program(source, destination)
    for source, destination in arguments.file:
        files.add(destination, source, 0o755 if os.access(source, os.X_OK) else 0o644)
    if arguments.rootfs:
        write_folder(files, arguments.rootfs)
    else:
        write_archive(files, arguments.name, arguments.out, int(os.environ.get("SOURCE_DATE_EPOCH", "0")),
                      arguments.entrypoint)
        print(f"{arguments.name}: {os.path.getsize(arguments.out) / 1e6:.1f} MB, {len(files.entries)} files")
    return 0


if __name__ == "__main__":
    sys.exit(main())
