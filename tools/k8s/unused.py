"""Finds what is written in kustomizations for nothing: kustomize ignores a patch whose target is not there.

Each entry that changes something (patch, replica count, image, literal, label) is left out in turn: some rendering that
reads its file must change. A file that no kustomization names is found too.
"""

import copy as copies
import os

import render

LISTS = ("patches", "replicas", "images", "labels")


def kustomizations(deploy):
    return sorted(os.path.join(folder, "kustomization.yaml") for folder, _, files in os.walk(deploy)
                  if "kustomization.yaml" in files)


def references(path):
    """Paths that a kustomization names, folders as their kustomization.yaml."""
    content, folder = render.read(path), os.path.dirname(path)
    names = content.get("resources", []) + content.get("components", []) + content.get("configurations", [])
    names += [patch["path"] for patch in content.get("patches", []) if "path" in patch]
    for generator in content.get("configMapGenerator", []):
        names += generator.get("envs", []) + generator.get("files", [])
    paths = [os.path.normpath(os.path.join(folder, name)) for name in names]
    return [os.path.join(p, "kustomization.yaml") if os.path.isdir(p) else p for p in paths]


def reachable(path):
    found, left = set(), [path]
    while left:
        at = left.pop()
        if at in found:
            continue
        found.add(at)
        if os.path.basename(at) == "kustomization.yaml":
            left += references(at)
    return found


def without_one(content):
    """(what is left out, content without it) for each entry that should change something."""
    for name in LISTS:
        for i, entry in enumerate(content.get(name, [])):
            less = copies.deepcopy(content)
            del less[name][i]
            yield f"{name}[{i}] {entry.get('path') or entry.get('target') or entry.get('name') or ''}", less
    for i, generator in enumerate(content.get("configMapGenerator", [])):
        for j, literal in enumerate(generator.get("literals", [])):
            less = copies.deepcopy(content)
            del less["configMapGenerator"][i]["literals"][j]
            yield f"{generator['name']}: {literal}", less


def roots(copy):
    """Folders to render in the copy: overlays, and overlays with components (made there)."""
    found = [os.path.join(copy, "overlays", name) for name in render.overlays()]
    for i, components in enumerate(render.COMPONENTS):
        folder = os.path.join(copy, "overlays", f"with-{i}")
        os.makedirs(folder)
        content = render.read(os.path.join(copy, "overlays", render.DEFAULT, "kustomization.yaml"))
        content["components"] += ["../../components/" + name for name in components]
        render.write(os.path.join(folder, "kustomization.yaml"), content)
        found.append(folder)
    return found


def find(deploy=render.DEPLOY, only=None):
    """Sentences about what is unused; of one kustomization alone, if `only` names it."""
    problems = []
    with render.copy_of_deploy(deploy) as copy:
        mine = [os.path.join(copy, only)] if only else kustomizations(copy)
        folders = roots(copy)
        texts = {folder: render.kustomize(folder) for folder in folders}
        reads = {folder: reachable(os.path.join(folder, "kustomization.yaml")) for folder in folders}
        for path in mine:
            name = os.path.relpath(path, copy)
            readers = [folder for folder in folders if path in reads[folder]]
            if not readers:
                problems.append(f"{name}: no overlay reads it")
                continue
            content = render.read(path)
            for what, less in without_one(content):
                render.write(path, less)
                try:
                    used = any(render.kustomize(folder) != texts[folder] for folder in readers)
                except render.subprocess.CalledProcessError:
                    used = True  # something else needs it
                render.write(path, content)
                if not used:
                    problems.append(f"{name}: {what} changes nothing")
        every = set().union(*reads.values())
        for area in ("base", "components", "overlays"):
            for folder, _, files in os.walk(os.path.join(copy, area)):
                for file in files:
                    if os.path.join(folder, file) not in every:
                        problems.append(f"{os.path.relpath(os.path.join(folder, file), copy)}: nothing names it")
    return problems


if __name__ == "__main__":
    for problem in find():
        print(problem)
