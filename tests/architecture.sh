#!/bin/sh
# Rules of the source tree that a compiler does not check (those of kernels: kernels/check_sources.sh). Run from the root. Each rule prints what breaks it.
set -u
broken=$(mktemp)
trap 'rm -f "$broken"' EXIT
# shellcheck disable=SC2013,SC2044,SC2317 # names without blanks; functions called by name

# The layer of a file: includes may only go to the same or a lower one.
layer() {
  case $1 in
    host/base/*) echo 0 ;;
    host/backend.h) echo 1 ;;
    host/cpu/* | cuda/* | host/backend.c | host/checkpoint.* | host/safetensors* | host/gguf* | host/elements*) echo 2 ;;
    host/main.c | host/commands.h | host/command_* | host/options.*) echo 7 ;;
    host/plan*) echo 6 ;;
    host/stage* | host/audit* | host/report*) echo 5 ;;
    models/*) echo 3 ;;
    *) echo 4 ;; # curriculum, rollout, ppo, dataset, tokenizer, experiment, checkpoint ...
  esac
}

# The file that `#include "name"` in the file $1 means, or nothing.
included_file() {
  for path in "$(dirname "$1")/$2" "host/$2" "$2"; do
    if [ -f "$path" ]; then echo "$path"; return; fi
  done
}

one_way_includes() {
  for file in $(find host models cuda -name '*.[ch]' -o -name '*.cu' -o -name '*.cuh' 2>/dev/null); do
    from=$(layer "$file")
    for name in $(sed -n 's/^#include "\([^"]*\)".*/\1/p' "$file"); do
      target=$(included_file "$file" "$name")
      [ -n "$target" ] || continue
      to=$(layer "$target")
      case $file:$target in
        host/cpu/*:host/cpu/* | host/cpu/*:host/backend.h | host/cpu/*:host/base/*) continue ;;
        cuda/*:cuda/* | cuda/*:host/backend.h | cuda/*:host/base/*) continue ;;
        host/cpu/* | cuda/*) echo "$file includes $target: a device knows only backend.h and base/" ;;
        *:host/cpu/* | *:cuda/*) echo "$file includes $target: only the backend knows a device" ;;
        *) [ "$to" -le "$from" ] || echo "$file includes $target: includes go one way, down" ;;
      esac
    done
  done
}

# No printing and no leaving below the commands; messages go through fail().
one_error_path() {
  grep -nE '\b(exit|abort|perror) *\(' -r host models --include='*.c' | grep -vE '^host/(main|base/arena)\.c' |
    sed 's|$|   (use fail())|'
}

files_of_readable_length() {
  find host models cuda tests -name '*.[ch]' -o -name '*.cu' -o -name '*.cuh' 2>/dev/null | while read -r file; do
    lines=$(wc -l <"$file")
    [ "$lines" -le 600 ] || echo "$file has $lines lines: split it by subject (600 at most)"
  done
}

no_loose_ends() {
  grep -nE '\b(TODO|FIXME|XXX|HACK)\b' -r host models cuda experiments tests 2>/dev/null |
    grep -v '^tests/architecture.sh'
}

for rule in one_way_includes one_error_path files_of_readable_length no_loose_ends; do
  $rule >"$broken" 2>&1
  if [ -s "$broken" ]; then
    echo "$rule:"
    sed 's/^/  /' "$broken"
    failed=1
  fi
done
exit "${failed:-0}"
