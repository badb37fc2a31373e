#!/bin/sh
# Kernel files say everything that plain CUDA C++ has no word for through cuda/primitives.cuh, or the host-run tests would
# not see it.
cd "$(dirname "$0")/../.." || exit 1
found=$(grep -nE '(^|[^_[:alnum:]])(asm|__asm__)([^_[:alnum:]]|$)|<<<|__shared__|__syncthreads|__shfl|__ballot|__syncwarp|atomicAdd|#include *[<"]?(cuda|mma|cooperative|cub)[^_]' \
  cuda/*.cu | grep -v '^cuda/backend' | grep -vE '#include "(primitives|cuda_backend|attention_tile|span)')
if [ -n "$found" ]; then
  echo "kernel files may only use the words of cuda/primitives.cuh:"
  echo "$found"
  exit 1
fi
