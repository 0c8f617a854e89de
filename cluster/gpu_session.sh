#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Tests and measures the bundle that it stands in (cluster/gpu_bundle.sh puts it there as run_all) on this machine's GPU,
# part by part, each with a limit of time. See --help.
set -euo pipefail
here=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
python=${PYTHON:-python3}
tests=(machine kernels core parallel training text nccl_1 nccl_2 nccl_4 sanitizer)
speed=(profile kernel_speed pytorch_small pytorch_124m)
longer=(parity pytorch_1558m)

usage() {
    cat <<TEXT
usage: run_all [--out FOLDER] [--seconds N] [--rehearse] [PART…]

Runs the named parts, or all of the first two groups, within N seconds (570).
What each says goes to FOLDER/logs.tgz, figures to FOLDER/*.json, and a table to
FOLDER/summary.txt and the end of the output. FOLDER: \$OUT, or ./results.
Exit code 1: a part failed that must not.

  tests   ${tests[*]}
  speed   ${speed[*]}
  longer  ${longer[*]}

--rehearse: on a CPU, with tiny models, to see that the parts themselves work.
TEXT
}

refuse() {
    printf 'run_all: %s\n' "$*" >&2
    exit 2
}

# ---- what parts are made of

note() { printf '= %s\n' "$*"; } # a line for the table

skip() {
    note "$*" >&2 # what calls it may stand in $(…)
    exit 77
}

program() { # program NAME: its path, or the part is skipped
    [ -x "$here/programs/$1" ] || skip "the bundle holds no $1"
    echo "$here/bin/$1"
}

# The tests of a gtest program on this device, a suite a line, as a filter: SUITE.TEST:SUITE.TEST. Each suite runs by itself,
# for a fault of the GPU ends all that follow in its process.
suites() { # suites PROGRAM
    "$1" --gtest_list_tests --gtest_filter="$tests_wanted" | awk '
        /^[^ ].*\./ { suite = $1; if (line != "") print line; line = "" }
        /^  / { line = line (line == "" ? "" : ":") suite $1 }
        END { if (line != "") print line }'
}

# run_suite SECONDS LABEL PROGRAM FILTER [COMMAND…]: one line with its result; what it says is in a log of its own.
run_suite() {
    local seconds=$1 label=$2 file=$3 filter=$4 code=0 suite log
    suite=${filter%%.*} log=$label-${suite//\//_}.log
    shift 4
    timeout -k 5 "$seconds" "$@" "$file" --gtest_filter="$filter" >"$log" 2>&1 </dev/null || code=$?
    printf '%s %s %s\n' "$code" "$suite" "$(grep -c '^\[       OK \]' "$log")"
    [ "$code" = 0 ] || tail -n 40 "$log" >&2
}

count_suites() { # count_suites: the lines of run_suite on the standard input, told; fails when one of them did
    awk '{ tests += $3; suites++ }
        $1 == 124 || $1 == 137 { late = late " " $2; next }
        $1 != 0 { failed = failed " " $2 }
        END {
            printf "= %d tests of %d suites passed", tests, suites
            if (late != "") printf "; out of time:%s", late
            if (failed != "") printf "; FAILED:%s", failed
            print ""
            exit failed != ""
        }'
}

run_suites() { # run_suites PROGRAM
    local file all
    file=$(program "$1")
    all=$(suites "$file")
    [ -n "$all" ] || skip "$1 has no tests for this device"
    xargs -P 4 -I{} "$here/run_all" --suite 60 plain "$file" {} <<<"$all" | count_suites
}

# ---- the parts

part_machine() {
    uname -a
    nproc
    "$python" -c 'import torch; print("= PyTorch", torch.__version__)' || note "no PyTorch"
    nvcc --version || true
    source "$here/env.sh"
    note "bundle $(cat "$here/version"), CUDA's libraries in $CUDA_LIBS"
    "$here/bin/tessera" --version
    ldd "$here/programs/tessera" | grep 'not found' && return 1
    [ "$device" = cuda ] || return 0
    nvidia-smi
    note "$(nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.sm,power.limit --format=csv,noheader)"
}

part_kernels() { run_suites test_kernels_cuda; }
part_core() { run_suites test_core_cuda; }
part_parallel() { run_suites test_parallel_cuda; }

# Losses are the CPU's, two runs have the same bits, checkpoints go from GPU to CPU and back.
part_training() {
    [ "$device" = cuda ] || skip "compares a GPU with the CPU"
    TESSERA_GPU_RANKS='' "$python" "$here/source/tests/whole/cuda.py"
    note "losses as on the CPU, two runs with the same bits"
}

# nanoGPT's GPU setting on the bundle's text.
part_text() {
    local keys=() start
    [ "$device" = cuda ] || keys=(model.dim=32 model.n_layers=2 model.n_heads=2 training.seq_len=32 training.global_batch_size=4
        training.local_batch_size=4 training.steps=6)
    [ "$device" = cpu ] || keys=(training.steps=2000 metrics.evaluate_every=500)
    start=$SECONDS
    "$here/bin/tessera" train "$here/source/configs/gpt_char_gpu.toml" "data.files=[\"$here/text.txt\"]" run.folder=text-run \
        "run.device=$device" metrics.evaluate_batches=50 checkpoint.interval=0 "${keys[@]}" | tee text.out
    note "$(grep '^evaluation:' text.out | tail -n 1), after $((SECONDS - start)) s in all"
    "$here/bin/tessera" generate text-run --tokens 200
}

mpi() { # mpi RANKS PROGRAM…
    "$here/source/tests/support/mpirun" "$@"
}

nccl_tests() { # nccl_tests RANKS [COMMAND…]: the collectives of the house
    local file ranks=$1 wanted=$tests_wanted
    shift
    [ "${NCCL_OVER_MPI:-0}" = 1 ] || wanted=$wanted-NcclSubstitute.* # NCCL would wait for ever
    file=$(program test_parallel_mpi_cuda)
    mpi "$ranks" "$@" "$file" --gtest_filter="$wanted" | tee collectives.out
    local passed
    passed=$(grep -c '^\[       OK \]' collectives.out) || { note "no test of collectives for this device" && return 1; }
    note "$ranks ranks: $passed tests of collectives passed"
}

nccl_sums() { # nccl_sums RANKS MIB [COMMAND…]
    local file ranks=$1 most=$2
    shift 2
    file=$(program bench_gpu_nccl_cuda)
    [ "$device" = cuda ] || skip "needs a GPU"
    mpi "$ranks" "$@" "$file" "$most" | tee sums.out
    note "$ranks ranks: $(head -n 1 sums.out); $(tail -n 1 sums.out)"
}

part_nccl_1() {
    nccl_sums 1 64
    nccl_tests 1
}

# NCCL refuses two ranks on one GPU of one host; with a host identity each they are two hosts to it, and speak by sockets.
# Nobody promises that this works.
part_nccl_2() {
    export NCCL_SOCKET_IFNAME=lo NCCL_IB_DISABLE=1 NCCL_MAX_CTAS=2 NCCL_DEBUG=WARN
    local host=(bash -c 'NCCL_HOSTID=host-$OMPI_COMM_WORLD_RANK exec "$@"' bash)
    nccl_sums 2 8 "${host[@]}"
    nccl_tests 2 "${host[@]}"
}

# Four ranks on one GPU, which a substitute of NCCL lets them share: it stages through the host and sums over MPI.
part_nccl_4() {
    [ -e "$here/lib/nccl_over_mpi/libnccl.so.2" ] || skip "the bundle holds no lib/nccl_over_mpi/libnccl.so.2"
    export NCCL_OVER_MPI=1
    nccl_sums 4 8
    nccl_tests 4
    TESSERA_SHARE_GPUS=1 TESSERA_GPU_RANKS='2 4' "$python" "$here/source/tests/whole/cuda.py"
    note "training on 1, 2 and 4 ranks has the same bits"
}

# Every suite of kernels under three tools at once; what is not done in time is told.
part_sanitizer() {
    local sanitizer file tool all code=0
    sanitizer=$(PATH=$PATH:/usr/local/cuda/bin command -v compute-sanitizer) || skip "no compute-sanitizer here"
    program test_kernels_cuda >/dev/null
    file=$here/programs/test_kernels_cuda
    all=$(suites "$here/bin/test_kernels_cuda")
    source "$here/env.sh"
    for tool in memcheck racecheck synccheck; do
        xargs -P 5 -I{} "$here/run_all" --suite 90 "$tool" "$file" {} \
            "$sanitizer" --tool "$tool" --error-exitcode 99 --print-limit 20 <<<"$all" >"$tool.lines" &
    done
    wait
    for tool in memcheck racecheck synccheck; do
        count_suites <"$tool.lines" | sed "s/^= /= $tool: /" || code=1
    done
    return $code
}

part_profile() {
    local file keys=("run.device=$device") code=0
    file=$(program bench_step_profile_cuda)
    if [ "$device" = cuda ]; then
        "$file" "$here/source/configs/gpt2_124m.toml" training.global_batch_size=32 "${keys[@]}" | tee profile-124m.txt || code=1
    fi
    "$file" "$here/source/configs/gpt2_124m.toml" data.vocab_size=65 model.bias=false model.activation=gelu "${small[@]}" \
        "${keys[@]}" | tee profile-small.txt || code=1
    for file in profile-*.txt; do
        note "$file: $(grep -m 1 '^step:' "$file"); $(grep -m 1 '^step without' "$file"); $(grep -m 1 '^the best' "$file")"
    done
    note "Goal: at most 1.10 times as long as the best of each call alone; the small model 1.03"
    return $code
}

part_kernel_speed() {
    local file
    file=$(program bench_gpu_kernels_cuda)
    [ "$device" = cuda ] || skip "needs a GPU"
    "$file" --benchmark_counters_tabular=true --benchmark_out=kernel_speed.json --benchmark_out_format=json
}

pytorch() { # pytorch NAME WORD…: gpu_vs_pytorch
    local name=$1
    shift
    "$python" "$here/source/tests/benchmarks/gpu_vs_pytorch" --tessera "$here/bin/tessera" --device "$device" "${rehearsed[@]}" "$@" \
        >"$name.txt" || { cat "$name.txt" && return 1; }
    cat "$name.txt"
}

speed_beside_pytorch() { # speed_beside_pytorch MODEL
    pytorch "pytorch_$1" --models "$1" --out "pytorch_$1.json"
    sed -n -e 's/^| \(tessera\|PyTorch[^|]*\) | \([^|]*\) | [^|]* | \([^|]*\)| \([^|]*\) |.*/= \1: \2 ms, \3tokens\/s, MFU \4/p' \
        -e 's/^\(PyTorch.s time\|Tessera.s memory\|Goal:\)/= \1/p' "pytorch_$1.txt"
}

