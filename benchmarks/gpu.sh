#!/usr/bin/env bash
# Everything that needs a GPU, in named steps, without a network:
#
#   benchmarks/gpu.sh [--rehearse] [FOLDER]        default: build/gpu/out
#
# FOLDER/gpu.tar.gz holds all logs, figures and tables so far, written anew after every step, so that a call that
# is cut off leaves what it has; `tar xzf gpu.tar.gz -C benchmarks/results` takes them over. What the machine
# keeps is in build/gpu: later calls on the same machine add to it, and build only if a source has changed.
#
# ONLY="build tests" takes the steps named; the modules are built first wherever they are missing or old. BUDGET is
# the seconds of one call (default 530). Where a call ends after ten minutes, these take all of it, the most
# telling first and the sanitizers last:
#
#   ONLY="diagnostics ceilings tests"
#   ONLY="project_lp deepfool_step build_queries inner_products leave_one_out features table parity"
#   ONLY="art generate screen"
#   ONLY="memcheck racecheck"
#
# Modules that were built elsewhere for the same Python, uapfast/_c*.so, can be brought along with build/gpu/built,
# which says of which sources: a machine without Python's headers runs them as they are.
#
# --rehearse takes every step without a GPU: it builds, runs the same tests (those of the device are skipped) and
# each benchmark once on the CPU, the pipelines at tiny sizes. PYTHON names the interpreter (default python3); it
# must have torch, numpy, scipy, scikit-learn (with threadpoolctl), pyarrow, safetensors, pytest,
# pytest-benchmark, pytest-xdist, hypothesis, pybind11, setuptools, cmake and ninja; `art` also needs the wheel
# adversarial-robustness-toolbox (which needs six and tqdm) on PYTHONPATH. nvcc is looked for on PATH, then in
# /usr/local/cuda. A step that fails does not stop the next; the exit code is the number of failed steps.
set -uo pipefail
cd "$(dirname "$0")/.."

rehearse=0
if [ "${1:-}" = "--rehearse" ]; then rehearse=1; shift; fi
work=$PWD/build/gpu
pack=${1:-$work/out}
mkdir -p "$work/results" "$pack" || exit 1
pack=$(cd "$pack" && pwd)
out=$work/results
python=${PYTHON:-python3}
export PATH="$PATH:$("$python" -c 'import sysconfig; print(sysconfig.get_path("scripts"))'):/usr/local/cuda/bin"
export PYTHONUNBUFFERED=1 UAPFAST_CUDA_ARCHS="${UAPFAST_CUDA_ARCHS:-90-real}" PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
failed=0 budget=${BUDGET:-530}  # seconds for all steps of a call together

if [ $rehearse -eq 1 ]; then  # how long that takes says nothing of a GPU machine
  budget=36000
  device=cpu timing=(--benchmark-only -k "not compile") tiny=(--tiny --seconds 36000)
  export UAPFAST_BENCH_ROUNDS=1 OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
else  # what is missing is a failure: no step may pass on the CPU
  device=cuda timing=(--benchmark-only) tiny=()
  export UAPFAST_REQUIRE=cuda,triton,cuda-extension,cpu-extension
fi
# for tests that start pytest as well: --strict-config would refuse the setting of a plugin that is not here
export PYTEST_ADDOPTS="${PYTEST_ADDOPTS:-} -o addopts= --import-mode=importlib"
run=("$python" -m pytest -q -p no:cacheprovider)

wanted() { case " ${ONLY:-$1} " in *" $1 "*) return 0 ;; *) return 1 ;; esac }

step() {  # step NAME SECONDS COMMAND...: its log goes to NAME.log, its last lines to the screen
  local name=$1 limit=$2 begin=$SECONDS code left=$((budget - SECONDS))
  shift 2
  if [ $rehearse -eq 1 ]; then limit=$((limit * 20)); fi
  if [ $left -lt $limit ]; then limit=$left; fi
  if [ $limit -lt 5 ]; then
    echo "== $name: no time left"
    failed=$((failed + 1))
    return 1
  fi
  # an interrupt first: pytest then writes the figures that it has
  timeout --signal=INT --kill-after=15 "$limit" env --default-signal=INT "$@" >"$out/$name.log" 2>&1
  code=$?
  if [ $code -ne 0 ]; then failed=$((failed + 1)); fi
  printf '== %-14s %4d s  %s\n' "$name" $((SECONDS - begin)) "$([ $code -eq 0 ] && echo ok || echo "FAILED ($code)")"
  tail -n "$([ $code -eq 0 ] && echo 1 || echo 12)" "$out/$name.log" | cut -c1-300 | sed 's/^/     /'
  tar czf "$pack/gpu.tar.gz.part" -C "$out" . && mv "$pack/gpu.tar.gz.part" "$pack/gpu.tar.gz"
  return $code
}

