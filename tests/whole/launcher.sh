#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The program as a person calls it: help, exit codes, config commands, and what launch would start on this host.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
unset OMP_NUM_THREADS OMP_WAIT_POLICY OMPI_MCA_btl SLURM_JOB_ID NO_COLOR
failures=0

fail() {
    echo "FAILED: $*"
    failures=$((failures + 1))
}

# expect CODE TEXT WORD… : `tessera WORD…` ends with CODE and says TEXT somewhere.
expect() {
    local code=$1 text=$2 found=0
    shift 2
    "$TESSERA" "$@" >out 2>err || found=$?
    [ "$found" = "$code" ] || fail "tessera $*: exit code $found, expected $code: $(cat err)"
    grep -qF -- "$text" out err || fail "tessera $*: expected '$text', found: $(cat out err)"
}

cat >base.toml <<'TOML'
[metrics]
log_every = 5
TOML
cat >gpt.toml <<'TOML'
base = "base.toml"
[run]
name = "first"
TOML

expect 0 'usage: tessera COMMAND' --help
[ ! -s err ] || fail "help went to the standard error"
expect 0 'tessera 0.' --version
expect 2 "no command named 'lunch'; did you mean 'launch'?" lunch
expect 2 'no command given'
for command in $("$TESSERA" --help | sed -n '/^Commands/,/^$/s/^  \([a-z]*\) .*/\1/p'); do
    expect 0 "usage: tessera $command" "$command" --help
    [ "$(wc -l <out)" -le 40 ] || fail "tessera $command --help: $(wc -l <out) lines"
    [ ! -s err ] || fail "tessera $command --help went to the standard error"
    expect 2 "no option named '--hepl'; did you mean '--help'?" "$command" --hepl
done

expect 0 'metrics.log_every = 5' config show gpt.toml
grep -q '^metrics.log_every = 5 *# base.toml:2:1$' out || fail "origin of a base's key: $(cat out)"
grep -q '^run.name = "first" *# gpt.toml:3:1$' out || fail "origin of a file's key: $(cat out)"
expect 0 'run.name = "second"' config show gpt.toml run.name=second
grep -q '^run.name = "second" *# command line$' out || fail "origin of an override: $(cat out)"
cp out shown.toml
expect 0 'run.name = "second"' config show shown.toml
expect 0 'run.name: "first" -> ""   # gpt.toml:3:1 -> default' config diff gpt.toml base.toml
[ "$(wc -l <out)" = 1 ] || fail "config diff: $(cat out)"
expect 0 'colours on the console' config explain metrics.color
expect 0 '[run]' config explain
expect 2 "no key named 'metrics.colour'; did you mean 'metrics.color'?" config explain metrics.colour
expect 2 "no config command named 'shwo'; did you mean 'show'?" config shwo
expect 0 'log_every = 5' config show <(cat base.toml)
expect 2 'cannot read nowhere.toml: No such file or directory' config show nowhere.toml
sed 's/^name/nam/' gpt.toml >typo.toml
expect 2 "typo.toml:3:1: no key named 'run.nam'; did you mean 'run.name'?" launch -n 2 typo.toml

# What launch would start here: cores of its own for each rank, or a sentence.
cores=$("$TESSERA" launch -n 1 -t 1 --dry-run gpt.toml >/dev/null && lscpu -p=CORE,SOCKET | grep -v '^#' | sort -u | wc -l)
for ranks in 1 2 4; do
    expect 0 "train gpt.toml metrics.log_every=7" launch -n "$ranks" --dry-run gpt.toml metrics.log_every=7
    grep -q "^command: mpirun -n $ranks " out || fail "no mpirun for $ranks ranks: $(cat out)"
    threads=$(sed -n 's/.*OMP_NUM_THREADS=\([0-9]*\).*/\1/p' out)
    if grep -q -- "--bind $threads --output" out; then
        [ $((ranks * threads)) -le "$cores" ] || fail "$ranks ranks of $threads threads are bound to $cores cores"
        [ "$(grep -c '^rank .* of NUMA node' out)" = "$ranks" ] || fail "not every rank has cores: $(cat out)"
        [ ! -s err ] || fail "unexpected: $(cat err)"
    else
        [ $((ranks * threads)) -gt "$cores" ] || fail "$ranks ranks of $threads threads are not bound to $cores cores"
        grep -q 'not bound and share the cores' err || fail "nothing was said: $(cat err)"
        grep -q 'OMP_WAIT_POLICY=passive' out || fail "waiting threads would keep their core: $(cat out)"
        grep -q 'OMPI_MCA_mpi_yield_when_idle=1' out || fail "waiting ranks would keep their core: $(cat out)"
    fi
