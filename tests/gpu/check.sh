#!/bin/sh
# The check on a machine with a GPU, one command:
#
#   sh tests/gpu/check.sh [BUILD] [--quick] [--out DIR] [--device cuda[:n]|cpu]
#
# BUILD (default: build) is a folder in which `ninja gpu_tests` was run. Needed are that folder and the sources, no network
# and no compiler. Steps do not stop each other; one that cannot run says why. Status 0: every step that could run passed.
# The report goes to DIR (default: docs/results/gpu) as <date>-<device>.md and .json; what the steps printed stays in
# BUILD/gpu-check. --quick shortens the experiments and the benchmark. --device cpu goes through the steps that need no GPU.
#
# To another machine: configure with -DPOPALM_NATIVE=OFF (and POPALM_CUDA_ARCH for its GPU), build gpu_tests, put the
# shared libraries that it may lack (`ldd build/bin/popalm`, and libcublasLt.so.13, libcublas.so.13, libcudnn*.so.9) into BUILD/bin/lib, and
# carry the sources and BUILD/bin; programs look for libraries in lib beside themselves.
set -u
root=$(cd -P "$(dirname "$0")/../.." && pwd)
build=build out=docs/results/gpu device=cuda quick=''
while [ $# -gt 0 ]; do
  case $1 in
    --quick) quick=yes ;;
    --out) out=${2:?--out needs a folder}; shift ;;
    --device) device=${2:?--device needs cuda, cuda:n or cpu}; shift ;;
    -*) echo "usage: sh tests/gpu/check.sh [BUILD] [--quick] [--out DIR] [--device cuda[:n]|cpu]" >&2; exit 2 ;;
    *) build=$1 ;;
  esac
  shift
done
case $build in /*) ;; *) [ -d "$build" ] && build=$(cd "$build" && pwd) || build=$root/$build ;; esac
case $out in /*) ;; *) out=$root/$out ;; esac
cd "$root" || exit 1
bin=$build/bin
popalm=$bin/popalm
for program in popalm gpu_test_model gpu_report; do
  if [ ! -x "$bin/$program" ]; then
    echo "check.sh: $bin/$program is missing; build it where there is a compiler: ninja -C $build gpu_tests" >&2
    exit 1
  fi
done
LD_LIBRARY_PATH=$bin/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
POPALM_TEST_DEVICE=$device
export LD_LIBRARY_PATH POPALM_TEST_DEVICE

name=$device
[ "$name" = cuda ] && name=cuda:0
described=$("$popalm" devices 2>/dev/null | sed -n "s/^$name: //p" | head -n 1)
if [ -z "$described" ]; then
  echo "check.sh: no GPU: popalm devices does not list $name (no driver, or a build without nvcc); nothing was checked" >&2
  exit 1
fi

work=$build/gpu-check
rm -rf "$work"
mkdir -p "$work" "$out" || exit 1
notes=$work/notes.tsv
failed=0 passed=0 skipped=0
started=$(date +%s)

fact() { printf 'fact\t%s\t%s\n' "$1" "$2" >>"$notes"; }

# note STEP VERDICT SECONDS DETAIL: to the report and the terminal
note() {
  detail=$(printf '%s' "$4" | tr '\t\n|' '  /')
  printf 'step\t%s\t%s\t%s\t%s\n' "$1" "$2" "$3" "$detail" >>"$notes"
  printf '%-34s %-8s %4ss  %s\n' "$1" "$2" "$3" "$detail"
}

cannot() {
  skipped=$((skipped + 1))
  note "$1" 'not run' 0 "$2"
}

# step NAME COMMAND...: passes if the command does. Its output goes to a log whose last line stands in the report.
step() {
  step_name=$1
  shift
  log=$work/$(printf '%s' "$step_name" | tr ' :/' '---').log
  began=$(date +%s)
  if "$@" >"$log" 2>&1 </dev/null; then
    passed=$((passed + 1))
    note "$step_name" passed $(($(date +%s) - began)) "$(tail -n 1 "$log" | cut -c1-160)"
  else
    code=$?
    failed=$((failed + 1))
    note "$step_name" FAILED $(($(date +%s) - began)) "status $code; $log"
    tail -n 12 "$log" | sed 's/^/    /'
    return 1
  fi
}

driver_version() {
  nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | head -n 1 | grep . ||
    sed -n 's/^NVRM version: *//p' /proc/driver/nvidia/version 2>/dev/null | grep . || echo none
}

kernel_tests() { ls "$bin"/gpu_test_kernel_* 2>/dev/null; }

run_kernel_tests() {
  if [ "$device" = cpu ]; then cannot 'kernel tests' 'they need a GPU'; return; fi
  if [ -z "$(kernel_tests)" ]; then cannot 'kernel tests' 'not in this build folder'; return; fi
  for test in $(kernel_tests); do step "${test##*/gpu_test_}" env POPALM_ATTENTION=hopper "$test"; done
}

find_sanitizer() {
  for tool in "$bin/compute-sanitizer" compute-sanitizer "${CUDA_HOME:-/usr/local/cuda}/bin/compute-sanitizer"; do
    if command -v "$tool" >/dev/null 2>&1; then command -v "$tool"; return; fi
  done
}

