# popalm check states what a stage will take, the run measures it: both agree within 10%, on the device and for the
# whole program, also with a frozen base in bf16 and int8. A model that is only described can be asked about too.
. tests/cli/lib.sh
export OMP_NUM_THREADS=2
# A sanitizer's own memory is no part of the statement.
expect_status 0 version
program=1
grep -Eq 'address|thread' "$folder/out" && program=0

# Texts are longer than what is taken of them, and no post has two samples, so that batches are full.
cat >"$folder/middle.json" <<'JSON'
{
  "name": "middle", "seed": 3, "device": "cpu",
  "data": {"synth": {"train_posts": 40, "dev_posts": 6, "replies_per_post": 3}, "max_post_tokens": 10, "max_reply_tokens": 8},
  "tokenizer": {"train": {"vocab_size": 400}},
  "model": {"preset": "gpt2-6m"},
  "sft": {"epochs": 0.7, "tokens_per_batch": 1024},
  "reward": {"epochs": 0.2, "pairs_per_batch": 32},
  "ppo": {"posts_per_step": 32, "samples_per_post": 1, "steps": 1, "minibatch": 32, "critic": "reward",
          "sampling": {"temperature": 1, "top_p": 1}, "curriculum": null},
  "evaluate": {"posts": 6, "replies": [1, 6]}
}
JSON

# agrees STAGE STATED MEASURED WHAT
agrees() {
  awk -v a="$2" -v b="$3" 'BEGIN { d = a - b; if (d < 0) d = -d; exit !(b > 0 && d <= 0.1 * b) }' ||
    complain "$1: $2 MiB stated for the $4, $3 measured"
}

# stated_as_measured STAGES OPTION...: runs the experiment, then compares the columns of the table.
stated_as_measured() {
  stages=$1
  shift
  expect_status 0 run "$folder/middle.json" --out "$folder/runs" "$@"
  expect_status 0 check "$folder/middle.json" --out "$folder/runs" "$@"
  for stage in $stages; do
    # shellcheck disable=SC2046 # words
    set -- "$stage" $(awk -v s="$stage" '$1 == s && NF == 10 { print $7, $8, $9, $10 }' "$folder/out")
    [ $# = 5 ] || { complain "$stage should have four figures"; return; }
    agrees "$1" "$2" "$4" device
    [ $program = 0 ] || agrees "$1" "$3" "$5" program
  done
}

stated_as_measured "sft reward evaluate-sft ppo evaluate-ppo"
base=$(echo "$folder"/runs/stages/sft-*)
for type in bf16 int8; do
  stated_as_measured sft --until sft --set model.from="$base" --set adapter.rank=4 --set adapter.base=$type \
    --set memory.recompute=true
done
stated_as_measured sft --until sft --set model.from="$base" --set adapter.prefix_tokens=16

# One base for every model of a stage: what it stands in decides its size.
base_of() { awk '$1 == "ppo" && $2 ~ /[.]/ { print $2 }' "$folder/out"; }
expect_status 0 check "$folder/middle.json" --out "$folder/runs" --set model.from="$base" --set adapter.rank=4 \
  --set adapter.base=int8
size=$(base_of)
for type in bf16 native; do
  expect_status 0 check "$folder/middle.json" --out "$folder/runs" --set model.from="$base" --set adapter.rank=4 \
    --set adapter.base=$type
  awk -v a="$size" -v b="$(base_of)" 'BEGIN { exit !(b > 1.7 * a && b < 2.1 * a) }' ||
    complain "the base should take about twice as much in $type: $size, $(base_of)"
  size=$(base_of)
done

# A model of which there is only a description, on a device that need not be here.
set -- check "$folder/middle.json" --memory-of llama-7b --set adapter.rank=8 --set tokenizer.train.vocab_size=32000
expect_status 0 "$@" --memory-on cuda --set adapter.base=int8
expect_output '^model llama-7b: 67[0-9]{8} parameters with a vocabulary of 32000$'
expect_output '^memory, MiB: of the GPU, of the program on the host$'
expect_output '^sft +6828\.[0-9] '
expect_status 0 "$@" --memory-on cpu
expect_output '^sft +257[0-9]{2}\.[0-9] '
expect_wrong_usage 'memory-on tpu: not a kind of device; use cpu or cuda' "$@" --memory-on tpu
expect_wrong_usage 'model.preset "llama-70b" is not in' check "$folder/middle.json" --memory-of llama-70b
