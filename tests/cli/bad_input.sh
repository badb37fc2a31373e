# A wrong experiment is refused with status 2 and one line that says where, what and what to do; nothing is written.
. tests/cli/lib.sh

# refused PATTERN TEXT [OPTION...]: the experiment is TEXT.
refused() {
  pattern=$1
  printf '%s\n' "$2" >"$folder/e.json"
  shift 2
  for command in run check; do
    expect_wrong_usage "$pattern" $command "$folder/e.json" --out "$folder/runs" "$@"
  done
}

synth='"data": {"synth": {}}'
refused '/e\.json:2:1: there is no JSON here; write a value' ''
refused '/e\.json:1:23: a comma before .}.; remove it' "{$synth, }"
refused '/e\.json:2:2: unknown key "pp"; did you mean "ppo"\?' "{$synth,
 \"pp\": {}}"
refused '/e\.json:1:33: "seed" is -5; it must be a whole number from 0' "{$synth, \"seed\": -5}"
refused '/e\.json:1:1: there is no data; set "data.train"' '{}'
refused '/e\.json:1:20: "data.train": the file .*/gone\.json cannot be read; correct the path' \
  '{"data": {"train": "gone.json", "dev": "e.json", "pairs": "e.json"}}'
refused '^--set ppo.lamda=1: unknown key "ppo.lamda"; did you mean "ppo.lambda"\?$' "{$synth}" --set ppo.lamda=1
refused '^--set ppo.steps: the .=. is missing' "{$synth}" --set ppo.steps
refused '^"rewrad" is no stage; did you mean reward\?' "{$synth}" --until rewrad
refused '"device" is "gpu"; it must be' "{$synth}" --device gpu
refused 'does not fit the [0-9]* positions of model gpt2-tiny; lower' "{$synth}" --set data.max_post_tokens=5000 \
  --set sft.tokens_per_batch=6000
refused '/nosuch\.json' "{\"extends\": \"nosuch.json\"}"
[ ! -e "$folder/runs" ] || complain "a refused experiment should leave nothing behind"

expect_wrong_usage 'No such file' run "$folder/none.json"
expect_wrong_usage 'an argument is missing; usage' run
expect_wrong_usage 'unknown option --sett; did you mean --set\?' run --sett a=b

# Data that is wrong is found before anything is trained, at its line.
good='{"weibo": "a post", "resp": ["one", "two"], "like": [2, 1]}'
pair='{"weibo": "a post", "text_j": "one", "text_k": "two", "text_j_like": 2, "text_k_like": 1}'
printf '%s\n{"weibo": "a post", "resp": [}\n' "$good" >"$folder/train.json"
printf '%s\n' "$good" >"$folder/dev.json"
printf '%s\n' "$pair" >"$folder/pairs.json"
printf '{"data": {"train": "train.json", "dev": "dev.json", "pairs": "pairs.json"}, "device": "cpu"}' >"$folder/e.json"
expect_status 2 run "$folder/e.json" --out "$folder/runs"
expect_error '/train\.json:2:30: '

expect_status 0 check "$folder/e.json" --out "$folder/none"
expect_output '^sft .* to do'
[ ! -e "$folder/none" ] || complain "check should write nothing"

expect_status 0 schema
expect_output '"additionalProperties":.*false'
