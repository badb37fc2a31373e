#!/bin/sh
# Fuzzes one target with libFuzzer: tests/fuzz/run.sh TARGET SECONDS, from the root, e.g. tokenizer 600. Needs Debian's
# clang and libclang-rt-dev. What it finds is left in build/fuzz/TARGET; the seeds are not touched.
set -eu
target=$1 seconds=$2 out=build/fuzz/$1
mkdir -p "$out/corpus"
packages='libcjson libpcre2-8 libutf8proc libxxhash'
# shellcheck disable=SC2046,SC2086 # lists of words
clang -std=gnu17 -g -O1 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all -D_GNU_SOURCE -Ihost -I. \
  -o "$out/fuzz" "tests/fuzz/fuzz_$target.c" host/tokenizer*.c host/unicode*.c host/bpe_*.c host/wordpiece.c \
  host/base/*.c $(pkg-config --cflags --libs $packages) -lm
"$out/fuzz" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=4000 -artifact_prefix="$out/" \
  "$out/corpus" "tests/fuzz/seeds/$target"
