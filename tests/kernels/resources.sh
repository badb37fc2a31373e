#!/bin/sh
# Compiles every kernel file and prints a Markdown table of what each kernel takes: registers a thread, bytes spilled, static
# shared memory. Fails if a file does not compile or a kernel spills more than a few registers.
# usage: resources.sh [NVCC [ARCH]]    ARCH as in sm_ARCH, 90a by default
nvcc=${1:-nvcc}
arch=${2:-90a}
spill_limit=64
cd "$(dirname "$0")/../.." || exit 1
report=$(mktemp) && object=$(mktemp) || exit 1
trap 'rm -f "$report" "$object"' EXIT
for file in cuda/*.cu; do
  echo "file $file"
  "$nvcc" -std=c++17 -O3 -gencode "arch=compute_$arch,code=sm_$arch" -DPOPALM_CUDA -D_GNU_SOURCE -Icuda -Ihost -Xptxas -v \
    -c "$file" -o "$object" 2>&1 || echo "failed"
done | c++filt > "$report"
if grep -q '^failed$' "$report"; then
  cat "$report"
  exit 1
fi
echo "| file | kernel (sm_$arch) | registers | spilled bytes | static shared bytes |"
echo "|---|---|---|---|---|"
awk -v limit=$spill_limit '
  /^file / { file = $2 }
  /Compiling entry function/ {
    match($0, /\047[^\047]*\047/)
    kernel = substr($0, RSTART + 1, RLENGTH - 2)
    sub(/^void /, "", kernel); gsub(/\(anonymous namespace\)::/, "", kernel); sub(/\(.*/, "", kernel)
  }
  /bytes spill stores/ { match($0, /[0-9]+ bytes spill stores/); spill = substr($0, RSTART) + 0 }
  /Used [0-9]+ registers/ {
    match($0, /Used [0-9]+/); registers = substr($0, RSTART + 5, RLENGTH - 5)
    shared = match($0, /[0-9]+ bytes smem/) ? substr($0, RSTART) + 0 : 0
    printf "| %s | `%s` | %s | %s | %s |\n", file, kernel, registers, spill, shared
    if (spill > limit) { bad = 1; printf "%s spills %d bytes, more than %d\n", kernel, spill, limit > "/dev/stderr" }
  }
  END { exit bad }' "$report"
