#!/bin/sh
# tests/fuzz/run.sh SECONDS [SUBJECT...]: runs the fuzz targets with libFuzzer under the address and undefined-behaviour
# sanitizers, each for so long; without clang, the mutation driver under gcc's sanitizers. Run from the root. Inputs that
# broke something stay in the folder that is printed.
set -eu
seconds=${1:?usage: tests/fuzz/run.sh SECONDS [SUBJECT...]}
shift
[ $# -gt 0 ] || set -- $(ls tests/fuzz | sed -n 's/^fuzz_\(.*\)\.c$/\1/p')
folder=$(mktemp -d)
echo "inputs and findings: $folder"
sources="host/base/*.c host/tokenizer*.c host/unicode*.c host/bpe_*.c host/wordpiece.c host/elements.c host/gguf*.c host/safetensors*.c host/checkpoint.c host/backend.c host/experiment_*.c host/dataset.c models/*.c tests/fuzz/fuzz.c"
flags="-g -O1 -std=gnu17 -D_GNU_SOURCE -DPOPALM_PRESETS=\"$PWD/models/presets\" -Ihost -I. -Itests/fuzz -Wno-unknown-pragmas"
libraries="$(pkg-config --libs libcjson libpcre2-8 libutf8proc libxxhash) -lm"
# No target computes, so the devices' operations are left out; calls of them lead nowhere, which a PIE cannot hold.
lazy="-Wl,--unresolved-symbols=ignore-all -no-pie"
for subject; do
  if command -v clang >/dev/null; then
    # shellcheck disable=SC2086 # lists of words
    clang -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all $flags $sources "tests/fuzz/fuzz_$subject.c" $lazy $libraries -o "$folder/$subject"
    mkdir -p "$folder/corpus-$subject"
    (cd "$folder" && "./$subject" -max_total_time="$seconds" -max_len=8192 -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
      "corpus-$subject" "$OLDPWD/tests/fuzz/seeds/$subject" 2>"$subject.log") || { tail -n 40 "$folder/$subject.log"; exit 1; }
    sed -n 's/^stat::number_of_executed_units: */'"$subject"': inputs without a finding: /p' "$folder/$subject.log"
  else
    # shellcheck disable=SC2086
    gcc -fsanitize=address,undefined -fno-sanitize-recover=all $flags $sources tests/fuzz/drive.c "tests/fuzz/fuzz_$subject.c" $lazy $libraries -o "$folder/$subject"
    printf '%s: ' "$subject"
    FUZZ_INPUT="$folder/$subject.input" "$folder/$subject" "$seconds" "$$" tests/fuzz/seeds/"$subject"/*
  fi
done
