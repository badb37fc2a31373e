# A reward model of another family, with a WordPiece vocabulary of its own beside the policy's byte BPE: trained on the
# pairs, it scores PPO's samples, the evaluation's replies and generate's by their texts, and all say the same.
. tests/cli/lib.sh
export OMP_NUM_THREADS=1

# The vocabulary: letters and the most frequent words of the world's training file.
expect_status 0 data synth --out "$folder/world" --train-posts 24 --dev-posts 4 --replies-per-post 3
mkdir "$folder/bert"
{
  printf '%s\n' '[PAD]' '[UNK]' '[CLS]' '[SEP]' '[MASK]' . , '?' '!' '#' "'"
  for letter in a b c d e f g h i j k l m n o p q r s t u v w x y z; do printf '%s\n##%s\n' $letter $letter; done
  tr 'A-Z' 'a-z' <"$folder/world/train.json" | grep -o '[a-z][a-z]*' | sort | uniq -c | sort -k1,1nr -k2 | awk 'length($2) > 1 { print $2 }' | head -n 150
} >"$folder/bert/vocab.txt"
echo '{"do_lower_case": true}' >"$folder/bert/tokenizer_config.json"

# A Llama form with that vocabulary, as a user would have it: popalm import of a folder with a vocab.txt.
expect_status 0 run tests/cli/tiny.json --out "$folder/other" --until sft --set tokenizer.path="$folder/bert" \
  --set model.preset=llama-tiny --set sft.epochs=1 --set data.max_post_tokens=48
expect_status 0 export "$(echo "$folder"/other/stages/sft-*)" "$folder/hf"
rm "$folder/hf/tokenizer.json"
cp "$folder/bert/"* "$folder/hf"
expect_status 0 import "$folder/hf" "$folder/judge"
expect_output 'imported .*\(llama: 2 layers, hidden 128'

own="--set reward.from=$folder/judge --set reward.max_post_tokens=48 --set reward.max_reply_tokens=20 --set reward.epochs=1"
greedy="--set evaluate.sampling.temperature=0 --set evaluate.replies=[1]"
# shellcheck disable=SC2086 # words
expect_status 0 run tests/cli/tiny.json --out "$folder/a" $own $greedy --set ppo.sample_every=1
reward=$(echo "$folder"/a/stages/reward-*) policy=$(echo "$folder"/a/stages/ppo-*)
cmp -s "$folder/judge/tokenizer.json" "$reward/tokenizer.json" || complain "the reward model should keep its own tokenizer"
cmp -s "$policy/tokenizer.json" "$reward/tokenizer.json" && complain "the policy should have another"
grep -q '"max_post_tokens":	48' "$reward/prompt.json" || complain "its own lengths: $(cat "$reward/prompt.json")"

# generate says of the evaluation's greedy replies what the evaluation says
for dev in 1 2; do
  row=$(sed -n "${dev}p" "$folder/a/tiny/arms/main/seed-7/evaluate-ppo/replies.jsonl")
  post=$(printf '%s' "$row" | sed 's/^{"post":"\([^"]*\)".*/\1/')
  expect_status 0 generate "$folder/a/tiny" --post "$post" -n 1 --candidates 1 --temperature 0 --json
  said=$(sed 's/.*"text":\("[^"]*"\),"reward":\([^,]*\),.*/\1 \2/' "$folder/out")
  want=$(printf '%s' "$row" | sed 's/.*"text":\("[^"]*"\),"reward":\([-0-9.e]*\).*/\1 \2/')
  [ "$said" = "$want" ] || complain "generate says $said, the evaluation $want"
done

# score says of PPO's samples what PPO was told
samples=$policy/samples.jsonl
sed 's/"reward":[^,]*,//' "$samples" >"$folder/rows"
expect_status 0 score "$reward" --lines "$folder/rows"
[ "$(wc -l <"$folder/out")" = "$(wc -l <"$samples")" ] || complain "a row a sample"
[ "$(sed 's/.*"reward_model":\([^,]*\),.*/\1/' "$folder/out")" = "$(sed 's/.*,"reward":\(.*\)}/\1/' "$folder/out")" ] ||
  complain "PPO's rewards should be those of the texts"