# sanitize TOOL TEST...
sanitize() {
  tool=$1
  shift
  for test; do
    step "$tool ${test##*/gpu_test_}" env POPALM_TEST_EXACT=1 POPALM_ATTENTION=hopper "$sanitizer" --tool "$tool" --error-exitcode 99 "$test"
  done
}

run_sanitizer() {
  if [ "$device" = cpu ]; then cannot compute-sanitizer 'it needs a GPU'; return; fi
  sanitizer=$(find_sanitizer)
  if [ -z "$sanitizer" ]; then cannot compute-sanitizer 'the tool is not on this machine'; return; fi
  # A program that opens the device and does nothing wrong: what fails here is the tool.
  if ! "$sanitizer" --error-exitcode 99 "$popalm" devices >"$work/sanitizer.log" 2>&1; then
    cannot compute-sanitizer "it does not run here: $(grep -m 1 -i 'error\|fail' "$work/sanitizer.log")"
    return
  fi
  # shellcheck disable=SC2046 # names without blanks
  sanitize memcheck $(kernel_tests)
  # shellcheck disable=SC2046
  sanitize racecheck $(kernel_tests | grep -v 'attention\|vocab\|linear\|sample') # those take too long under it
}

# experiment DEVICE FOLDER [quick]
experiment() {
  set -- "$popalm" run experiments/quickstart.json --device "$1" --out "$2" \
    --set model.preset="$root/models/presets/gpt2-tiny.json" ${3:+--set reward.epochs=0.5 --set ppo.steps=10 --set ablate.seeds='[1]'}
  "$@"
}

run_experiments() {
  step "quickstart on $device" experiment "$device" "$work/device" $quick
  device_run=$?
  step 'quickstart on the CPU' experiment cpu "$work/cpu" $quick
  cpu_run=$?
  if [ $device_run = 0 ] && [ $cpu_run = 0 ]; then
    step 'results of both' "$bin/gpu_report" compare "$work/cpu/quickstart/results.json" "$work/device/quickstart/results.json"
  else
    cannot 'results of both' 'a run failed'
  fi
}

same_bytes() {
  experiment "$device" "$work/once" quick && experiment "$device" "$work/twice" quick &&
    cmp "$work/once/quickstart/results.json" "$work/twice/quickstart/results.json" && echo 'results.json is the same'
}

# One rank through all of NCCL's path: shards, collectives on their own stream, the watch.
rank_run() {
  OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 mpirun -n 1 "$popalm" run experiments/quickstart.json \
    --device "$device" --out "$work/rank" --set model.preset="$root/models/presets/gpt2-tiny.json" \
    --set reward.epochs=0.5 --set ppo.steps=10 --set ablate.seeds='[1]' &&
    cmp "$work/once/quickstart/results.json" "$work/rank/quickstart/results.json" &&
    echo 'results.json is that of a run without MPI'
}

run_rank() {
  if ! command -v mpirun >/dev/null; then cannot 'one rank' 'there is no mpirun'; return; fi
  if [ ! -f "$bin/popalm_mpi.so" ]; then cannot 'one rank' 'built without MPI'; return; fi
  if [ ! -f "$work/once/quickstart/results.json" ]; then cannot 'one rank' 'there is no run to compare with'; return; fi
  step 'one rank, all collectives' rank_run
}

run_bench() {
  step bench env POPALM_ATTENTION=hopper "$popalm" bench --device "$device" --shape "$([ -n "$quick" ] && echo rlhf || echo all)" --json "$work/bench.json"
}

run_torch() {
  if [ "$device" = cpu ]; then cannot PyTorch 'it is compared on a GPU'; return; fi
  if ! python3 -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' >/dev/null 2>&1; then
    cannot PyTorch 'python3 cannot import torch with CUDA'
    return
  fi
  if [ ! -f "$work/bench.json" ]; then cannot PyTorch 'there is no benchmark to compare with'; return; fi
  step PyTorch python3 tests/gpu/torch_attention.py "$work/bench.json" "$work/torch.json"
}

fact date "$(date -u +%Y-%m-%dT%H:%M:%SZ)"
fact commit "$("$popalm" version)"
fact device "$described"
fact driver "$(driver_version)"
fact machine "$(uname -srm), $(getconf _NPROCESSORS_ONLN) processors"
[ -z "$quick" ] || fact quick 'shortened experiments and benchmark'

step devices "$popalm" devices
run_kernel_tests
run_sanitizer
step 'models on both' "$bin/gpu_test_model" cpu "$device" ${quick:+--short}
step 'models, Hopper attention' env POPALM_ATTENTION=hopper "$bin/gpu_test_model" cpu "$device" ${quick:+--short}
run_experiments
step 'the same run twice' same_bytes
run_rank
run_bench
run_torch

fact seconds $(($(date +%s) - started))
fact verdict "$passed passed, $failed failed, $skipped not run"
short=$(printf '%s' "$described" | cut -d, -f1 | tr 'A-Z ' 'a-z-' | tr -cd 'a-z0-9.-')
report=$out/$(date -u +%Y-%m-%d)-$short
"$bin/gpu_report" write "$notes" "$work/bench.json" "$report" || failed=$((failed + 1))
[ ! -f "$work/torch.json" ] || cp "$work/torch.json" "$report-torch.json"
echo "$passed passed, $failed failed, $skipped not run; $report.md"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