part_pytorch_small() { speed_beside_pytorch small; }
part_pytorch_124m() { speed_beside_pytorch 124m; }
part_pytorch_1558m() { speed_beside_pytorch 1558m; }
part_parity() {
    local code=0
    pytorch parity --parity --models small,124m || code=1
    sed -n 's/^\([^;]*\), \(f32\|bf16\).*\(differ by.*\)/= \1, \2: losses \3/p' parity.txt
    return $code
}

# ---- running them

limit_of() { # seconds that a part may take
    case $1 in
        machine | nccl_1 | nccl_2) echo 60 ;;
        nccl_4 | core | parallel | training | text | profile | kernel_speed) echo 90 ;;
        kernels | sanitizer) echo 150 ;;
        pytorch_small | pytorch_124m) echo 200 ;;
        *) echo 400 ;;
    esac
}

run_part() { # run_part NAME SECONDS: its line of the table
    local name=$1 seconds=$2 code=0 start=$SECONDS result
    printf '\n==== %s, at most %s s\n' "$name" "$seconds"
    if [ "$seconds" -lt 5 ]; then
        printf '%-15s %-10s %5s  %s\n' "$name" 'no time' 0 "run_all $name" >>"$out/summary.txt"
        return
    fi
    mkdir -p "$work/$name"
    (cd "$work/$name" && exec timeout -k 5 "$seconds" "$here/run_all" "${again[@]}" --part "$name") >"$work/$name/log.txt" 2>&1 \
        </dev/null || code=$?
    tail -n 25 "$work/$name/log.txt"
    case $code in
        0) result=ok ;;
        77) result=skipped ;;
        124 | 137) result='out of time' ;;
        *) result=FAILED ;;
    esac
    if [ "$result" = FAILED ] && [ "$name" = nccl_2 ]; then
        result='no (lead)'
    elif [ "$result" != ok ] && [ "$result" != skipped ]; then
        failures=$((failures + 1))
    fi
    local words
    words=$(sed -n 's/^= //p' "$work/$name/log.txt")
    [ -n "$words" ] || words=$(tail -n 1 "$work/$name/log.txt")
    printf '%-15s %-11s %4s  %s\n' "$name" "$result" "$((SECONDS - start))" "${words//$'\n'/$'\n'                                  }" >>"$out/summary.txt"
    find "$work/$name" -maxdepth 1 -name '*.json' -exec cp {} "$out/" \;
    tar -C "$work" --exclude='*-run' -czf "$out/logs.tgz" .
}

