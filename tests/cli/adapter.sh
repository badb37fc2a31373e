# Low-rank adapters through all stages: only the adapter is trained and saved, an export merges it, a resumed run gives the
# same bytes, mistakes are named.
. tests/cli/lib.sh
export OMP_NUM_THREADS=1

expect_status 0 run tests/cli/tiny.json --device cpu --out "$folder/base" --until sft
base=$(echo "$folder"/base/stages/sft-*)
adapted="--device cpu --set model.from=$base --set adapter.rank=4 --set adapter.dropout=0.1 --set adapter.targets=q,v,up --set sft.epochs=1 --set ppo.steps=3"
# shellcheck disable=SC2086 # words
expect_status 0 run tests/cli/tiny.json --out "$folder/a" $adapted
# shellcheck disable=SC2086
expect_status 0 run tests/cli/tiny.json --out "$folder/b" $adapted --set memory.recompute=true
cmp -s "$folder/a/tiny/results.json" "$folder/b/tiny/results.json" || complain "recomputed activations should give the same bytes"
for stage in sft reward ppo; do expect_part "$(echo "$folder"/a/stages/$stage-*/model.safetensors)" "$base/model.safetensors"; done
expect_status 0 generate "$folder/a/tiny" --post "a post" -n 1
expect_output '^1\.'
ppo=$(echo "$folder"/a/stages/ppo-*)
expect_status 0 export "$ppo" "$folder/hf"
expect_status 0 import "$folder/hf" "$folder/merged"
expect_status 0 generate "$folder/merged" --post "a post" -n 1
expect_output '^1\.'
whole=$(wc -c <"$base/model.safetensors")
[ "$(wc -c <"$folder/merged/model.safetensors")" -ge $((9 * whole / 10)) ] || complain "the merged model should be whole"

# A base in int8 through generate and an export, whose weights are the base's own.
# shellcheck disable=SC2086
expect_status 0 run tests/cli/tiny.json --out "$folder/int8" --until sft $adapted --set adapter.base=int8
reduced=$(echo "$folder"/int8/stages/sft-*)
grep -aq '"base\\*":\\*"int8' "$reduced/model.safetensors" || complain "the adapter's file should name its base's type"
expect_status 0 generate "$reduced" --post "a post" -n 1
expect_output '^1\.'
expect_status 0 export "$reduced" "$folder/hf8"
expect_wrong_usage 'adapter.base.*"int4".*"int8"' check tests/cli/tiny.json --set adapter.base=int4

expect_wrong_usage 'an adapter of "q" is not one of a whole .*c_attn' export "$ppo" "$folder/peft" --format peft
expect_wrong_usage 'is a whole model, not an adapter' export "$base" "$folder/peft" --format peft
[ ! -e "$folder/peft" ] || complain "a refused export should leave nothing"
expect_status 0 run tests/cli/tiny.json --out "$folder/whole" --until sft --device cpu --set model.from="$base" \
  --set adapter.rank=4 --set adapter.targets=qkv,down --set sft.epochs=1
expect_status 0 export "$(echo "$folder"/whole/stages/sft-*)" "$folder/peft" --format peft
grep -q '"attn.c_attn", "mlp.c_proj"' "$folder/peft/adapter_config.json" || complain "modules: $(cat "$folder/peft/adapter_config.json")"
grep -aq 'base_model.model.transformer.h.1.mlp.c_proj.lora_B.weight' "$folder/peft/adapter_model.safetensors" ||
  complain "tensors should have PEFT's names"

expect_wrong_usage 'adapter.rank is 4, but there is no "model.from"' check tests/cli/tiny.json --set adapter.rank=4
expect_wrong_usage 'adapter.targets: "w" is not a target; use qkv' check tests/cli/tiny.json --set model.from="$base" \
  --set adapter.rank=4 --set adapter.targets=q,w
expect_wrong_usage 'has no "gate"; use "up"' check tests/cli/tiny.json --set model.from="$base" \
  --set adapter.rank=4 --set adapter.targets=gate
expect_wrong_usage 'is an adapter itself' check tests/cli/tiny.json --set model.from="$ppo" --set adapter.rank=4

# an adapter as a start: its base's content is part of the key
cp -r "$ppo" "$folder/copy"
key() { expect_status 0 check tests/cli/tiny.json --set model.from="$folder/copy"; sed -n 's/^sft  *\([0-9a-f]*\) .*/\1/p' "$folder/out"; }
first=$(key)
printf 'x' | dd of="$base/model.safetensors" bs=1 seek=$((whole - 1)) conv=notrunc 2>/dev/null
[ "$first" != "$(key)" ] || complain "another base should be another stage"
