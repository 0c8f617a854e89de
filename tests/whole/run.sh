#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# ./run with apt, dpkg, cmake and the program replaced by notebooks: what it installs, builds and starts, and that a
# second call does neither.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir -p "$folder/tree/cluster" "$folder/bin"
cp "$TESSERA_SOURCE/run" "$folder/tree/"
cp "$TESSERA_SOURCE/cluster/packages.txt" "$folder/tree/cluster/"
export NOTES=$folder/notes INSTALLED=$folder/installed PATH=$folder/bin:$PATH
export -n CI
failures=0

fail() {
    echo "FAILED: $*"
    failures=$((failures + 1))
}

fake() { # fake NAME, its script on the standard input
    { printf '#!/usr/bin/env bash\n'; cat; } >"$folder/bin/$1"
    chmod +x "$folder/bin/$1"
}
fake dpkg-query <<'SH'
sed 's/^/installed /' "$INSTALLED"
SH
fake apt-get <<'SH'
words=()
for word in "$@"; do [[ $word == -* || $word == *=* ]] || words+=("$word"); done
echo "apt-get ${words[*]}" >>"$NOTES"
[ "${words[0]}" = install ] || exit 0
[ -z "${BROKEN:-}" ] || [[ " ${words[*]} " != *" $BROKEN "* ]] || exit 100
printf '%s\n' "${words[@]:1}" >>"$INSTALLED"
[[ " ${words[*]} " != *' bible-kjv '* ]] || printf '#!/bin/sh\nseq 9000 | sed "s/^/Ge1:1 In the beginning /"\n' >"$BIN/bible"
[ ! -e "$BIN/bible" ] || chmod +x "$BIN/bible"
SH
fake sudo <<'SH'
exec "$@"
SH
fake cmake <<'SH'
echo "cmake $*" >>"$NOTES"
mkdir -p build
if [[ $1 == --build ]]; then
    printf '#!/bin/sh\necho "tessera $*" >>"$NOTES"\n' >build/tessera
    chmod +x build/tessera
else
    touch build/build.ninja
    value() { grep -oP -- "-D$1=\\K\\w+" <<<"$2" || sed -n "s/^$1:[A-Z]*=//p" build/CMakeCache.txt; }
    printf 'CMAKE_HOME_DIRECTORY:INTERNAL=%s\nBUILD_TESTING:BOOL=%s\nTESSERA_WITH_CUDA:STRING=%s\n' "$PWD" \
        "$(value BUILD_TESTING "$*")" "$(value TESSERA_WITH_CUDA "$*")" >build/cache.new
    mv build/cache.new build/CMakeCache.txt
    echo '-- With GPU kernels for 90: CUDA 99'
fi
SH
fake nvidia-smi <<'SH'
[ -z "${GPU:-}" ] || echo "GPU 0: $GPU"
SH
fake ctest <<'SH'
echo "ctest $*" >>"$NOTES"
SH
export BIN=$folder/bin
# What this machine really has must not be seen.
fake bible <<<'exit 1'
rm "$folder/bin/bible"
real_bible=$(command -v bible || true)
[ -z "$real_bible" ] || cat >"$folder/hide" <<SH
command() { if [ "\$1 \$2" = '-v bible' ]; then [ -x "\$BIN/bible" ]; else builtin command "\$@"; fi; }
SH
[ -z "$real_bible" ] || export BASH_ENV=$folder/hide

run() { # run CODE WORD…: ./run WORD… ends with CODE; its notes are in $NOTES, its words in out
    local code=$1 found=0
    shift
    : >"$NOTES"
    (cd "$folder" && ./tree/run "$@") >"$folder/out" 2>&1 </dev/null || found=$?
    [ "$found" = "$code" ] || fail "./run $*: exit code $found, expected $code: $(cat "$folder/out")"
}
said() { grep -qF -- "$1" "$folder/out" || fail "expected '$1', found: $(cat "$folder/out")"; }
noted() { grep -qE -- "$1" "$NOTES" || fail "expected '$1', found: $(cat "$NOTES")"; }
not_noted() { ! grep -E -- "$1" "$NOTES" || fail "unexpected: $1"; }

