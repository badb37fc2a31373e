# popalm check: a grid's cells by name, the batches of every arm, what so many seeds can tell; what does not divide is
# refused with a remedy. Every metric of a real evaluation can be compared by, and a gate stops a run with its reason.
. tests/cli/lib.sh
export OMP_NUM_THREADS=1

cat >"$folder/grid.json" <<'JSON'
{
  "data": {"synth": {}},
  "device": "cpu",
  "ablate": {
    "arms": {"ppo": {"ppo.curriculum": null}},
    "grid": {"ppo.curriculum.pace.kind": ["none", "reward_prob"], "ppo.curriculum.rank.keep": [0.333, 0.5]},
    "seeds": [1, 2]
  }
}
JSON
expect_status 0 check "$folder/grid.json" --out "$folder/none"
expect_output '^.*grid\.json: grid, 5 arms x 2 seeds, on cpu$'
expect_output '^ppo kind=reward_prob,keep=0.5 seed 2 +[0-9a-f]{16} +to do +1 of 10 runs$'
expect_output '^kind=none,keep=0.5 +world, tokenizer, sft, reward, evaluate-sft$'
expect_output '^ppo +16 x 3 = 48 +48 +6 x 8 +6 +200 +1200$'
expect_output '^kind=none,keep=0.333 +16 x 3 = 48 +15 +1 x 8 \+ 7 +2 +200 +400$'
expect_output '^kind=reward_prob,keep=0.5 +16 x 3 = 48 +<= 24 +3 x 8 +<= 3 +200 +<= 600$'
expect_output 'kind=none,keep=0.333: the last minibatch has 7 of 8 samples, so they weigh more; "keep": (0\.3+) keeps 16 = 2 x 8; a minibatch of 5 divides 15'
expect_output '^tests: 2 seeds and 4 comparisons give a p of 1 at best, after Holm.s correction; 8 seeds are needed'

# The remedies of the note are remedies.
keep=$(sed -n 's/.*"keep": \([0-9.]*\) keeps 16.*/\1/p' "$folder/out")
expect_status 0 check "$folder/grid.json" --out "$folder/none" --set "ablate.grid={\"ppo.curriculum.rank.keep\":[$keep]}" \
  --set ppo.curriculum.pace=null
expect_output "^keep=[0-9.]+ +16 x 3 = 48 +16 +2 x 8 +2 "
expect_wrong_usage 'does not divide the 16 x 3 = 48 samples of a step; use 6 or 8' check "$folder/grid.json" \
  --set ppo.minibatch=7
expect_status 0 check "$folder/grid.json" --out "$folder/none" --set ppo.minibatch=6
expect_status 0 check "$folder/grid.json" --out "$folder/none" --set preset=released --set ablate=null
expect_output '^main +4 x 3 = 12 +<= 4 +2 x 2 +<= 2 +1257 +<= 2514$'
[ ! -e "$folder/none" ] || complain "check should write nothing"

# What an evaluation writes is what "ablate.metric" may name.
expect_status 0 run tests/cli/tiny.json --out "$folder/runs"
metrics=$(sed -n 's/^\t"\([a-z_0-9@]*\)":.*/\1/p' "$folder"/runs/tiny/arms/main/seed-7/evaluate-ppo/evaluate.json)
[ "$(echo "$metrics" | wc -l)" -ge 17 ] || complain "metrics should be there: $metrics"
for metric in $metrics; do
  expect_status 0 check tests/cli/tiny.json --set 'ablate={"arms":{"a":{},"b":{"ppo.steps":3}}}' --set "ablate.metric=evaluate.$metric"
done

# A gate: the reason is printed and stands in results.json and in the report; without it the run goes on.
expect_status 1 run tests/cli/tiny.json --out "$folder/gated" --set gates.perplexity=2
expect_error 'main seed 7: stopped by a gate: the held-out perplexity of the SFT model is [0-9.]+, above the gate.s 2; '
expect_error '^tiny: every run was stopped by a gate; the first: the held-out perplexity'
grep -q '"gate":.*"perplexity"' "$folder/gated/tiny/results.json" || complain "results.json should say which gate"
grep -q 'held-out perplexity of the SFT model is' "$folder/gated/tiny/report.html" || complain "the report should say why"
ls "$folder"/gated/stages | grep -q '^reward' && complain "nothing should run behind the gate"
expect_status 0 run tests/cli/tiny.json --out "$folder/gated"
cmp -s "$folder/gated/tiny/results.json" "$folder/runs/tiny/results.json" || complain "a gate should leave no trace"

# An arm that is added is all that is computed.
set -- --out "$folder/runs" --set name=grown
expect_status 0 run tests/cli/tiny.json "$@" --set 'ablate={"arms":{"a":{}},"seeds":[7]}'
touch "$folder/before"
expect_status 0 run tests/cli/tiny.json "$@" --set 'ablate={"arms":{"a":{},"b":{"ppo.steps":3}},"seeds":[7]}'
computed=$(find "$folder/runs/stages" -name stage.json -newer "$folder/before" | sed 's|.*/stages/\([a-z]*\)-.*|\1|' | sort | tr '\n' ' ')
[ "$computed" = "evaluate ppo " ] || complain "only the new arm's PPO and evaluation should be computed, not: $computed"
