# The commands are listed, each explains itself, and wrong usage is answered by one line and status 2.
. tests/cli/lib.sh

expect_status 0 --help
expect_output '^usage: popalm COMMAND'
expect_no_error
listed=$(sed -n 's/^  \([a-z][a-z]*\) .*/\1/p' "$folder/out")
[ -n "$listed" ] || complain "commands should be listed"

# explains_itself COMMAND [SUBCOMMAND]
explains_itself() {
  expect_status 0 "$@" --help
  expect_output "^usage: popalm $*"
  expect_output '^  --help '
  expect_no_error
  expect_wrong_usage "^popalm $*: unknown option --no-such-option" "$@" --no-such-option
  expect_wrong_usage 'did you mean --help' "$@" --hel
}

for command in $listed; do
  expect_status 0 help "$command"
  expect_output "^usage: popalm $command"
  if grep -q "^popalm $command SUBCOMMAND --help" "$folder/out"; then
    expect_wrong_usage "^popalm $command: unknown subcommand" "$command" nonesuch
    expect_wrong_usage "^popalm $command: no subcommand" "$command"
    expect_status 0 "$command" --help
    for subcommand in $(sed -n 's/^  \([a-z][a-z]*\) .*/\1/p' "$folder/out"); do
      explains_itself "$command" "$subcommand"
    done
  else
    explains_itself "$command"
  fi
done

expect_status 2
expect_error '^usage: popalm COMMAND'
expect_wrong_usage 'unknown command "devicse"; did you mean "devices"' devicse
expect_wrong_usage 'unknown command "xyzzyxyzzy"; popalm --help' xyzzyxyzzy
expect_wrong_usage 'unexpected argument' devices here

expect_status 0 --version
expect_output '^popalm [0-9]+\.[0-9]+\.[0-9]+ \(commit '
expect_status 0 devices
expect_output '^cpu: .*threads?, .*GiB'
expect_output 'OpenBLAS'

# An output that cannot be written is an error.
last="popalm --version >/dev/full"
status=0
"$popalm" --version >/dev/full 2>"$folder/err" || status=$?
[ "$status" = 1 ] || complain "status 1 expected"
expect_error 'could not be written'

# Without memory the program leaves by the ordinary way. (The address sanitizer needs more address space than this.)
if ! "$popalm" version | grep -q address; then
  last="popalm data synth without memory"
  status=0
  (ulimit -v 300000 && OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 exec "$popalm" data synth --train-posts 200000 \
    --replies-per-post 20 --out "$folder/world") >"$folder/out" 2>"$folder/err" || status=$?
  [ "$status" = 1 ] || complain "status 1 expected"
  expect_error '^popalm: out of memory for [0-9]+ bytes; use a smaller'
fi

if ! "$popalm" devices | grep -q '^cuda:[0-9]'; then
  expect_wrong_usage 'device "cuda"( is not known to this build|: there is none that can be used)' \
    run experiments/quickstart.json --device cuda --out "$folder/none"
fi