out=${OUT:-results} total=570 device=cuda rehearsed=() again=() parts=()
while [ $# -gt 0 ]; do
    case $1 in
        --out) out=$2 && shift ;;
        --seconds) total=$2 && shift ;;
        --rehearse) device=cpu rehearsed=(--rehearse) again=(--rehearse) ;;
        --help | -h) usage && exit ;;
        --part | --suite) break ;; # how it calls itself
        -*) refuse "no option named '$1'; see --help" ;;
        tests) parts+=("${tests[@]}") ;;
        speed) parts+=("${speed[@]}") ;;
        longer) parts+=("${longer[@]}") ;;
        *) parts+=("$1") ;;
    esac
    shift
done
export PATH=$here/bin:$PATH TESSERA=$here/bin/tessera TESSERA_EMULATED=$here/bin/tessera TESSERA_SOURCE=$here/source TESSERA_BUILD=$here
tests_wanted='*Cuda*:*Nccl*'
small=(model.n_layers=6 model.n_heads=6 model.dim=384 training.seq_len=256 training.global_batch_size=64 training.local_batch_size=64)
if [ "$device" = cpu ]; then
    tests_wanted='*/Cpu.*'
    small=(model.n_layers=2 model.n_heads=2 model.dim=32 training.seq_len=32 training.global_batch_size=4 training.local_batch_size=4)
fi
case ${1:-} in
    --part)
        "part_$2"
        exit
        ;;
    --suite)
        shift
        run_suite "$@"
        exit
        ;;
esac

[ "${#parts[@]}" -gt 0 ] || parts=("${tests[@]}" "${speed[@]}")
for part in "${parts[@]}"; do
    [[ " ${tests[*]} ${speed[*]} ${longer[*]} " == *" $part "* ]] || refuse "no part named '$part'; see --help"
done
mkdir -p "$out"
out=$(cd "$out" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
: >"$out/summary.txt"
failures=0
for part in "${parts[@]}"; do
    left=$((total - SECONDS)) limit=$(limit_of "$part")
    run_part "$part" $((left < limit ? left : limit))
done
printf '\n%-15s %-11s %4s\n' part result s
cat "$out/summary.txt"
printf '%s of %s parts failed; %s s; logs in %s\n' "$failures" "${#parts[@]}" "$SECONDS" "$out"
[ "$failures" = 0 ]