done

[ ! -e runs ] || fail "a dry run made a folder"

# Ranks do what the map says: each finds itself on its cores.
ranks=$((cores < 2 ? 1 : 2))
"$TESSERA" launch -n "$ranks" -t 1 --dry-run gpt.toml | sed -n 's/^rank \([0-9]*\) on .*: core \([0-9]*\) of .*/\1 \2/p' >map
[ "$(wc -l <map)" = "$ranks" ] || fail "the map has not $ranks ranks: $(cat map)"
while read -r rank core; do
    found=$(OMPI_COMM_WORLD_LOCAL_SIZE=$ranks OMPI_COMM_WORLD_LOCAL_RANK=$rank "$TESSERA" rank --bind 1 -- host | sed -n 's/^NUMA.*, //p')
    [ "$found" = "$core" ] || fail "rank $rank is bound to core $found, not $core"
done <map
OMP_PLACES=cores "$TESSERA" rank --bind 1 -- host | grep -q ': 1 core, ' || fail "OMP_PLACES kept a rank from its core"

# Hosts from the line and from a file; each is asked what it has.
cat >shell <<'SH'
#!/bin/sh
[ "$1" = gone ] && { echo "no route to host" >&2; exit 255; }
case $2 in *' host --short') echo 'cores 0@0 1@0 2@1 3@1 gpus 0000:3b:00.0@1 0000:4b:00.0@0' ;; *) exit 1 ;; esac
SH
chmod +x shell
printf '# two\na slots=2\nb:2\n' >racks
expect 0 'rank 2 on b: cores 2-3 of NUMA node 1, GPU 0 (0000:3b:00.0 near NUMA node 1)' \
    launch --hostfile racks --remote-shell "$folder/shell" --dry-run gpt.toml
grep -q '^command: mpirun -n 4 .*--host a:2,b:2 ' out || fail "hosts: $(cat out)"
NCCL_DEBUG=INFO NCCL_TOKEN=x expect 0 'passed on: NCCL_DEBUG=INFO' launch --hosts a:1 --remote-shell "$folder/shell" --dry-run gpt.toml
grep -q 'NCCL_TOKEN is not passed on' err || fail "a secret: $(cat err)"
grep -q 'NCCL_TOKEN' out && fail "a secret is shown: $(cat out)"
expect 4 'gone does not answer: no route to host' launch --hosts a:1,gone:1 --remote-shell "$folder/shell" --dry-run gpt.toml
expect 4 'room for 1 of 2 ranks is left (--min-ranks would allow fewer)' \
    launch --hosts a:1,gone:1 --remote-shell "$folder/shell" gpt.toml
rm -r runs

# With a host less and a layout that is fixed, another one is found: first those that keep every bit.
mkdir bin
printf '#!/bin/sh\nexit 0\n' >bin/mpirun
chmod +x bin/mpirun
seq 2000 >text.txt
cat >small.toml <<'TOML'
[model]
n_layers = 2
n_heads = 2
dim = 32
[data]
files = ["text.txt"]
[training]
seq_len = 16
global_batch_size = 12
local_batch_size = 1
TOML
go_on() {
    local text=$1 slots=$2
    shift 2
    PATH=$folder/bin:$PATH expect 0 "$text" launch --hosts "a:$slots,gone:${gone:-3}" --remote-shell "$folder/shell" -t 1 \
        --max-restarts 1 --min-ranks 3 small.toml "$@"
}
two=parallelism.pipeline_parallel_degree=2
go_on 'going on with 3 of 6 ranks on a:3, with parallelism.pipeline_parallel_degree=1' 3 "$two" parallelism.data_parallel_degree=3
go_on 'going on with 4 of 7 ranks on a:4, with parallelism.data_parallel_degree=-1' 4 "$two" parallelism.data_parallel_degree=3
go_on 'going on with 3 of 6 ranks on a:3, with parallelism.tensor_parallel_degree=1: no layout' 3 \
    parallelism.tensor_parallel_degree=2 parallelism.data_parallel_degree=3
