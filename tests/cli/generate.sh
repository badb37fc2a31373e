# generate with posts as JSON lines, many at once, and one reply shown while it is drawn: the same replies whichever way,
# other keys kept to the byte, wrong lines named.
. tests/cli/lib.sh
export OMP_NUM_THREADS=1
expect_status 0 run tests/cli/tiny.json --out "$folder/runs"
run=$folder/runs/tiny

cat >"$folder/posts" <<'JSON'
{"post": "the first post", "id": 12345678901234567890, "x": {"a": [1.0, null, "}"]}}

{ "id":2 , "weibo": "今天\u4e0b雨 😀" }
  {"post":"the third","like":1e300}  
JSON
# many at once are as one at a time
for batch in 1 2 3 16; do
  expect_status 0 generate "$run" --lines "$folder/posts" -n 2 --candidates 5 --batch $batch
  expect_error '^3 posts, 15 replies sampled, [0-9.]+ replies/s$'
  cp "$folder/out" "$folder/batch-$batch"
  cmp -s "$folder/batch-1" "$folder/batch-$batch" || complain "a batch of $batch should give the same bytes"
done
[ "$(wc -l <"$folder/out")" = 3 ] || complain "a row a post"
expect_output '^\{"post": "the first post", "id": 12345678901234567890, "x": \{"a": \[1\.0, null, "\}"\]\},"replies":\[\{"text":".*,"logprob":[-0-9.e]*\}\]\}$'
expect_output '^\{ "id":2 , "weibo": "今天\\u4e0b雨 😀" ,"replies":\['
expect_output '^  \{"post":"the third","like":1e300,"replies":\['
expect_status 0 generate "$run" --post "the first post" -n 2 --candidates 5 --json
replies() { sed -n 's/.*"replies"://p' "$1" | head -n 1; }
[ "$(replies "$folder/out")" = "$(replies "$folder/batch-1")" ] || complain "a post alone should have the same replies"
printf 'the first post\n今天下雨 😀\n\nthe third\n' >"$folder/lines"
expect_status_reading "$folder/lines" 0 generate "$run" -n 2 --candidates 5 --json --batch 2
[ "$(sed 's/.*"replies"://' "$folder/out")" = "$(sed 's/.*"replies"://' "$folder/batch-1")" ] || complain "lines of text should have the same replies"

# a stream is the same line
expect_status 0 generate "$run" --post "the first post" -n 1 --candidates 1 --seed 3
cp "$folder/out" "$folder/whole"
expect_status 0 generate "$run" --post "the first post" --stream --seed 3
cmp -s "$folder/out" "$folder/whole" || complain "the stream should be the line: $(cat "$folder/whole")"
expect_output '^1\. .*  \(reward -?[0-9.]+\)$'

# wrong lines, after the answers to those before
wrong() {
  printf '%s\n' "$1" >"$folder/wrong"
  expect_status 2 generate "$run" --lines "$folder/wrong" -n 1
  expect_error "$2"
}
wrong '{"post": "a"}
{"psot": "b"}' '/wrong:2:1: "post" is missing; add it$'
[ "$(wc -l <"$folder/out")" = 1 ] || complain "the line before should be answered"
wrong '{"post": 3}' '/wrong:1:10: "post" must be a text$'
wrong '
{"a": 1, "post": ""}' '/wrong:2:18: "post" is empty; give a text$'
wrong '{"post": "a",}' '/wrong:1:13: a comma before .}.; remove it$'
wrong '["a"]' '/wrong:1:1: a row is an object; write one \{...\} a line$'
wrong '{"post": "a", "replies": []}' '/wrong:1:15: "replies" is there already; rename or remove it$'
wrong "$(printf '{"post": "\377"}')" '/wrong:1:11: byte 0xFF is not valid UTF-8'
expect_wrong_usage '"reply" is missing' score "$(echo "$folder"/runs/stages/reward-*)" --lines "$folder/posts"
expect_wrong_usage 'gone: No such file' generate "$run" --lines "$folder/gone"
expect_wrong_usage 'exclude each other' generate "$run" --lines "$folder/posts" --post x
expect_wrong_usage '--stream shows one reply' generate "$run" --post x --stream -n 2
expect_wrong_usage '--stream shows one reply' generate "$run" --lines "$folder/posts" --stream
printf 'a\nb\377\n' >"$folder/lines"
expect_status_reading "$folder/lines" 2 generate "$run" -n 1
expect_error '^standard input:2: the post is not UTF-8 text at byte 2; convert it$'
