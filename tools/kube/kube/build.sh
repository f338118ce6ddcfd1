#!/bin/sh
# build.sh [OUT]: one static binary with every component. Needs the Go module proxy (or a filled module cache).
set -e
cd "$(dirname "$0")"
out=${1:-kube}
version=$(awk '$1 == "k8s.io/kubernetes" {print $2; exit}' go.mod)
minor=$(echo "$version" | cut -d. -f2)
v=k8s.io/component-base/version
CGO_ENABLED=0 nice -n 5 "${GO:-go}" build -p "${KUBE_BUILD_JOBS:-2}" -trimpath -buildvcs=false -ldflags "-s -w -X $v.gitVersion=$version -X $v.gitMajor=1 -X $v.gitMinor=$minor -X $v.gitTreeState=clean" -o "$out" .