grep -q 'tessera launch: looking for a layout of 3 ranks$' err || fail "a search that is not told of: $(cat err)"
# What follows from the number of ranks is what it was on all of them.
go_on 'going on with 3 of 6 ranks on a:3, with training.local_batch_size=2' 3 training.local_batch_size=0
go_on 'going on with 3 of 6 ranks on a:3, with training.global_batch_size=18 training.gradient_accumulation_steps=0' 3 \
    training.global_batch_size=0 training.gradient_accumulation_steps=3
gone=2 go_on 'going on with 4 of 6 ranks on a:4, with parallelism.tensor_parallel_degree=2 parallelism.data_parallel_degree=-1' 4 \
    parallelism.tensor_parallel_degree=-1 parallelism.data_parallel_degree=3
go_on 'going on with 3 of 6 ranks on a:3, with training.local_batch_size=4 parallelism.pipeline_parallel_degree=1' 3 \
    "$two" parallelism.data_parallel_degree=3 training.local_batch_size=0 # of three data ranks, not of six
gone=2 go_on 'going on with 4 of 6 ranks on a:4, with training.global_batch_size=18 training.gradient_accumulation_steps=0 ' 4 \
    parallelism.tensor_parallel_degree=2 parallelism.data_parallel_degree=3 training.global_batch_size=0 \
    training.local_batch_size=2 training.gradient_accumulation_steps=3
go_on 'going on with 3 of 6 ranks on a:3, with training.gradient_accumulation_steps=0 parallelism.pipeline_parallel_degree=1' 3 \
    "$two" parallelism.data_parallel_degree=3 training.gradient_accumulation_steps=4
# A search is ended like a run, here one of a model that takes long to plan.
PATH=$folder/bin:$PATH "$TESSERA" launch --hosts a:3,gone:3 --remote-shell "$folder/shell" -t 1 --max-restarts 1 \
    --min-ranks 3 small.toml model.n_layers=20000 2>err &
searching=$!
for _ in $(seq 100); do
    grep -q 'looking for' err && break
    sleep 0.05
done
kill -TERM "$searching"
found=0
wait "$searching" || found=$?
[ "$found" = 130 ] || fail "a search that was ended: exit code $found: $(cat err)"
grep -q 'restart 1 of 1' err && fail "a search was not ended at once: $(cat err)"
expect 2 '--keys is of what a --search finds: say that, too' plan --keys small.toml
rm -r runs

# Slurm's srun, where it has what Open MPI needs.
cat >bin/srun <<'SH'
#!/bin/sh
[ "$1" = --mpi=list ] && echo "MPI plugin types are... none cray_shasta pmi2 $KIND"
SH
chmod +x bin/srun
slurm() { PATH=$folder/bin:$PATH KIND=$1 SLURM_JOB_ID=7 SLURM_NTASKS=2 expect 0 "$2" launch -t 1 --dry-run gpt.toml; }
slurm pmix 'command: srun --mpi=pmix --kill-on-bad-exit=1 --input=none --ntasks=2 '
[ ! -s err ] || fail "srun with pmix: $(cat err)"
slurm '' 'command: mpirun -n 2 '
grep -q 'tessera launch: srun has no pmix, which Open MPI needs: starting with mpirun instead' err || fail "srun without pmix: $(cat err)"
rm -r bin

# The program that starts the ranks gets the environment and gives its exit code.
mkdir bin
cat >bin/mpirun <<'SH'
#!/bin/sh
echo "threads $OMP_NUM_THREADS: $*"
exit 75
SH
chmod +x bin/mpirun
PATH=$folder/bin:$PATH expect 75 'threads 1: -n 1 --bind-to none' launch -t 1 gpt.toml
(PATH=/nowhere && "$TESSERA" launch gpt.toml) 2>err && fail "launch without mpirun succeeded"
grep -q 'cannot start mpirun: No such file or directory' err || fail "launch without mpirun: $(cat err)"
"$TESSERA" config explain >/dev/full 2>err && fail "a full disk went unseen"
grep -q 'cannot write to the standard output' err || fail "a full disk: $(cat err)"

[ "$failures" = 0 ] || exit 1
echo "all as expected"
