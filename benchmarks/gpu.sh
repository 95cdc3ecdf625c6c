#!/usr/bin/env bash
# Everything that needs a GPU, in one call and under nine minutes, without a network:
#
#   benchmarks/gpu.sh [--rehearse] [OUTPUT_FOLDER]        default: benchmarks/results
#
# --rehearse takes every step but the device's: it builds, runs the same tests (those of the device are
# skipped) and runs each benchmark once on the CPU, the pipelines at tiny sizes. PYTHON names the interpreter
# (default python3); it must have torch, numpy, scipy, scikit-learn (with threadpoolctl), pyarrow, safetensors,
# pytest, pytest-benchmark, hypothesis, pybind11, cmake and ninja; typer, rich, matplotlib, jinja2 and other
# plugins of pytest are not needed. A step that fails does not stop the next; the exit code is the number of
# failed steps. ONLY="build tests" takes the steps named.
set -uo pipefail
cd "$(dirname "$0")/.."

rehearse=0
if [ "${1:-}" = "--rehearse" ]; then rehearse=1; shift; fi
out=$(mkdir -p "${1:-benchmarks/results}" && cd "${1:-benchmarks/results}" && pwd)
python=${PYTHON:-python3}
export PYTHONUNBUFFERED=1 UAPFAST_CUDA_ARCHS="${UAPFAST_CUDA_ARCHS:-90-real}"
failed=0 budget=530  # seconds for all steps together; the most telling come first
if [ $rehearse -eq 1 ]; then budget=7200; fi  # how long a rehearsal takes says nothing of a GPU machine

step() {  # step NAME SECONDS COMMAND...: its log goes to NAME.log, its last lines to the screen
  local name=$1 limit=$2 begin=$SECONDS code left=$((budget - SECONDS))
  shift 2
  case " ${ONLY:-$name} " in *" $name "*) ;; *) return ;; esac
  if [ $rehearse -eq 1 ]; then limit=$((limit * 10)); fi
  if [ $left -lt $limit ]; then limit=$left; fi
  if [ $limit -lt 5 ]; then
    echo "== $name: no time left"
    failed=$((failed + 1))
    return
  fi
  timeout "$limit" "$@" >"$out/$name.log" 2>&1
  code=$?
  if [ $code -ne 0 ]; then failed=$((failed + 1)); fi
  printf '== %-12s %4d s  %s\n' "$name" $((SECONDS - begin)) "$([ $code -eq 0 ] && echo ok || echo "FAILED ($code)")"
  tail -n "$([ $code -eq 0 ] && echo 2 || echo 25)" "$out/$name.log" | sed 's/^/     /'
}

if [ $rehearse -eq 1 ]; then
  cuda=AUTO device=cpu required= timing=(--benchmark-disable -k "not compile")
else
  cuda=ON device=cuda required=cuda,triton,cuda-extension timing=(--benchmark-only)
fi
# for tests that start pytest as well: --strict-config would refuse the setting of a plugin that is not here
export PYTEST_ADDOPTS="${PYTEST_ADDOPTS:-} -o addopts= --import-mode=importlib"
run=("$python" -m pytest -q -p no:cacheprovider)
if [ $rehearse -eq 1 ]; then tiny=(--tiny --seconds 3600); else tiny=(); fi
json() { if [ $rehearse -eq 0 ]; then echo "--benchmark-json=$out/$1.json"; fi; }

step build 200 env UAPFAST_CUDA=$cuda "$python" -m pip install --quiet --no-build-isolation --no-deps --no-index -e .
step diagnostics 60 "$python" -m uapfast
step ceilings 60 "${run[@]}" "--device=$device" "${timing[@]}" $(json ceilings) benchmarks/bench_ceilings.py
step tests 200 env UAPFAST_REQUIRE=$required "${run[@]}" tests/gpu tests/ops tests/build/test_native.py
ops=(ceilings project_lp deepfool_step build_queries features inner_products leave_one_out)
step benchmarks 240 "${run[@]}" "--device=$device" "${timing[@]}" $(json gpu) \
  $(printf "benchmarks/bench_%s.py " "${ops[@]}")
step parity 90 "$python" -m benchmarks.parity --device $device --out "$out/parity.json"
step generate 110 "$python" -m benchmarks.gpu_generate --device $device --out "$out" --seconds 70 ${tiny[@]+"${tiny[@]}"}
step screen 100 "$python" -m benchmarks.gpu_screen --device $device --out "$out" --seconds 50 ${tiny[@]+"${tiny[@]}"}
cat "$out/gpu_generate.md" "$out/gpu_screen.md" 2>/dev/null
if [ $rehearse -eq 0 ]; then
  step table 30 bash -c "'$python' benchmarks/table.py '$out/gpu.json' >'$out/gpu.md'"
  cat "$out/gpu.md" 2>/dev/null
fi
if [ -n "${ONLY:-}" ]; then :
elif [ $rehearse -eq 0 ] && command -v compute-sanitizer >/dev/null; then
  small="only_its_target or cuda and (paper or float64 or cannot or nan_and or ties or every_run)"
  for tool in memcheck racecheck; do
    step "$tool" 90 compute-sanitizer --tool $tool --error-exitcode 9 --target-processes all \
      "${run[@]}" tests/ops/test_project_lp.py tests/ops/test_deepfool_step.py tests/gpu/test_kernels_gpu.py \
      -k "$small"
  done
else
  echo "== sanitizer    skipped: $([ $rehearse -eq 1 ] && echo rehearsal || echo 'compute-sanitizer is not here')"
fi
echo "== done in $SECONDS s, $failed failed, results in $out"
exit $failed
