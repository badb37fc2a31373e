# Several ranks under mpirun: the same replies as one process and the same numbers to rounding; one rank the same bytes;
# interrupted on four ranks, gone on with on two and on one; a killed rank ends the job, and what was saved goes on.
. tests/cli/lib.sh
export OMP_NUM_THREADS=1 OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export ASAN_OPTIONS="${ASAN_OPTIONS:+$ASAN_OPTIONS:}detect_leaks=0" # of MPI's own, which it never frees

skip() { echo "skipped: $1"; exit 77; }
[ -f "$(dirname "$popalm")/popalm_mpi.so" ] || skip "built without MPI (libopenmpi-dev)"
command -v mpirun >/dev/null || skip "there is no mpirun (openmpi-bin)"
mpirun --version 2>/dev/null | grep -q 'Open MPI' || skip "mpirun is not Open MPI's, whose options this test uses"
# Memory of one process only can be written by the other where ptrace is allowed; plain copies always work.
ranks="mpirun --oversubscribe --bind-to none --mca btl_vader_single_copy_mechanism none"
# shellcheck disable=SC2086 # a list of words
$ranks -n 2 true >/dev/null 2>&1 || skip "mpirun starts nothing here"

# on_ranks STATUS RANKS OUT [OPTION...]: runs the tiny experiment.
on_ranks() {
  expected=$1 count=$2 out=$3
  shift 3
  last="mpirun -n $count popalm run $*"
  status=0
  # shellcheck disable=SC2086
  timeout 120 $ranks -n "$count" "$popalm" run tests/cli/tiny.json --out "$out" "$@" >"$folder/out" 2>"$folder/err" \
    </dev/null || status=$?
  [ "$status" = "$expected" ] || complain "status $expected expected"
}

# same FILE FILE TOLERANCE: the same text, and numbers that differ by that at most (of themselves, if larger than 1).
same() {
  awk -v tolerance="$3" '
    function number(line) { return match(line, /-?[0-9]+([.][0-9]+)?([eE][-+]?[0-9]+)?/) }
    { lines[FILENAME, FNR] = $0; count[FILENAME] = FNR }
    END {
      if (count[ARGV[1]] != count[ARGV[2]] || !count[ARGV[1]]) { print "other number of lines"; exit 1 }
      for (i = 1; i <= count[ARGV[1]]; i++) {
        a = lines[ARGV[1], i]; b = lines[ARGV[2], i]
        while (number(a)) {
          text = substr(a, 1, RSTART - 1); x = substr(a, RSTART, RLENGTH) + 0; a = substr(a, RSTART + RLENGTH)
          if (!number(b) || text != substr(b, 1, RSTART - 1)) { print "line " i ": other text near " text; exit 1 }
          y = substr(b, RSTART, RLENGTH) + 0; b = substr(b, RSTART + RLENGTH)
          d = x - y; if (d < 0) d = -d
          m = x < 0 ? -x : x; if (m < 1) m = 1
          if (!(d <= tolerance * m)) { print "line " i ": " x " and " y " after " text; exit 1 }
        }
        if (a != b) { print "line " i ": other text at the end"; exit 1 }
      }
    }' "$1" "$2" >"$folder/difference" && return
  complain "$2 should be as $1: $(cat "$folder/difference")"
}

losses() { grep -Eo '"(step|loss|dev_loss|policy_loss|value_loss)":[-+.0-9e]+' "$1"; }

# as_alone OUT: what the run left is what one process alone has left: losses to 1e-5, everything else, such as rewards,
# which are divided by a small deviation, to 1e-4, and every sampled reply and every choice of the curriculum.
as_alone() {
  for file in "$folder"/alone/stages/*/*.jsonl "$folder/alone/tiny/results.json"; do
    other=$1/${file#"$folder"/alone/}
    same "$file" "$other" 1e-4
    case $file in */metrics.jsonl) ;; *) continue ;; esac
    losses "$file" >"$folder/losses.alone"
    losses "$other" >"$folder/losses.ranks"
    same "$folder/losses.alone" "$folder/losses.ranks" 1e-5
  done
}

expect_status 0 run tests/cli/tiny.json --out "$folder/alone"

on_ranks 0 1 "$folder/one"
for file in "$folder"/alone/stages/*/*.safetensors "$folder"/alone/stages/*/*.jsonl "$folder/alone/tiny/results.json"; do
  cmp -s "$file" "$folder/one/${file#"$folder"/alone/}" || complain "$file should be the same bytes on one rank"
done

for count in 2 4; do
  on_ranks 0 $count "$folder/ranks$count"
  as_alone "$folder/ranks$count"
  [ "$(grep -c '^ppo  12 steps' "$folder/err")" = 1 ] || complain "one rank should speak"
