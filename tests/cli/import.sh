# A trained model goes out as a Hugging Face folder and as a GGUF file, comes in again with its tokenizer, answers the
# same, and an experiment starts from it; what is wrong with a source is answered in one line.
. tests/cli/lib.sh
export OMP_NUM_THREADS=2

cat >"$folder/tiny.json" <<'JSON'
{
  "name": "tiny",
  "device": "cpu",
  "data": {"synth": {"train_posts": 24, "dev_posts": 4, "replies_per_post": 3}, "max_post_tokens": 32, "max_reply_tokens": 12},
  "tokenizer": {"train": {"vocab_size": 300}},
  "model": {"preset": "llama-tiny"},
  "sft": {"epochs": 6, "tokens_per_batch": 512, "lr": 2e-3}
}
JSON
expect_status 0 run "$folder/tiny.json" --out "$folder/runs" --until sft
sft=$(echo "$folder"/runs/stages/sft-*)

# out and in, both ways, without loss
expect_status 0 export "$sft" "$folder/hf"
expect_output 'exported .*\(llama\) to'
expect_status 0 import "$folder/hf" "$folder/from-hf"
expect_output 'imported .*\(llama: 2 layers, hidden 128, 4 heads, vocabulary 300, context 256\)'
expect_status 0 export "$sft" "$folder/model.gguf" --type f32
expect_status 0 import "$folder/model.gguf" "$folder/from-gguf"
for from in hf gguf; do
  expect_status 0 generate "$folder/from-$from" --post "hello" -n 1 --temperature 0
  cp "$folder/out" "$folder/answer-$from"
done
cmp -s "$folder/from-hf/model.safetensors" "$folder/from-gguf/model.safetensors" || complain "both ways should give the same bytes"
cmp -s "$folder/answer-hf" "$folder/answer-gguf" || complain "both should answer the same"
expect_status 0 export "$folder/from-hf" "$folder/model-q8.gguf" --type q8_0
expect_status 0 import "$folder/model-q8.gguf" "$folder/from-q8"

# an experiment starts from it: the loss goes on where it was, and a changed model is another stage
first_loss() { sed -n '1s/.*"loss":\([0-9.]*\).*/\1/p' "$1/metrics.jsonl"; }
last_loss() { sed -n '$s/.*"loss":\([0-9.]*\).*/\1/p' "$1/metrics.jsonl"; }
expect_status 0 run "$folder/tiny.json" --out "$folder/more" --until sft --set model.from="$folder/from-gguf" --set sft.epochs=1
more=$(echo "$folder"/more/stages/sft-*)
awk "BEGIN { exit !($(first_loss "$more") < 1.2 * $(last_loss "$sft") && $(first_loss "$more") < 0.8 * $(first_loss "$sft")) }" ||
  complain "the loss should go on: $(first_loss "$sft") to $(last_loss "$sft"), then $(first_loss "$more")"
cp "$folder/from-q8/model.safetensors" "$folder/from-gguf/model.safetensors"
expect_status 0 run "$folder/tiny.json" --out "$folder/more" --until sft --set model.from="$folder/from-gguf" --set sft.epochs=1
[ "$(ls -d "$folder"/more/stages/sft-* | wc -l)" = 2 ] || complain "another content should be another stage"
expect_status 0 check "$folder/tiny.json" --out "$folder/more" --set model.from="$folder/from-gguf"
expect_output "model $folder/from-gguf: [0-9]+ parameters with a vocabulary of 300"

# one line each for what does not go
expect_wrong_usage 'has a model.safetensors already; choose another folder' import "$folder/hf" "$folder/from-hf"
expect_wrong_usage 'config.json' import "$folder/runs" "$folder/no"
expect_wrong_usage 'does not begin with GGUF' import "$folder/tiny.json" "$folder/no"
expect_wrong_usage 'No such file' import "$folder/gone" "$folder/no"
expect_wrong_usage 'use f32, f16 or bf16' export "$sft" "$folder/no" --type q8_0
expect_wrong_usage 'use hf, gguf or peft' export "$sft" "$folder/no" --format onnx
[ ! -e "$folder/no" ] || complain "nothing should be written"
for size in 4 100 1000 20000; do
  head -c $size tests/fixtures/models/smollm2.gguf >"$folder/cut.gguf"
  expect_wrong_usage 'cut.gguf: offset [0-9]+: .*use another copy' import "$folder/cut.gguf" "$folder/no"
done
