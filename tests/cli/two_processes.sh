# Two processes that want the same stages: the second waits for the first and takes what it has computed; from one that
# was killed it takes over, and the result is the same. The first is stopped while it computes, so nothing depends on time.
. tests/cli/lib.sh
export OMP_NUM_THREADS=1

expect_status 0 run tests/cli/tiny.json --out "$folder/alone"

# begin STAGE OUT: a run in the background, stopped once the stage has saved a state; its process is $first.
begin() {
  last="popalm run (stopped in $1)"
  "$popalm" run tests/cli/tiny.json --out "$2" --set checkpoint.every_steps=1 >"$folder/first.out" 2>"$folder/first.err" \
    </dev/null &
  first=$!
  while kill -0 $first 2>/dev/null && ! ls "$2"/stages/"$1"-*/state.safetensors >/dev/null 2>&1; do sleep 0.005; done
  kill -STOP $first
  ls "$2"/stages/"$1"-*/stage.json >/dev/null 2>&1 && complain "the stage ended before the process could be stopped"
}

# join STAGE OUT: a second run with another name, in the background, that waits for the first one's stage; $second.
join() {
  last="popalm run (beside another)"
  : >"$folder/err"
  "$popalm" run tests/cli/tiny.json --out "$2" --set name=second --set checkpoint.every_steps=1 >"$folder/out" 2>"$folder/err" \
    </dev/null &
  second=$!
  while kill -0 $second 2>/dev/null && ! grep -q "^$1: another process computes it; waiting" "$folder/err"; do sleep 0.02; done
  kill -0 $second 2>/dev/null || complain "the second process should wait"
}

# ended PROCESS: it has left with status 0.
ended() {
  status=0
  wait "$1" || status=$?
  [ "$status" = 0 ] || complain "status 0 expected"
}

begin sft "$folder/both"
expect_status 0 runs --out "$folder/both"
expect_output '^sft-[0-9a-f]* +running '
join sft "$folder/both"
kill -CONT $first
ended $first
ended $second
expect_error '^sft: computed by the other process$'
times=$(cat "$folder/first.err" "$folder/err" | grep -c '^sft  9 steps')
[ "$times" = 1 ] || complain "SFT should be computed once, not $times times"
for name in tiny second; do
  sed "s/\"name\":\t\"$name\"/\"name\":\t\"tiny\"/" "$folder/both/$name/results.json" | cmp -s - "$folder/alone/tiny/results.json" ||
    complain "results of $name should be those of a process alone"
done

for stage in sft ppo; do
  begin $stage "$folder/$stage"
  join $stage "$folder/$stage"
  kill -KILL $first
  wait $first 2>/dev/null
  ended $second
  expect_error "^$stage: the other process ended without finishing it; taken over$"
  expect_error "^$stage: resumes "
  sed 's/"second"/"tiny"/' "$folder/$stage/second/results.json" | cmp -s - "$folder/alone/tiny/results.json" ||
    complain "results after taking over should be those of a process alone"
done

# The same command twice at once, some times: both end well, with one computation of every stage.
for round in 1 2; do
  last="popalm run (twice at once)"
  "$popalm" run tests/cli/tiny.json --out "$folder/twice$round" >"$folder/first.out" 2>"$folder/first.err" </dev/null &
  first=$!
  "$popalm" run tests/cli/tiny.json --out "$folder/twice$round" >"$folder/out" 2>"$folder/err" </dev/null &
  second=$!
  ended $first
  ended $second
  for stage in sft reward ppo; do
    times=$(cat "$folder/first.err" "$folder/err" | grep -c "^$stage  [0-9]* steps")
    [ "$times" = 1 ] || complain "$stage should be computed once, not $times times"
  done
  cmp -s "$folder/twice$round/tiny/results.json" "$folder/alone/tiny/results.json" || complain "results should be the same"
done
