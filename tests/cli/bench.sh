# popalm bench from outside: the list, the table, the file, and wrong usage.
. tests/cli/lib.sh
export OMP_WAIT_POLICY=passive

expect_status 0 bench --list
expect_output '^  attention_backward '
expect_output '^  rlhf '
expect_no_error

expect_status 0 bench norm reward_head --shape tiny --repeat 2 --device cpu --json "$folder/bench.json"
expect_output '^copy [0-9.]+ GB/s'
expect_output '^norm +tiny .*%'
expect_output '^reward_head +tiny .*%'
grep -q '"kernel":.*"norm"' "$folder/bench.json" || complain "the file should hold the rows"

expect_wrong_usage '^popalm bench: unknown kernel atention; did you mean attention' bench atention
expect_wrong_usage '^popalm bench: --shape lon is not known; did you mean long' bench --shape lon
expect_wrong_usage 'not a whole number between 1 and 1000' bench --repeat 0
expect_wrong_usage 'device "gpu" is not known' bench --device gpu
expect_status 1 bench norm --shape tiny --repeat 1 --device cpu --json "$folder/no/such/folder/bench.json"
expect_error 'no/such/folder'
