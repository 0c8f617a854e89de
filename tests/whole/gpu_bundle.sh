#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The bundle for a machine with a GPU, without the GPU: what is built goes into it, and from another folder, with an empty
# environment, ranks train and run_all goes through its parts.
set -euo pipefail
if ! grep -q '^CMAKE_CUDA_ARCHITECTURES:' "$TESSERA_BUILD/CMakeCache.txt"; then
    echo "built without CUDA: nothing to bundle"
    exit 77
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

fail() {
    echo "FAILED: $*"
    exit 1
}
bare() { env -i PATH=/usr/bin:/bin HOME="$folder" PYTHON="$(command -v python3)" timeout 200 "$@"; }

"$TESSERA_SOURCE/cluster/gpu_bundle.sh" --as-built "$TESSERA_BUILD" "$folder/bundle.tgz"
mkdir "$folder/there"
tar -C "$folder/there" -xzf "$folder/bundle.tgz"
cd "$folder/there"
keys=('data.files=["tessera_gpu/text.txt"]' training.steps=3 metrics.evaluate_every=0 run.folder=run run.device=cpu)
bare tessera_gpu/bin/mpirun -np 2 tessera_gpu/bin/tessera train tessera_gpu/source/configs/quickstart.toml "${keys[@]}" >out
grep -q ': 2 ranks (2 on this host)' out || fail "expected two ranks: $(cat out)"
[ -d run/checkpoints/step-00000003 ] || fail "no checkpoint: $(cat out)"

bare tessera_gpu/run_all --rehearse --out results machine kernels text sanitizer >out 2>&1 || fail "run_all: $(cat out)"
for expected in '^machine +ok ' '^text +ok .*evaluation: step: 6 ' '^0 of 4 parts failed'; do
    grep -qE "$expected" out || fail "expected '$expected': $(cat out)"
done
tar -tzf results/logs.tgz >list && grep -q text/log.txt list || fail "no logs: $(cat list)"
bare tessera_gpu/run_all --out results/none --seconds 4 text >out 2>&1 || true
grep -qE '^text +no time ' out || fail "expected no time: $(cat out)"
code=0
bare tessera_gpu/run_all dance >out 2>&1 || code=$?
[ "$code" = 2 ] && grep -qF "no part named 'dance'" out || fail "expected a refusal, found $code: $(cat out)"
code=0
bare tessera_gpu/run_all --out results training >out 2>&1 || code=$? # where there is no GPU, it says so
if [ ! -e /dev/nvidia0 ]; then
    [ "$code" = 1 ] && grep -qE '^training +FAILED' out || fail "expected a failure, found $code: $(cat out)"
fi
echo "all as expected"
