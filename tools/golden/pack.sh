#!/bin/sh
# Packs DATA/PRESET (checkpoint/, golden.json, golden.safetensors) into OUT/PRESET.tar.xz: the same bytes from the same
# files, whoever runs it and when. Halves are packed as 16-bit literals (lp=2): 7 % smaller on bf16.
#   pack.sh DATA OUT [PRESET ...]
set -e
data=$1 out=$2
shift 2
[ $# -gt 0 ] || set -- v2_lite v2 v3 v3_fp8 moonlight kimi tied
for preset; do
  case $preset in *fp8) filter=preset=9e ;; *) filter=preset=9e,lc=2,lp=2,pb=0 ;; esac
  tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX --format=ustar \
    -C "$data" -cf - "$preset" | xz --threads=1 --check=sha256 --lzma2="$filter" -c > "$out/$preset.tar.xz"
done