maybe() { if wanted "$1"; then step "$@"; fi; }

sources() { cat CMakeLists.txt setup.py cmake/* $(find csrc -type f | sort) | sha256sum | cut -d' ' -f1; }

build() {  # in the tree: nothing is installed
  local cuda=ON stamp
  stamp="$(sources) $UAPFAST_CUDA_ARCHS $("$python" -c 'import sys; print(sys.implementation.cache_tag)')"
  if [ $rehearse -eq 1 ] && ! command -v nvcc >/dev/null; then cuda=AUTO; fi
  if [ "$(cat "$work/built" 2>/dev/null)" = "$stamp" ] && "$python" -c 'import uapfast._cpu, uapfast._cuda'; then
    echo "== build           as before"
    return
  fi
  if step build 240 env UAPFAST_CUDA=$cuda "$python" setup.py build_ext --inplace; then
    echo "$stamp" >"$work/built"
  else  # Triton and the pipelines can still be measured
    step build-cpu 120 env UAPFAST_CUDA=OFF "$python" setup.py build_ext --inplace
  fi
}

build
maybe diagnostics 60 "$python" -m uapfast
maybe ceilings 60 "${run[@]}" "--device=$device" "${timing[@]}" "--benchmark-json=$out/ceilings.json" benchmarks/bench_ceilings.py
if [ $rehearse -eq 1 ]; then jobs=2; else jobs=6; fi
maybe tests 330 "${run[@]}" -n $jobs --dist worksteal --junitxml="$out/tests.xml" tests/gpu tests/ops tests/build/test_native.py \
  --ignore tests/ops/test_triton_interpreter.py  # which needs minutes and no GPU

ops=(project_lp deepfool_step build_queries inner_products leave_one_out features)
for op in "${ops[@]}"; do  # a process each: what one breaks on the device stays there
  maybe "$op" 80 "${run[@]}" "--device=$device" "${timing[@]}" "--benchmark-json=$out/$op.json" "benchmarks/bench_$op.py"
done
if wanted table; then
  parts=()
  for name in ceilings "${ops[@]}"; do if [ -s "$out/$name.json" ]; then parts+=("$out/$name.json"); fi; done
  step table 30 bash -c '"$0" benchmarks/table.py --join "$@" >"${1%.json}.md"' "$python" "$out/gpu_ops.json" "${parts[@]}"
  sed -n '/^| op and shape/,/^$/p' "$out/gpu_ops.md" 2>/dev/null | cut -d'|' -f2-10
fi
maybe parity 60 "$python" -m benchmarks.parity --device $device --out "$out/parity.json"
maybe art 230 "$python" -m benchmarks.gpu_art --device $device --out "$out" ${tiny[@]+"${tiny[@]}"}
maybe generate 200 "$python" -m benchmarks.gpu_generate --device $device --out "$out" --seconds 120 ${tiny[@]+"${tiny[@]}"}
maybe screen 200 "$python" -m benchmarks.gpu_screen --device $device --out "$out" --seconds 100 ${tiny[@]+"${tiny[@]}"}
for name in art generate screen; do if wanted $name; then cat "$out/gpu_$name.md" 2>/dev/null; fi; done

small="only_its_target or cuda and (paper or float64 or cannot or nan_and or ties or every_run)"
for tool in memcheck racecheck; do
  sanitizer=()
  if [ $rehearse -eq 0 ]; then sanitizer=(compute-sanitizer --tool "$tool" --error-exitcode 9 --target-processes all); fi
  # without torch's cache every tensor is an allocation of its own, whose end the tool knows
  maybe "$tool" 150 env PYTORCH_NO_CUDA_MEMORY_CACHING=1 ${sanitizer[@]+"${sanitizer[@]}"} "${run[@]}" \
    tests/ops/test_project_lp.py tests/ops/test_deepfool_step.py tests/gpu/test_kernels_gpu.py -k "$small"
done
echo "== done in $SECONDS s, $failed failed, all of it in $pack/gpu.tar.gz"
exit $failed
