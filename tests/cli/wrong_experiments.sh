# A table of wrong experiment files and the one line that each prints, to the letter: two lines an entry, the file (with
# \n for a new line) and, behind "> ", the message with line and column. `run` and `check` say the same and write nothing.
. tests/cli/lib.sh
program=$(cd "$(dirname "$popalm")" && pwd)/$(basename "$popalm")
entries=0

# try COMMAND MESSAGE: in the folder of e.json, so that the message has no path that differs from machine to machine.
try() {
  last="popalm $1 $(cat "$folder/e.json")"
  status=0
  (cd "$folder" && "$program" "$1" e.json) >"$folder/out" 2>"$folder/err" </dev/null || status=$?
  [ "$status" = 2 ] || complain "status 2 expected"
  [ ! -s "$folder/out" ] || complain "nothing should go to stdout"
  [ "$(cat "$folder/err")" = "$2" ] || complain "expected: $2"
}

while IFS= read -r file && IFS= read -r message; do
  printf '%b\n' "$file" >"$folder/e.json"
  try run "${message#> }"
  try check "${message#> }"
  entries=$((entries + 1))
done <<'TABLE'
{"data": {"synth": {}}, "seed": 1,}
> e.json:1:34: a comma before '}'; remove it
{"data": {"synth": {}}\n "seed": 1}
> e.json:2:2: ',' or '}' is expected after a member, not '"'; is a comma missing?
{"data": {"synth": {}}, 'seed': 1}
> e.json:1:25: a key in double quotes is expected, not '''; write "key": value
{"data": {"synth": {}}, // the seed\n "seed": 1}
> e.json:1:25: JSON has no comments; remove it
{"data": {"synth": {}}, "seed": 1, "seed": 2}
> e.json:1:36: the key "seed" stands here for the second time; remove one of the two
{"data": {"synth": {}}, "seed": 007}
> e.json:1:33: a number cannot begin with 0; remove the zeros
{"data": {"synth": {}}, "name": "weibo}
> e.json:1:40: control character 0x0A in a string (is the closing quote missing?); write it as \n, \t or \u000a
{"data": {"synth": {}}}}
> e.json:1:24: text after the end of the value; remove it
{"data": {"synth": {}},\n "ppo": {"curiculum": null}}
> e.json:2:10: unknown key "ppo.curiculum"; did you mean "ppo.curriculum"?
{"data": {"synth": {}},\n "ppo": {"curriculum": {"pase": null}}}
> e.json:2:25: unknown key "ppo.curriculum.pase"; did you mean "ppo.curriculum.pace"?
{"data": {"synth": {}}, "learning_rate": 1e-5}
> e.json:1:25: unknown key "learning_rate"; use one of: $schema, extends, name, preset, seed, device, data, tokenizer, model, adapter, sft, reward, ppo, evaluate, memory, gates, checkpoint, ablate
{"data": {"synth": {}},\n\n  "lr": 1e-5}
> e.json:3:3: unknown key "lr"; did you mean "sft.lr"?
{"data": {"synth": {}}, "ppo": {"lr": "1e-5"}}
> e.json:1:39: "ppo.lr" is "1e-5"; it must be a number above 0, at most 1
{"data": {"synth": {}}, "ppo": {"steps": 10.5}}
> e.json:1:42: "ppo.steps" is 10.5; it must be a whole number from 1 to 100000000
{"data": {"synth": {}}, "ppo": {"sampling": {"top_p": 0}}}
> e.json:1:55: "ppo.sampling.top_p" is 0; it must be a number above 0, at most 1
{"data": {"synth": {}}, "ppo": {"curriculum": {"pace": {"kind": "quantil"}}}}
> e.json:1:65: "ppo.curriculum.pace.kind" is "quantil"; did you mean "quantile"? It must be "none", "reward_prob" or "quantile"
{"data": {"synth": {}}, "ppo": {"curriculum": {"pace": {"kind": "quantile", "q": "sqrt"}}}}
> e.json:1:82: "ppo.curriculum.pace.q" is "sqrt"; it must be "linear", "root", "exponential", "step" or "competence"
{"data": {"synth": {"flip": 1.5}}}
> e.json:1:29: "data.synth.flip" is 1.5; it must be a number from 0 to 1
{"data": {"train": "train.json"}}
> e.json:1:10: "data.dev" is missing; add it (popalm data converts files and makes pairs)
{"data": {"train": "gone.json", "dev": "gone.json", "pairs": "gone.json"}}
> e.json:1:20: "data.train": the file ./gone.json cannot be read; correct the path
{"data": {"synth": {}},\n "model": {"preset": "gpt2-tny"}}
> e.json:2:22: "model.preset" is "gpt2-tny"; did you mean "gpt2-tiny"?
{"data": {"synth": {}},\n "ppo": {"minibatch": 7, "curriculum": null}}
> e.json:2:23: "ppo.minibatch" 7 does not divide the 16 x 3 = 48 samples of a step; use 6 or 8
{"data": {"synth": {}}, "ppo": {"posts_per_step": 4,\n "samples_per_post": 3, "minibatch": 8}}
> e.json:2:38: ranking keeps 4 of 12 samples, fewer than "ppo.minibatch" (8), so every step would be skipped; raise "keep" or lower the minibatch
{"data": {"synth": {}}, "preset": "relesed"}
> e.json:1:35: "preset" is "relesed"; did you mean "released"? It must be "paper" or "released" or null
{"data": {"synth": {}}, "gates": {"reward_acuracy": 0.6}}
> e.json:1:35: unknown key "gates.reward_acuracy"; did you mean "gates.reward_accuracy"?
{"data": {"synth": {}}, "gates": {"ended": 50}}
> e.json:1:44: "gates.ended" is 50; it must be a number from 0 to 1
{"data": {"synth": {}}, "evaluate": {"replies": 5}}
> e.json:1:49: "evaluate.replies" is 5; it must be a rising list of 1 to 8 whole numbers from 1 to 1000
{"data": {"synth": {}},\n "ablate": {"arms": {"no pace": {"ppo.curriculum.pace": null}}}}
> e.json:2:22: "no pace" cannot name an arm; use letters, digits, '.', '_' and '-'
{"data": {"synth": {}},\n "ablate": {"arms": {"a": {"ppo.curriculum.pace": null}, "b": {"curriculum.rank": null}}}}
> e.json:2:64: unknown key "curriculum.rank"; did you mean "ppo.curriculum.rank"?
{"data": {"synth": {}},\n "ablate": {"arms": {"a": {}, "b": {"ppo": {"stpes": 3}}}}}
> e.json:2:45: unknown key "ppo.stpes"; did you mean "ppo.steps"?
{"data": {"synth": {}},\n "ablate": {"arms": {"cl-ppo": {}}, "baseline": "ppo"}}
> e.json:2:49: "ablate.baseline" is "ppo", which is no arm; did you mean "cl-ppo"?
{"data": {"synth": {}},\n "ablate": {"arms": {"cl-ppo": {}}, "seeds": 5}}
> e.json:2:46: "ablate.seeds" is 5; it must be a list of different whole numbers from 0
{"data": {"synth": {}},\n "ablate": {"arms": {"cl-ppo": {}}, "metric": "evaluate.oracle_populrity"}}
> e.json:2:47: "ablate.metric" is "evaluate.oracle_populrity", which no evaluation here has; did you mean "evaluate.oracle_popularity"?
{"data": {"synth": {}},\n "ablate": {"grid": {"ppo.curriculum.rank.keep": 0.5}}}
> e.json:2:50: "ppo.curriculum.rank.keep" of the grid needs a list of values; write [0.5, 1]
{"data": {"synth": {}},\n "ablate": {"grid": {"ppo.curriculum.rank.keep": [0.5, 2]}}}
> e.json:2:56: "ppo.curriculum.rank.keep" is 2; it must be a number above 0, at most 1
{"data": {"synth": {}},\n "ablate": {"grid": {"ppo.curriculum.pace.order": ["easy", "hrd"]}}}
> e.json:2:60: "ppo.curriculum.pace.order" is "hrd"; did you mean "hard"? It must be "easy", "hard" or "random"
{"extends": "base.jsn"}
> e.json:1:13: "extends": there is no file ./base.jsn; correct the path
TABLE
printf '{"data": {"synth": {}},\n "ablate": {"arms": {"a": {}, "b": {}}, "seeds": [%s]}}' "$(seq -s , 2049)" >"$folder/e.json"
try check 'e.json:2:50: 2 arms with 2049 seeds each are 4098 runs, more than 4096; split the experiment'
last="the table"
[ "$entries" -ge 30 ] || complain "30 entries expected, $entries there"
[ ! -e "$folder/runs" ] || complain "a refused experiment should leave nothing behind"
