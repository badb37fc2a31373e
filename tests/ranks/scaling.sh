#!/bin/sh
# How much faster SFT is on 2 ranks than on 1 process, one thread each, alternating so that both see the same machine:
#
#   sh tests/ranks/scaling.sh [BUILD] [ROUNDS] [RANKS]        default: build 5 2
#
# Prints a line a round, then medians. speedup: time of one process / time of the ranks, of the stage alone. efficiency:
# speedup / ranks. work: processor seconds of one process / those of all ranks together, which other programs on the
# machine disturb less: what dividing the work costs without the waiting. Run it on an idle machine.
set -eu
build=${1:-build} rounds=${2:-5} ranks=${3:-2}
popalm=$build/bin/popalm
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
export OMP_NUM_THREADS=1 OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1

cat >"$folder/scaling.json" <<'JSON'
{
  "name": "scaling", "seed": 1, "device": "cpu",
  "data": {"synth": {"train_posts": 400, "dev_posts": 8, "replies_per_post": 3}, "max_post_tokens": 32, "max_reply_tokens": 24},
  "tokenizer": {"train": {"vocab_size": 1000}},
  "model": {"preset": "gpt2-6m"},
  "sft": {"epochs": 1, "tokens_per_batch": 4096}
}
JSON
"$popalm" run "$folder/scaling.json" --out "$folder/out" --until tokenizer >/dev/null 2>&1

# Seconds of processor time of the children so far; times prints m and s of this shell, then of its children.
spent() {
  times >"$folder/times"
  awk 'NR == 2 { split($1, u, /[ms]/); split($2, s, /[ms]/); print 60 * (u[1] + s[1]) + u[2] + s[2] }' "$folder/times"
}

run_sft() {
  "$@" run "$folder/scaling.json" --out "$folder/out" --until sft >"$folder/log" 2>&1 || { cat "$folder/log" >&2; exit 1; }
}

# measure NAME COMMAND...: seconds and processor seconds of the SFT stage, into files: those of the run less those of the
# same run again, which finds the stage cached.
measure() {
  name=$1
  shift
  rm -rf "$folder"/out/stages/sft-*
  spent >"$folder/before"
  run_sft "$@"
  spent >"$folder/after"
  run_sft "$@"
  spent >"$folder/again"
  sed -n 's/.*"seconds":[[:space:]]*\([0-9.]*\).*/\1/p' "$folder"/out/stages/sft-*/stage.json >>"$folder/$name.wall"
  awk -v a="$(cat "$folder/before")" -v b="$(cat "$folder/after")" -v c="$(cat "$folder/again")" \
    'BEGIN { print (b - a) - (c - b) }' >>"$folder/$name.work"
}

for round in $(seq "$rounds"); do
  measure one "$popalm"
  measure many mpirun -n "$ranks" --oversubscribe --bind-to none "$popalm"
  paste "$folder/one.wall" "$folder/many.wall" "$folder/one.work" "$folder/many.work" | tail -n 1 |
    awk -v r="$round" '{ printf "round %d: one process %.2f s, ranks %.2f s; processor seconds %.2f and %.2f\n", r, $1, $2, $3, $4 }'
done
paste "$folder/one.wall" "$folder/many.wall" "$folder/one.work" "$folder/many.work" | awk -v n="$ranks" '
  function median(x, count,   i, j, t) {
    for (i = 2; i <= count; i++) for (j = i; j > 1 && x[j - 1] > x[j]; j--) { t = x[j]; x[j] = x[j - 1]; x[j - 1] = t }
    return count % 2 ? x[(count + 1) / 2] : (x[count / 2] + x[count / 2 + 1]) / 2
  }
  { speedup[NR] = $1 / $2; work[NR] = $3 / $4 }
  END {
    s = median(speedup, NR); w = median(work, NR)
    printf "median of %d rounds, %d ranks of one thread: speedup %.2f, efficiency %.0f%%, work %.0f%%\n", NR, n, s, 100 * s / n, 100 * w
  }'
