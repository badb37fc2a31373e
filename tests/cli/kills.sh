# SIGKILL at random moments of a whole run, which is started again each time: in the end every model, metric and result is
# the same bytes as of a run that nobody disturbed. Now and then the newest checkpoint is damaged as well; the one before it
# is used. Five kills (two under a sanitizer); more with a second argument, as in:  sh tests/cli/kills.sh build/bin/popalm 50 [SEED]
. tests/cli/lib.sh
export OMP_NUM_THREADS=1
kills=${2:-5}
damages_tried='cut empty flip'
if "$popalm" version | grep -q address && [ -z "${2:-}" ]; then # ten times as slow, and nothing new
  kills=2
  damages_tried=flip
fi
seed=${3:-$(date +%s)}
echo "seed $seed (a third argument repeats it, as far as timing does)"

# draw N: sets $drawn to a whole number below N (Knuth's linear congruential generator, its upper bits).
state=$seed
draw() {
  state=$((state * 6364136223846793005 + 1442695040888963407))
  drawn=$((((state >> 33) & 1073741823) % $1))
}

# Words of a command, not a function: in the background the process itself must be killed, not a shell around it.
run="run tests/cli/tiny.json --set checkpoint.every_steps=1 --out"

# same_as_undisturbed FOLDER: every file that a run leaves but for times.
same_as_undisturbed() {
  (cd "$folder/a" && find . -type f ! -name 'stage.json' ! -name 'timing.json' ! -name 'report.html' ! -name 'events.*') |
    sort >"$folder/files"
  [ "$(wc -l <"$folder/files")" -ge 20 ] || complain "models, metrics and results should be there"
  while read -r file; do
    cmp -s "$folder/a/$file" "$1/$file" || complain "$file should not depend on kills"
  done <"$folder/files"
  left=$(cd "$1" && find . -name '*.tmp*' -o -name 'state.safetensors*')
  [ -z "$left" ] || complain "nothing should be left behind: $left"
}

# flip FILE AT: another value for the byte there.
flip() {
  byte=$(od -An -tu1 -j "$2" -N 1 "$1" | tr -d ' ')
  printf "\\$(printf %o $((byte ^ 1)))" | dd of="$1" bs=1 seek="$2" conv=notrunc 2>/dev/null
}

# damage FILE: cuts it or flips one of its bytes.
damage() {
  draw "$(stat -c %s "$1")"
  at=$drawn
  draw 2
  if [ "$drawn" = 0 ]; then truncate -s "$at" "$1"; else flip "$1" "$at"; fi
}

last="popalm run (undisturbed)"
started=$(date +%s%N)
"$popalm" $run "$folder/a" >"$folder/out" 2>"$folder/err" </dev/null || complain "status 0 expected"
lasts=$((($(date +%s%N) - started) / 1000000))

# ---- damaged checkpoints, one by one: refused by name, the one before is used, the result is the same ----
for damaged in $damages_tried; do
  last="popalm run (after: $damaged)"
  rm -rf "$folder/b"
  "$popalm" $run "$folder/b" >"$folder/out" 2>"$folder/err" </dev/null &
  process=$!
  while kill -0 $process 2>/dev/null && ! ls "$folder"/b/stages/ppo-*/state.safetensors.previous >/dev/null 2>&1; do sleep 0.005; done
  kill -KILL $process
  wait $process 2>/dev/null
  saved=$(ls "$folder"/b/stages/ppo-*/state.safetensors)
  [ -s "$saved" ] && [ -s "$saved.previous" ] || continue # killed between two renames
  case $damaged in
    cut) truncate -s 1000 "$saved" ;;
    empty) truncate -s 0 "$saved" ;;
    flip) flip "$saved" $(($(stat -c %s "$saved") - 100)) ;;
  esac
  "$popalm" $run "$folder/b" >"$folder/out" 2>"$folder/err" </dev/null || complain "status 0 expected"
  expect_error "^$saved: "
  expect_error "^The one before it is used: $saved.previous$"
  same_as_undisturbed "$folder/b"
done
rm -rf "$folder/b"

# ---- kills at random moments ----
done=0 damages=0 finished=0
while [ "$done" -lt "$kills" ]; do
  last="popalm run (kill $((done + 1)) of $kills)"
  "$popalm" $run "$folder/b" >"$folder/out" 2>"$folder/err" </dev/null &
  process=$!
  draw $((lasts * 2 / 3))
  sleep "$(awk -v ms="$drawn" 'BEGIN { print ms / 1000 }')"
  kill -KILL $process 2>/dev/null
  status=0
  wait $process 2>/dev/null || status=$?
  if [ "$status" = 137 ]; then
    done=$((done + 1))
  elif [ "$status" = 0 ]; then # the kill came too late
    finished=$((finished + 1))
    same_as_undisturbed "$folder/b"
    rm -rf "$folder/b"
  else
    complain "a run that is only killed should not fail by itself"
    break
  fi
  for saved in "$folder"/b/stages/*/state.safetensors; do
    draw 4
    if [ "$drawn" = 0 ] && [ -s "$saved" ] && [ -s "$saved.previous" ]; then
      damage "$saved"
      damages=$((damages + 1))
    fi
  done
done
last="popalm run (after $kills kills)"
status=0
"$popalm" $run "$folder/b" >"$folder/out" 2>"$folder/err" </dev/null || status=$?
[ "$status" = 0 ] || complain "status 0 expected"
same_as_undisturbed "$folder/b"
echo "$kills kills, $damages damaged checkpoints, $((finished + 1)) runs to the end"