# the stage's key: what it reads, and not the SFT model, which it does not
keys() {
  # shellcheck disable=SC2086
  expect_status 0 check tests/cli/tiny.json --out "$folder/a" $greedy --set ppo.sample_every=1 "$@"
  sed -n 's/^reward  *\([0-9a-f]*\) .*/\1/p' "$folder/out"
}
# shellcheck disable=SC2086
key=$(keys $own) other=$(keys $own --set sft.epochs=1) instructed=$(keys $own --set data.instruction=x)
[ "$key" = "$other" ] || complain "another SFT model should leave the reward model as it is"
[ "$key" != "$instructed" ] || complain "the instruction is part of its input"
cp "$folder/judge/tokenizer.json" "$folder/kept.json"
sed 's/"##z"/"##Z"/' "$folder/kept.json" >"$folder/judge/tokenizer.json"
# shellcheck disable=SC2086
[ "$key" != "$(keys $own)" ] || complain "its tokenizer is part of its key"
cp "$folder/kept.json" "$folder/judge/tokenizer.json"
# shellcheck disable=SC2086
expect_status 0 check tests/cli/tiny.json $own
expect_output "^reward model $folder/judge: [0-9]+ parameters with a vocabulary of 2[0-9][0-9]$"

# an adapter of it: only that is saved, and its base, which is not the policy's, is found again
expect_status 0 run tests/cli/tiny.json --out "$folder/base" --until sft
base=$(echo "$folder"/base/stages/sft-*)
# shellcheck disable=SC2086
expect_status 0 run tests/cli/tiny.json --out "$folder/d" $own --set reward.adapter=true --set model.from="$base" --set adapter.rank=2 --set ppo.steps=2
expect_part "$(echo "$folder"/d/stages/reward-*)/model.safetensors" "$folder/judge/model.safetensors"
expect_status 0 generate "$folder/d/tiny" --post x -n 1
expect_output '\(reward '
# shellcheck disable=SC2086
expect_wrong_usage '"reward.adapter" is for a model that "reward.from" names' check tests/cli/tiny.json $own --set reward.adapter=true

# an untrained one of another form, with the policy's tokenizer, as critic too
expect_status 0 run tests/cli/tiny.json --out "$folder/b" --set reward.preset=llama-tiny --set ppo.critic=reward --set ppo.steps=2
expect_status 0 check tests/cli/tiny.json --set reward.preset=llama-tiny
expect_output '^reward model llama-tiny: [0-9]+ parameters with a vocabulary of 300$'

# and as critic where both have the same tokenizer
# shellcheck disable=SC2086
expect_status 0 run tests/cli/tiny.json --out "$folder/c" $own --set ppo.critic=reward --set ppo.steps=2 --set tokenizer.path="$folder/bert"

# shellcheck disable=SC2086
expect_wrong_usage '"ppo.critic" is "reward", but the reward model of "reward.from" has another tokenizer' check tests/cli/tiny.json $own --set ppo.critic=reward
# shellcheck disable=SC2086
expect_wrong_usage '"ppo.critic" is "reward", but the reward model of "reward.from" has another tokenizer' check tests/cli/tiny.json $own --set ppo.critic=reward \
  --set tokenizer.path="$policy/tokenizer.json"
# shellcheck disable=SC2086
expect_wrong_usage 'remove one of the two' check tests/cli/tiny.json $own --set reward.init=random
# shellcheck disable=SC2086
expect_wrong_usage 'remove one of the two' check tests/cli/tiny.json $own --set reward.preset=gpt2-tiny
# shellcheck disable=SC2086
expect_wrong_usage 'a post of 300 tokens with a reply of 20 does not fit the 256 positions of the reward model' \
  check tests/cli/tiny.json $own --set reward.max_post_tokens=300
expect_wrong_usage '"reward.from": the file .*/no/model.safetensors cannot be read' check tests/cli/tiny.json --set reward.from="$folder/no"
expect_wrong_usage '"reward.preset" is "lama-tiny"; did you mean "llama-tiny"' check tests/cli/tiny.json --set reward.preset=lama-tiny
rm "$folder/judge/tokenizer.json"
# shellcheck disable=SC2086
expect_wrong_usage '"reward.from": the file .*/judge/tokenizer.json cannot be read' check tests/cli/tiny.json $own
