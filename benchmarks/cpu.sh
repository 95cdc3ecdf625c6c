#!/usr/bin/env bash
# The CPU's figures in one call, some ten minutes of two idle cores (the companion of gpu.sh):
#
#   benchmarks/cpu.sh [--rehearse] [OUTPUT_FOLDER]        default: benchmarks/results
#
# Writes cpu_ops.{json,md}: every op, plain torch and torch.compile, with one thread and with two, each with
# the bandwidth of the machine measured in the same run; and bench_generate.{json,md}: UAPs against ART and a
# plain loop, over five seeds, and of several models. --rehearse takes one op and one seed. ONLY="one-thread
# two-threads ops" takes the steps named (generate and uaps are the others). PYTHON names the interpreter (default
# python3); it must have uapfast's extras dev and peers. The exit code is the number of failed steps.
set -uo pipefail
cd "$(dirname "$0")/.."

rehearse=0
if [ "${1:-}" = "--rehearse" ]; then rehearse=1; shift; fi
out=$(mkdir -p "${1:-benchmarks/results}" && cd "${1:-benchmarks/results}" && pwd)
python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH} TORCHINDUCTOR_CACHE_DIR=$work/inductor  # compiles, not its cache
export UAPFAST_REQUIRE=cpu-extension,art,fashion-mnist  # a peer that is missing is no table without it
failed=0

step() {  # step NAME COMMAND...
  local name=$1 begin=$SECONDS code
  shift
  case " ${ONLY:-$name} " in *" $name "*) ;; *) return ;; esac
  "$@" >"$work/$name.log" 2>&1
  code=$?
  printf '== %-12s %4d s  %s\n' "$name" $((SECONDS - begin)) "$([ $code -eq 0 ] && echo ok || echo "FAILED ($code)")"
  if [ $code -ne 0 ]; then failed=$((failed + 1)); tail -n 30 "$work/$name.log" | sed 's/^/     /'; fi
}

run=("$python" -m pytest -q -p no:cacheprovider --benchmark-only)
ops=(ceilings project_lp deepfool_step build_queries features inner_products leave_one_out)
uaps=()
if [ $rehearse -eq 1 ]; then
  ops=(ceilings deepfool_step)
  uaps=(-k "high_rate and 0- or mlp and 8-")
fi
files=$(printf "benchmarks/bench_%s.py " "${ops[@]}")
step one-thread env OMP_NUM_THREADS=1 "${run[@]}" --benchmark-json="$work/one.json" $files
# The forced levels and the reference again would tell nothing new.
step two-threads env OMP_NUM_THREADS=2 "${run[@]}" --benchmark-json="$work/two.json" $files \
  -k "not (scalar or avx2 or avx512 or reference)"
step ops bash -c '"$0" benchmarks/table.py --merge "$1/cpu_ops.json" "$2/one.json" "$2/two.json" >"$1/cpu_ops.md"' \
  "$python" "$out" "$work"
step generate env OMP_NUM_THREADS=1 "${run[@]}" --benchmark-json="$work/generate.json" "${uaps[@]}" \
  benchmarks/bench_generate.py benchmarks/bench_generate_models.py
step uaps bash -c '"$0" benchmarks/table_generate.py "$2/generate.json" >"$1/bench_generate.md" \
  && cp "$2/generate.json" "$1/bench_generate.json"' "$python" "$out" "$work"
echo "== done in $SECONDS s, $failed failed, results in $out"
exit $failed