done
# What check says of a rank's memory: in fp32 4 + 4 bytes a parameter and 4 + 12 of a quarter of them, instead of 16.
expect_status 0 check tests/cli/tiny.json --out "$folder/alone"
of_one=$(sed -n 's/^sft *[0-9]*[.][0-9]  *\([0-9.]*\) .*/\1/p' "$folder/out")
last="mpirun -n 4 popalm check"
# shellcheck disable=SC2086
$ranks -n 4 "$popalm" check tests/cli/tiny.json --out "$folder/alone" >"$folder/out" 2>"$folder/err" </dev/null ||
  complain "status 0 expected"
expect_output '^memory of each of 4 ranks$'
of_four=$(sed -n 's/^sft *[0-9]*[.][0-9]  *\([0-9.]*\) .*/\1/p' "$folder/out")
awk -v a="$of_one" -v b="$of_four" 'BEGIN { exit !(a > 0 && b <= a * 0.8 && b >= a * 0.7) }' ||
  complain "memory should be 3/4 of $of_one MiB"
on_ranks 0 2 "$folder/ranks4"
expect_error '^7 of 7 stages are cached'

# An adapter with dropout, whose masks belong to the tokens of the whole batch, and layers computed twice.
adapter="--until sft --set model.from=$(echo "$folder"/alone/stages/sft-*) --set adapter.rank=4 --set adapter.dropout=0.2
  --set memory.recompute=true"
# shellcheck disable=SC2086
expect_status 0 run tests/cli/tiny.json --out "$folder/adapter1" $adapter
# shellcheck disable=SC2086
on_ranks 0 3 "$folder/adapter3" $adapter
same "$folder"/adapter1/stages/sft-*/metrics.jsonl "$folder"/adapter3/stages/sft-*/metrics.jsonl 1e-5

# What the tiny experiment leaves at 0 and a part of a batch must weigh right, too.
weights="--until ppo --set reward.margin=1 --set ppo.entropy_coef=0.01 --set ppo.steps=3"
# shellcheck disable=SC2086
expect_status 0 run tests/cli/tiny.json --out "$folder/weights1" $weights
# shellcheck disable=SC2086
on_ranks 0 3 "$folder/weights3" $weights
for file in "$folder"/weights1/stages/*/metrics.jsonl; do
  same "$file" "$folder/weights3/${file#"$folder"/weights1/}" 1e-4
done

# An error that all ranks meet is said once.
on_ranks 2 2 "$folder/wrong" --set sft.epochs=-1
[ "$(grep -c 'sft.epochs' "$folder/err")" = 1 ] || complain "one line of error expected"

# begin RANKS STAGE OUT: a job in the background that has saved a state of the stage; its mpirun is $job, one of its
# processes $one_rank.
begin() {
  last="mpirun -n $1 popalm run (in $2)"
  # shellcheck disable=SC2086
  $ranks -n "$1" "$popalm" run tests/cli/tiny.json --out "$3" --set checkpoint.every_steps=1 >"$folder/out" \
    2>"$folder/err" </dev/null &
  job=$!
  while kill -0 $job 2>/dev/null && ! ls "$3"/stages/"$2"-*/state.safetensors >/dev/null 2>&1; do sleep 0.01; done
  kill -0 $job 2>/dev/null || complain "the job ended too early"
  one_rank=$(grep -l "^[0-9]* (popalm) . $job " /proc/[0-9]*/stat 2>/dev/null | tail -n 1 | cut -d / -f 3)
  [ -n "$one_rank" ] || complain "mpirun should have a process of popalm"
}

# ended STATUS: the job has left with it, within a minute.
ended() {
  status=0
  (sleep 60 && kill -KILL $job) >/dev/null 2>&1 &
  guard=$!
  wait $job || status=$?
  kill $guard 2>/dev/null
  [ "$status" = "$1" ] || complain "status $1 expected"
}

# The signal reaches all ranks through mpirun, or one alone: all stop at the same step.
begin 4 sft "$folder/stopped"
kill -USR1 $job
ended 130
expect_error '^interrupted at step [0-9]+, after saving; the same command goes on from there'
begin 2 ppo "$folder/stopped"
expect_error '^sft: resumes '
kill -TERM "$one_rank"
ended 130
expect_error '^interrupted at step [0-9]+, after saving'
expect_status 0 run tests/cli/tiny.json --out "$folder/stopped"
expect_error '^ppo: resumes '
as_alone "$folder/stopped"

# A rank that dies takes the job with it.
begin 4 ppo "$folder/killed"
before=$(date +%s)
kill -KILL "$one_rank"
ended 137
[ $(($(date +%s) - before)) -le 10 ] || complain "the job should be over in 10 seconds"
expect_error 'rank [0-9]+ .*exited on signal 9'
on_ranks 0 2 "$folder/killed"
expect_error '^ppo: resumes '
as_alone "$folder/killed"
