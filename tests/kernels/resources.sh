#!/bin/sh
# Prints Markdown tables of what each kernel takes, as the compiler said when BUILD was built: registers a thread, bytes
# spilled, static shared memory. Fails if a file had a warning, a kernel spills registers, or the assembler serialises
# products of a warpgroup or adds a wait to them (C75xx).
# usage: resources.sh [BUILD [ARCH...]]    ARCH as in sm_ARCH, 90a by default; a table each
build=${1:-build}
[ $# -eq 0 ] || shift
spill_limit=0
if ! ls "$build"/cuda/*.ptxas >/dev/null 2>&1; then
  echo "resources.sh: $build/cuda holds no kernel's resources; build there first, with nvcc" >&2
  exit 1
fi

table() {
  echo "| file | kernel (sm_$1) | registers | spilled bytes | static shared bytes |"
  echo "|---|---|---|---|---|"
  for log in "$build"/cuda/*.ptxas; do
    name=${log##*/}
    echo "file cuda/${name%.ptxas}.cu"
    cat "$log"
  done | c++filt | awk -v limit=$spill_limit -v arch="'sm_$1'" '
    /^file / { file = $2 }
    /Compiling entry function/ {
      here = $NF == arch
      match($0, /\047[^\047]*\047/)
      kernel = substr($0, RSTART + 1, RLENGTH - 2)
      sub(/^void /, "", kernel); gsub(/\(anonymous namespace\)::/, "", kernel); sub(/\(.*/, "", kernel)
    }
    /bytes spill stores/ { match($0, /[0-9]+ bytes spill stores/); spill = substr($0, RSTART) + 0 }
    here && /Used [0-9]+ registers/ {
      match($0, /Used [0-9]+/); registers = substr($0, RSTART + 5, RLENGTH - 5)
      shared = match($0, /[0-9]+ bytes smem/) ? substr($0, RSTART) + 0 : 0
      printf "| %s | `%s` | %s | %s | %s |\n", file, kernel, registers, spill, shared
      count++
      if (spill > limit) { bad = 1; printf "%s spills %d bytes, more than %d\n", kernel, spill, limit > "/dev/stderr" }
    }
    END { if (!count) print "no kernel was compiled for " arch > "/dev/stderr"; exit bad || !count }'
}

status=0
if grep -i 'warning\|(C75' "$build"/cuda/*.ptxas >&2; then status=1; fi
for arch in "${@:-90a}"; do
  table "$arch" || status=1
done
exit $status
