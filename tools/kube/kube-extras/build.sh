#!/bin/sh
# build.sh [OUT]: one static binary with CoreDNS, metrics-server and kwok. Needs the Go module proxy (or a filled module cache).
set -e
cd "$(dirname "$0")"
CGO_ENABLED=0 nice -n 5 "${GO:-go}" build -p "${KUBE_BUILD_JOBS:-2}" -trimpath -buildvcs=false -ldflags "-s -w" -o "${1:-kube-extras}" .
