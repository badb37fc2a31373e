#!/bin/sh
# Compiles every kernel file and prints a Markdown table of what each kernel takes: registers a thread, bytes spilled, static
# shared memory. Fails if a file does not compile without a warning, a kernel spills registers, or the assembler serialises
# products of a warpgroup or adds a wait to them (C75xx).
# usage: resources.sh [NVCC [ARCH...]]    ARCH as in sm_ARCH, 90a by default; a table each
nvcc=${1:-nvcc}
[ $# -eq 0 ] || shift
spill_limit=0
cd "$(dirname "$0")/../.." || exit 1
report=$(mktemp) && object=$(mktemp) || exit 1
trap 'rm -f "$report" "$object"' EXIT

# compile ARCH: the compiler's words on every file, which tell the resources, into the report
compile() {
  for file in cuda/*.cu; do
    echo "file $file"
    "$nvcc" -std=c++17 -O3 -gencode "arch=compute_$1,code=sm_$1" -DPOPALM_CUDA -D_GNU_SOURCE -Icuda -Ihost \
      -Werror all-warnings -Xcompiler=-Wall,-Wno-unknown-pragmas -Xptxas -v -c "$file" -o "$object" 2>&1 || echo "failed"
  done | c++filt > "$report"
  if grep -qi '^failed$\|warning\|(C75' "$report"; then
    cat "$report"
    return 1
  fi
}

table() {
  echo "| file | kernel (sm_$1) | registers | spilled bytes | static shared bytes |"
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
      count++
      if (spill > limit) { bad = 1; printf "%s spills %d bytes, more than %d\n", kernel, spill, limit > "/dev/stderr" }
    }
    END { if (!count) print "no kernel was compiled" > "/dev/stderr"; exit bad || !count }' "$report"
}

status=0
for arch in "${@:-90a}"; do
  compile "$arch" && table "$arch" || status=1
done
exit $status
