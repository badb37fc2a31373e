# Prefix tuning through all stages: only the prefix is trained and saved, alone or beside low-rank adapters and on a base in
# int8; recomputed and resumed runs give the same bytes; no export merges it; mistakes are named.
. tests/cli/lib.sh
export OMP_NUM_THREADS=1

expect_status 0 run tests/cli/tiny.json --device cpu --out "$folder/base" --until sft
base=$(echo "$folder"/base/stages/sft-*)
tuned="--device cpu --set model.from=$base --set adapter.prefix_tokens=5 --set sft.epochs=1 --set sft.lr=0.1 --set ppo.steps=3"
# shellcheck disable=SC2086 # words
expect_status 0 run tests/cli/tiny.json --out "$folder/a" $tuned
# shellcheck disable=SC2086
expect_status 0 run tests/cli/tiny.json --out "$folder/b" $tuned --set memory.recompute=true
cmp -s "$folder/a/tiny/results.json" "$folder/b/tiny/results.json" || complain "recomputed activations should give the same bytes"
# shellcheck disable=SC2086
interrupt ppo "$folder/c" tests/cli/tiny.json $tuned --set ppo.steps=40
# shellcheck disable=SC2086
expect_status 0 run tests/cli/tiny.json --out "$folder/c" $tuned --set ppo.steps=40
# shellcheck disable=SC2086
expect_status 0 run tests/cli/tiny.json --out "$folder/d" $tuned --set ppo.steps=40
cmp -s "$folder/c/tiny/results.json" "$folder/d/tiny/results.json" || complain "a resumed run should give the same bytes"
for stage in sft reward ppo; do expect_part "$(echo "$folder"/a/stages/$stage-*/model.safetensors)" "$base/model.safetensors"; done
expect_status 0 generate "$folder/a/tiny" --post "a post" -n 1
expect_output '^1\.'

# what a sample's tokens cost when they were drawn and when they are learned from: a KL of 0 before the first update
first=$(sed -n '1s/.*"kl": *\([-0-9.e]*\).*/\1/p' "$folder"/a/stages/ppo-*/metrics.jsonl)
[ "$first" = 0 ] || complain "the reference should have the policy's prefix: kl $first"
old=$(sed -n '1s/.*"approx_kl": *\([-0-9.e]*\).*/\1/p' "$folder"/a/stages/ppo-*/metrics.jsonl)
awk -v kl="$old" 'BEGIN { exit !(kl != "" && kl < 1e-3 && kl > -1e-3) }' || complain "decoding and training should agree: approx_kl $old"

# shellcheck disable=SC2086
expect_status 0 run tests/cli/tiny.json --out "$folder/both" $tuned --set adapter.rank=2 --set adapter.base=int8
# shellcheck disable=SC2086
expect_status 0 check tests/cli/tiny.json $tuned
expect_output 'parameters with a vocabulary'

ppo=$(echo "$folder"/a/stages/ppo-*)
expect_wrong_usage 'no weights can hold a prefix; export it alone, with --format peft' export "$ppo" "$folder/hf"
expect_wrong_usage 'no weights can hold a prefix' export "$ppo" "$folder/model.gguf"
[ ! -e "$folder/hf" ] && [ ! -e "$folder/model.gguf" ] || complain "a refused export should leave nothing"
expect_wrong_usage 'low-rank adapters and a prefix, which PEFT cannot have at once; train one of them alone' \
  export "$(echo "$folder"/both/stages/sft-*)" "$folder/peft" --format peft
expect_status 0 export "$ppo" "$folder/peft" --format peft
grep -q '"PREFIX_TUNING"' "$folder/peft/adapter_config.json" || complain "the kind: $(cat "$folder/peft/adapter_config.json")"
grep -aq '"prompt_embeddings":{"dtype":"F32","shape":\[5,512\]' "$folder/peft/adapter_model.safetensors" ||
  complain "the prefix should be one tensor of PEFT's name"

expect_wrong_usage 'adapter.prefix_tokens is 5, but there is no "model.from"' check tests/cli/tiny.json --set adapter.prefix_tokens=5
expect_wrong_usage 'is an adapter itself; name the model that it adapts' check tests/cli/tiny.json --set model.from="$ppo" \
  --set adapter.prefix_tokens=5
expect_wrong_usage 'behind a prefix of 250 does not fit the 256 positions .* or "adapter.prefix_tokens"' check tests/cli/tiny.json \
  --set model.from="$base" --set adapter.prefix_tokens=250
