# popalm data: a synthetic world is made, audited, paired and converted; wrong usage is told in one line.
. tests/cli/lib.sh

expect_status 0 data --help
expect_output '^usage: popalm data'
for subcommand in synth stats pairs convert; do
  expect_status 0 data "$subcommand" --help
  expect_output "^usage: popalm data $subcommand"
  expect_no_error
  expect_wrong_usage "^popalm data $subcommand: unknown option --no-such-option" data "$subcommand" --no-such-option
done
expect_wrong_usage 'no subcommand' data
expect_wrong_usage 'unknown subcommand stast; did you mean stats' data stast
expect_wrong_usage 'argument is missing' data stats
expect_wrong_usage 'out is missing' data synth
expect_wrong_usage 'not a whole number' data synth --out "$folder/w" --train-posts many
expect_wrong_usage 'not a number between 0 and 1' data synth --out "$folder/w" --flip 2

# The same settings give the same bytes, another seed gives others.
for name in one two; do
  expect_status 0 data synth --out "$folder/$name" --train-posts 30 --dev-posts 10 --seed 7
  expect_output '^wrote 30 training and 10 dev posts'
done
expect_status 0 data synth --out "$folder/three" --train-posts 30 --dev-posts 10 --seed 8
for file in train.json dev.json pairs.json world.json; do
  cmp -s "$folder/one/$file" "$folder/two/$file" || complain "$file should repeat"
done
if cmp -s "$folder/one/train.json" "$folder/three/train.json"; then complain "another seed should give another world"; fi

expect_status 0 data stats "$folder/one/train.json" "$folder/one/dev.json" "$folder/one/pairs.json"
expect_output 'train.json: posts, 30 lines'
expect_output 'pairs.json: pairs, '
expect_output 'list the less liked reply first'
expect_status 0 data stats --json "$folder/one/train.json"
expect_output '"kind":	"posts"'

printf '{"weibo": "p", "resp": ["a", "b"], "like": [9, 1]}\n' >"$folder/liked.json"
expect_status 0 data pairs "$folder/liked.json" --out "$folder/made.json"
expect_output '^wrote 1 pairs from 1 posts'
expect_status 0 data stats "$folder/made.json"
expect_output 'No defects found'
expect_wrong_usage 'differ enough in likes; lower --min-ratio' data pairs "$folder/liked.json" --out "$folder/no.json" --min-ratio 50
[ ! -e "$folder/no.json" ] || complain "nothing should be written after an error"
expect_wrong_usage 'made.json:1:1: key "resp" is missing; this is a file of pairs' data pairs "$folder/made.json" --out "$folder/no.json"

printf 'title,answer,votes\r\n"p, q",yes,3\r\n"p, q",no,5\r\n' >"$folder/table.csv"
expect_status 0 data convert "$folder/table.csv" --out "$folder/table.json" --like-key votes
expect_output '^wrote 1 posts with 2 replies'
[ "$(cat "$folder/table.json")" = '{"weibo": "p, q", "resp": ["no", "yes"], "like": [5, 3]}' ] || complain "rows should be joined and ordered"
expect_wrong_usage 'nothing is called "vote"; did you mean "votes"' data convert "$folder/table.csv" --out "$folder/no.json" --like-key vote
expect_wrong_usage 'table.csv:1:' data stats "$folder/table.csv"
