# Sourced by the scripts of this folder, each of which is run from the root with the binary's path as its argument:
#   . tests/cli/lib.sh
#   expect_status 0 devices
#   expect_output 'cpu: '
# Every expectation is about the last command run. The script fails at its end if any expectation did.
popalm=$1
folder=$(mktemp -d)
failures=0
status=0
trap 'code=$?; rm -rf "$folder"; [ "$failures" = 0 ] || exit 1; exit $code' EXIT

complain() {
  failures=$((failures + 1))
  echo "FAILED: $last"
  echo "  $1"
  echo "  status $status; its output:"
  sed 's/^/    /' "$folder/out" | head -n 20
  echo "  its errors:"
  sed 's/^/    /' "$folder/err" | head -n 20
}

# expect_status STATUS ARGUMENT...: runs popalm, which finds its standard input empty.
expect_status() { expect_status_reading /dev/null "$@"; }

# expect_status_reading FILE STATUS ARGUMENT...: runs popalm with the file as its standard input.
expect_status_reading() {
  input=$1 expected=$2
  shift 2
  last="popalm $*"
  status=0
  "$popalm" "$@" >"$folder/out" 2>"$folder/err" <"$input" || status=$?
  [ "$status" = "$expected" ] || complain "status $expected expected"
}

# Extended regular expressions, searched in what went to stdout and stderr.
expect_output() { grep -Eq -e "$1" "$folder/out" || complain "output should match: $1"; }
expect_error() { grep -Eq -e "$1" "$folder/err" || complain "errors should match: $1"; }
expect_no_error() { [ ! -s "$folder/err" ] || complain "nothing should go to stderr"; }

# Wrong usage: status 2, nothing on stdout, one line on stderr that matches.
expect_wrong_usage() {
  pattern=$1
  shift
  expect_status 2 "$@"
  [ ! -s "$folder/out" ] || complain "nothing should go to stdout"
  [ "$(wc -l <"$folder/err")" = 1 ] || complain "one line of error expected"
  expect_error "$pattern"
}

# expect_part FILE WHOLE: what was trained beside the model WHOLE is in FILE alone, less than a tenth of it.
expect_part() {
  part=$(wc -c <"$1") whole=$(wc -c <"$2")
  [ -n "$part" ] && [ $((10 * part)) -lt "$whole" ] || complain "$1 should hold what was trained alone ($part of $whole bytes)"
}

# interrupt STAGE OUT EXPERIMENT [OPTION...]: starts a run into OUT with a checkpoint every step and sends SIGINT once the
# stage has saved one. The stage must have so many steps that it does not end between its first checkpoint and the
# signal, also on a fast or busy machine.
interrupt() {
  stage=$1 out=$2
  shift 2
  last="popalm run (interrupted in $stage)"
  # a shell's background command ignores SIGINT; env restores it
  env --default-signal=INT "$popalm" run "$@" --out "$out" --set checkpoint.every_steps=1 \
    >"$folder/out" 2>"$folder/err" </dev/null &
  process=$!
  while kill -0 $process 2>/dev/null && ! ls "$out"/stages/"$stage"-*/state.safetensors >/dev/null 2>&1; do sleep 0.02; done
  kill -INT $process 2>/dev/null || complain "the run ended before it could be interrupted"
  status=0
  wait $process || status=$?
  [ "$status" = 130 ] || complain "status 130 expected"
  expect_error 'interrupted at step [0-9]+, after saving; the same command goes on from there'
}