printf '%s\n' ninja-build bash >"$INSTALLED"
run 2 qickstart
said "no command named 'qickstart'; there are: build, quickstart, test"
run 2 quickstart --fast
said "no option named '--fast'"
run 2 build training.steps=3
said "build takes no 'training.steps=3'"
run 0 --help
said 'usage: ./run quickstart'
[ ! -s "$NOTES" ] || fail "something was done: $(cat "$NOTES")"

run 0 build --yes
noted '^apt-get update$'
noted '^apt-get install .*g\+\+.*openmpi-bin'
not_noted 'install .*(ninja-build|gtest|torch|bible)'
noted '^cmake --fresh .*-DBUILD_TESTING=OFF -DTESSERA_WITH_CUDA=OFF$'
said 'With GPU kernels for 90: CUDA 99' # what CMake says of it, whatever that is
noted '^cmake --build build --target tessera'
run 0 build --yes
not_noted 'apt-get|cmake (-S|--fresh)'

run 0 quickstart --yes training.steps=3
noted '^apt-get install bible-kjv$'
noted '^tessera launch -n 2 configs/quickstart.toml training.steps=3$'
noted '^tessera generate runs/quickstart --tokens 400$'
said 'the run is in runs/quickstart'
[ "$(head -n 1 "$folder/tree/corpus/kjv.txt")" = 'In the beginning 1' ] || fail "corpus: $(head -n 1 "$folder/tree/corpus/kjv.txt")"
[ "$(wc -l <"$folder/tree/corpus/kjv.txt")" = 9000 ] || fail "the corpus is not whole"
run 0 quickstart
not_noted 'apt-get|cmake (-S|--fresh)'

run 0 test
noted '^apt-get install .*libgtest-dev'
noted '^cmake -S . -B build -DBUILD_TESTING=ON -DTESSERA_WITH_CUDA=AUTO$'
noted '^cmake --build build --target all'
noted '^ctest --test-dir build --output-on-failure --timeout 300 -j '"$(($(nproc) + 1))"'$'
run 0 test
not_noted 'apt-get|cmake -S'
run 0 build
not_noted 'apt-get|cmake -S' # a build folder with tests serves both

# GPU kernels: where a GPU is seen, or asked for; a build folder that has them also serves who does not ask.
run 0 build --cuda
noted '^cmake -S . -B build -DTESSERA_WITH_CUDA=ON$'
for words in build 'build --cuda' test; do
    run 0 $words
    not_noted 'cmake -S'
done
rm -rf "$folder/tree/build"
GPU='NVIDIA H200' run 0 build
noted '^cmake --fresh .*-DBUILD_TESTING=OFF -DTESSERA_WITH_CUDA=AUTO$'
rm -rf "$folder/tree/build"
run 0 quickstart --cuda training.steps=3
noted '^cmake --fresh .*-DBUILD_TESTING=OFF -DTESSERA_WITH_CUDA=ON$'
noted '^tessera launch -n 2 configs/quickstart.toml training.steps=3$'
run 0 test
noted '^cmake -S . -B build -DBUILD_TESTING=ON -DTESSERA_WITH_CUDA=AUTO$'

rm -rf "$folder/tree/build"
CI=true run 0 build
noted '^cmake --fresh .*-DTESSERA_WITH_CUDA=OFF -DTESSERA_WARNINGS_AS_ERRORS=ON$'

# A build folder that was made for another place is configured afresh.
sed -i 's|^CMAKE_HOME_DIRECTORY.*|CMAKE_HOME_DIRECTORY:INTERNAL=/elsewhere|' "$folder/tree/build/CMakeCache.txt"
run 0 build
noted '^cmake --fresh'

# Without the Bible the licences must do; without a compiler nothing does.
rm -rf "$folder/tree/corpus" "$folder/bin/bible"
sed -i '/^bible-kjv$/d' "$INSTALLED"
BROKEN=bible-kjv run 0 quickstart
said 'bible-kjv cannot be installed'
said 'made of the licence texts'
grep -q 'GNU GENERAL PUBLIC LICENSE' "$folder/tree/corpus/kjv.txt" || fail "the licences are not in the corpus"
sed -i '/^g++$/d' "$INSTALLED"
BROKEN=g++ run 100 build
not_noted 'cmake'

[ "$failures" = 0 ] || exit 1
echo "all as expected"
