# A whole run: interrupted and resumed with another number of threads it gives the same bytes as undisturbed; a second
# run computes nothing; mistakes in an experiment are answered with the place.
. tests/cli/lib.sh
export OMP_NUM_THREADS=2

cat >"$folder/tiny.json" <<'JSON'
{
  "name": "tiny",
  "seed": 7,
  "device": "cpu",
  "data": {"synth": {"train_posts": 24, "dev_posts": 4, "replies_per_post": 3}, "max_post_tokens": 32, "max_reply_tokens": 12},
  "tokenizer": {"train": {"vocab_size": 300}},
  "sft": {"epochs": 12, "tokens_per_batch": 512, "replies_per_post": 1, "lr": 2e-3},
  "reward": {"epochs": 0.2, "pairs_per_batch": 4, "lr": 5e-4},
  "ppo": {"posts_per_step": 3, "samples_per_post": 2, "steps": 40, "minibatch": 2, "lr": 3e-4, "sample_every": 2,
          "sampling": {"temperature": 1, "top_p": 1}, "curriculum": {"pace": {"kind": "quantile", "q_start": 0.8}, "rank": null}},
  "evaluate": {"posts": 2, "replies": [1, 2]}
}
JSON

expect_status 0 check "$folder/tiny.json" --out "$folder/a"
expect_output '^sft '
expect_status 0 run "$folder/tiny.json" --out "$folder/a"
interrupt sft "$folder/b" "$folder/tiny.json"
interrupt ppo "$folder/b" "$folder/tiny.json"
export OMP_NUM_THREADS=1
expect_status 0 run "$folder/tiny.json" --out "$folder/b"
same=$(cd "$folder/a/stages" && find . -name '*.safetensors' -o -name 'evaluate.json' -o -name 'metrics.jsonl' -o -name 'samples.jsonl')
[ "$(echo "$same" | wc -l)" -ge 8 ] || complain "models, metrics and samples should be there: $same"
for file in $same; do
  cmp -s "$folder/a/stages/$file" "$folder/b/stages/$file" || complain "$file should not depend on threads and interruption"
done
[ -z "$(find "$folder/b" -name 'state.safetensors*')" ] || complain "states of finished stages should be removed"

cmp -s "$folder/a/tiny/results.json" "$folder/b/tiny/results.json" || complain "results.json should be the same bytes"
expect_status 0 run "$folder/tiny.json" --out "$folder/other" --set seed=8
if cmp -s "$folder/a/tiny/results.json" "$folder/other/tiny/results.json"; then complain "another seed should give other results"; fi

touch "$folder/before"
expect_status 0 run "$folder/tiny.json" --out "$folder/b"
[ -z "$(find "$folder/b/stages" -name '*.safetensors' -newer "$folder/before")" ] || complain "nothing should be trained again"
expect_status 0 check "$folder/tiny.json" --out "$folder/b"
expect_output '^ppo .* (cached|done)'
for file in experiment.json results.json; do
  [ -s "$folder/b/tiny/$file" ] || complain "$file should be there"
done

# Replies of the trained model: ranked, the same for the same seed, one line of JSON a post.
expect_status 0 generate "$folder/b/tiny" --post "a post" -n 3 --candidates 6
expect_output '^1\. .*\(reward -?[0-9]+\.[0-9]{3}\)$'
cp "$folder/out" "$folder/replies"
expect_status 0 generate "$folder/b/tiny/arms/main/seed-7" --post "a post" -n 3 --candidates 6
cmp -s "$folder/out" "$folder/replies" || complain "a run and its only arm should give the same replies"
expect_status 0 generate "$folder/b/tiny" --post "a post" -n 3 --candidates 6 --seed 2
if cmp -s "$folder/out" "$folder/replies"; then complain "another seed should give other replies"; fi
rewards=$(sed 's/.*(reward \(.*\))$/\1/' "$folder/replies")
[ "$rewards" = "$(echo "$rewards" | sort -gr)" ] || complain "replies should be ranked by reward"
printf 'one\n\ntwo\n' >"$folder/posts"
expect_status_reading "$folder/posts" 0 generate "$folder/b/tiny" -n 1 --json
[ "$(grep -c '^{"post":"\(one\|two\)","replies":\[{"text":' "$folder/out")" = 2 ] || complain "one line a post expected"
expect_wrong_usage 'has no trained model' generate "$folder" --post x
expect_wrong_usage 'the post is empty' generate "$folder/b/tiny" --post ""

# A model whose norms take the root of a negative number: the loss is NaN at once.
sed 's/"rope": false/"rope": false, "norm_epsilon": -1000000/' models/presets/gpt2-tiny.json >"$folder/nan.json"
expect_status 1 run "$folder/tiny.json" --out "$folder/nan" --set model.preset="$folder/nan.json"
expect_error 'sft: the loss is not a finite number at step 0; lower sft.lr'
[ -z "$(find "$folder/nan" -name stage.json -path '*/sft-*')" ] || complain "a failed stage should not count as finished"

sed 's/"posts_per_step"/"post_per_step"/' "$folder/tiny.json" >"$folder/typo.json"
expect_wrong_usage "^$folder/typo.json:9:[0-9]+: .*post_per_step.*posts_per_step" run "$folder/typo.json" --out "$folder/c"
expect_wrong_usage 'sft.lr' run "$folder/tiny.json" --out "$folder/c" --set sft.lr=fast
expect_wrong_usage "^$folder/none.json: No such file" check "$folder/none.json"
[ ! -e "$folder/c" ] || complain "an invalid experiment should leave nothing"
