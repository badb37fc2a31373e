# popalm runs and clean: who uses which stage; only what no run uses is removed, after asking, and never while a process
# computes it.
. tests/cli/lib.sh
export OMP_NUM_THREADS=1
out=$folder/runs

expect_status 0 runs --out "$folder/nothing"
expect_output '^runs: 0, stages: 0, 0 B$'
expect_status 0 clean --out "$folder/nothing"
expect_output 'nothing to remove'

expect_status 0 run tests/cli/tiny.json --out "$out"
expect_status 0 run tests/cli/tiny.json --out "$out" --set name=other --set ppo.lr=1e-4
expect_status 0 runs --out "$out"
expect_output '^tiny +finished +[0-9.]+ KiB +[0-9]+ s  1, 1$'
expect_output '^sft-[0-9a-f]{16} +finished +[0-9.]+ MiB +[0-9]+ s  other, tiny$'
[ "$(grep -c '^ppo-.*  other$' "$folder/out")$(grep -c '^ppo-.*  tiny$' "$folder/out")" = 11 ] || complain "each run has its PPO"
expect_output '^runs: 2, stages: 9, [0-9.]+ MiB$'
expect_status 0 clean --out "$out" --yes
expect_output 'every stage is used by a run'

# The same run with other settings: its old PPO and evaluation are of no use any more.
expect_status 0 run tests/cli/tiny.json --out "$out" --set name=other --set ppo.lr=2e-4
expect_status 0 runs --out "$out"
expect_output 'used by no run: 2 stages, [0-9.]+ [KM]iB; popalm clean removes them$'
old=$(sed -n 's/^\(ppo-[0-9a-f]*\) .*  no run$/\1/p' "$folder/out")
[ -d "$out/stages/$old" ] || complain "the old PPO should be listed"

# Without an answer, and with no, nothing happens.
expect_status 0 clean --out "$out"
expect_output '^Remove these 2 stages and free [0-9.]+ [KM]iB\? \[y/N\]'
expect_output '^nothing was removed$'
echo n | "$popalm" clean --out "$out" >"$folder/out"
[ -d "$out/stages/$old" ] || complain "no is no"

# A stage whose lock is held is being computed.
flock "$out/stages/$old" sleep 60 &
holder=$!
while ! "$popalm" runs --out "$out" | grep -Eq "^$old +running"; do sleep 0.05; done
expect_status 0 clean --out "$out" --yes
expect_output '^removed 1 stages, '
[ -s "$out/stages/$old/stage.json" ] || complain "what is being computed should be kept"
# flock's child has the lock too
for process in $(cat /proc/$holder/task/$holder/children) $holder; do kill "$process" 2>/dev/null; done
wait $holder 2>/dev/null
while ! flock -n "$out/stages/$old" true; do sleep 0.05; done

# While the question stands, a process begins to compute it: the answer comes too late.
mkfifo "$folder/answer"
"$popalm" clean --out "$out" <"$folder/answer" >"$folder/out" &
cleaner=$!
exec 3>"$folder/answer"
while ! grep -q 'Remove these 1 stages' "$folder/out"; do sleep 0.05; done
flock "$out/stages/$old" sh -c "echo y >&3; exec 3>&-; while kill -0 $cleaner 2>/dev/null && ! grep -q removed '$folder/out'; do sleep 0.05; done"
exec 3>&-
wait $cleaner
expect_output 'removed 0 stages'
[ -d "$out/stages/$old" ] || complain "what is being computed should be kept"

echo y | "$popalm" clean --out "$out" >"$folder/out"
expect_output '^.*removed 1 stages, [0-9.]+ [KM]iB$'
[ ! -e "$out/stages/$old" ] || complain "yes is yes"

# A stage that no link shows, but that another one was computed from, is used too.
rm "$out"/*/arms/main/seed-7/sft "$out"/*/arms/main/seed-7/tokenizer
expect_status 0 clean --out "$out" --yes
expect_output 'every stage is used by a run'

# The stages of both runs are untouched.
touch "$folder/before"
expect_status 0 run tests/cli/tiny.json --out "$out"
expect_status 0 run tests/cli/tiny.json --out "$out" --set name=other --set ppo.lr=2e-4
[ -z "$(find "$out/stages" -name stage.json -newer "$folder/before")" ] || complain "nothing should be computed again"
rm -r "$out/tiny" "$out/other"
expect_status 0 clean --out "$out" --yes
[ -z "$(ls "$out/stages")" ] || complain "without runs no stage is used"
