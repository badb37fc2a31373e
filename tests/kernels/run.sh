# A whole run on the emulated CUDA device: close to the CPU's where rounding is all that differs, the same bytes under
# another schedule of the threads, and interrupted and resumed.
. tests/cli/lib.sh
export OMP_NUM_THREADS=1

cat >"$folder/model.json" <<'JSON'
{"hidden": 24, "layers": 2, "heads": 3, "kv_heads": 3, "head_dim": 8, "mlp": 40, "max_positions": 64,
 "norm": "layer", "rope": false, "activation": "gelu", "bias": true, "qkv_bias": true, "tied": true}
JSON
cat >"$folder/llama.json" <<'JSON'
{"hidden": 24, "layers": 1, "heads": 4, "kv_heads": 2, "head_dim": 16, "mlp": 48, "max_positions": 64,
 "norm": "rms", "rope": true, "activation": "swiglu", "bias": false, "qkv_bias": false, "qk_norm": true, "tied": false}
JSON
cat >"$folder/tiny.json" <<JSON
{
  "name": "tiny", "seed": 7,
  "data": {"synth": {"train_posts": 12, "dev_posts": 4, "replies_per_post": 3}, "max_post_tokens": 20, "max_reply_tokens": 10},
  "tokenizer": {"train": {"vocab_size": 290}},
  "model": {"preset": "$folder/model.json"},
  "sft": {"epochs": 4, "tokens_per_batch": 128, "replies_per_post": 1, "lr": 1e-2},
  "reward": {"epochs": 0.3, "pairs_per_batch": 4, "lr": 1e-3},
  "ppo": {"posts_per_step": 3, "samples_per_post": 2, "steps": 3, "minibatch": 2, "lr": 3e-4, "sample_every": 2,
          "sampling": {"temperature": 1, "top_p": 0.9}, "curriculum": {"pace": null, "rank": null}},
  "evaluate": {"posts": 2, "replies": [1, 2]}
}
JSON

# last_value FOLDER STAGE METRIC: of the stage's last step
last_value() { sed -n "s/.*\"$3\": *\([-0-9.e+]*\).*/\1/p" "$1"/stages/"$2"-*/metrics.jsonl | tail -n 1; }

# close_to A B TOLERANCE WHAT
close_to() {
  awk -v a="$1" -v b="$2" -v t="$3" 'BEGIN { d = a - b; if (d < 0) d = -d; m = b < 0 ? -b : b; exit !(a != "" && b != "" && d <= t * m) }' ||
    complain "$4 is $1 and should be near $2"
}

# on_both FOLDER OPTION...: the same experiment on both devices. Until PPO both see the same data.
on_both() {
  out=$1
  shift
  expect_status 0 run "$folder/tiny.json" --out "$out-cpu" --device cpu "$@"
  expect_status 0 run "$folder/tiny.json" --out "$out-cuda" --device cuda "$@"
  for metric in loss dev_loss grad_norm; do
    close_to "$(last_value "$out-cuda" sft $metric)" "$(last_value "$out-cpu" sft $metric)" 0.05 "sft $metric"
  done
  close_to "$(last_value "$out-cuda" reward loss)" "$(last_value "$out-cpu" reward loss)" 0.05 "reward loss"
  for metric in kl policy_loss value_loss entropy; do
    [ -n "$(last_value "$out-cuda" ppo $metric)" ] || complain "ppo $metric should be a number"
  done
}

on_both "$folder/gpt2"
export POPALM_EMULATOR_SCHEDULE=5
on_both "$folder/llama" --set model.preset="$folder/llama.json"
on_both "$folder/adapter" --set model.from="$(echo "$folder"/gpt2-cpu/stages/sft-*)" --set adapter.rank=4 \
  --set adapter.targets=q,v,up,down --set memory.recompute=true
on_both "$folder/prefix" --set model.from="$(echo "$folder"/llama-cpu/stages/sft-*)" --set adapter.prefix_tokens=5 \
  --set sft.lr=0.1
on_both "$folder/int8" --set model.from="$(echo "$folder"/gpt2-cpu/stages/sft-*)" --set adapter.rank=4 --set adapter.base=int8

# What the device took is what was stated, but for the product library's own memory, which the emulator has not.
for marker in "$folder"/gpt2-cuda/stages/reward-*/stage.json "$folder"/*-cuda/stages/ppo-*/stage.json; do
  peak=$(sed -n 's/.*"device_peak":[^0-9]*\([0-9]*\).*/\1/p' "$marker")
  stated=$(sed -n 's/.*"device_stated":[^0-9]*\([0-9]*\).*/\1/p' "$marker")
  close_to "$((stated - 33554436))" "$peak" 0.1 "stated memory ($marker)"
done

expect_status 0 run "$folder/tiny.json" --out "$folder/other" --device cuda
cmp -s "$folder/gpt2-cuda/tiny/results.json" "$folder/other/tiny/results.json" ||
  complain "results.json should not depend on the order of the threads"

interrupt sft "$folder/again" "$folder/tiny.json" --device cuda
expect_status 0 run "$folder/tiny.json" --out "$folder/again" --device cuda
cmp -s "$folder/gpt2-cuda/tiny/results.json" "$folder/again/tiny/results.json" ||
  complain "results.json should be the same bytes after an interruption"
# Two ranks of bf16 with their optimizer states in shards, near one; and one rank of them the same bytes.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
if [ -f "$(dirname "$popalm")/popalm_mpi.so" ] && mpirun --oversubscribe -n 2 true >/dev/null 2>&1; then
  for ranks in 1 2; do
    last="mpirun -n $ranks popalm run --until sft"
    ASAN_OPTIONS="${ASAN_OPTIONS:+$ASAN_OPTIONS:}detect_leaks=0" mpirun --oversubscribe -n $ranks "$popalm" run \
      "$folder/tiny.json" --out "$folder/ranks$ranks" --device cuda --until sft >"$folder/out" 2>"$folder/err" </dev/null ||
      complain "status 0 expected"
  done
  cmp -s "$folder"/other/stages/sft-*/model.safetensors "$folder"/ranks1/stages/sft-*/model.safetensors ||
    complain "a model trained on one rank should be the same bytes"
  for metric in loss dev_loss grad_norm; do
    close_to "$(last_value "$folder/ranks2" sft $metric)" "$(last_value "$folder/other" sft $metric)" 0.02 "sft $metric"
  done
fi
expect_status 0 devices
expect_output '^cuda:0: the emulator of the tests'
