#!/bin/sh
# usage: compile.sh LOG NVCC ARGUMENT...
# Runs nvcc and keeps all that it says in LOG, where tests/kernels/resources.sh reads what each kernel takes. Prints what is
# more than a statement of resources: errors and warnings.
log=$1
shift
"$@" -Xptxas -v >"$log" 2>&1
status=$?
grep -v '^ptxas info\|^    [0-9]* bytes stack frame' "$log" >&2
exit $status
