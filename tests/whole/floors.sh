#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What the house rules forbid and a grep can see: includes that run up, and what erodes with them. Then it plants each
# fault in a copy of the sources and sees that it is found.
set -euo pipefail
floors=(kernels parallel core launcher)
problems=0

problem() { # problem SENTENCE LINES: one problem when there are lines
    [ -n "$2" ] || return 0
    printf '%s:\n%s\n' "$1" "$2"
    problems=$((problems + 1))
}

sources() { find "$@" -name '*.[ch]pp' -o -name '*.h' -o -name '*.c' -o -name '*.cu' -o -name '*.cuh'; }

# The lines of code, comments left out, in the files on the standard input that match.
code_matching() { # code_matching EXPRESSION
    xargs grep -nHE -- "$1" | sed 's://.*$::' | grep -E -- "$1" || true
}

includes_of() { # includes_of EXPRESSION PATH…
    local what=$1
    shift
    [ -e "$1" ] || return 0
    grep -rnE "^ *# *include [<\"]($what)" "$@" || true
}

check_includes() {
    problem 'kernels include a higher floor' "$(includes_of '(parallel|core|launcher)/' kernels)"
    problem 'parallel includes a higher floor' "$(includes_of '(core|launcher)/' parallel)"
    problem 'core includes a higher floor' "$(includes_of 'launcher/' core)"
    problem 'a floor includes its tests' "$(includes_of 'tests/' kernels parallel core launcher)"
    problem 'a strategy includes communication' "$(includes_of '(parallel/communication/|mpi\.h|nccl\.h)' parallel/strategies)"
    problem 'communication includes a strategy' "$(includes_of 'parallel/strategies/' parallel/communication)"
    problem 'layout includes more than layout and the words of the kernels floor' "$(
        includes_of '(kernels|parallel|core|launcher)/|mpi\.h' parallel/layout |
            grep -vE '"(parallel/layout/|kernels/(error|nearest_name|random|tensor|window)\.hpp)' || true)"
    problem 'an include is not a path from the root' "$(
        sources "${floors[@]}" | xargs grep -nE '^ *# *include "' | grep -vE '"(kernels|parallel|core|launcher)/' || true)"
    problem 'MPI is included outside parallel/communication' "$(
        includes_of 'mpi\.h' "${floors[@]}" | grep -v '^parallel/communication/' || true)"
    local library files
    for library in toml++ spdlog nlohmann boost hwloc hdf5 oneapi xxhash Random123 oniguruma utf8proc sentencepiece turbojpeg png; do
        files=$(grep -rlF "#include <$library" "${floors[@]}" || true)
        [ "$(printf '%s\n' "$files" | wc -l)" -le 2 ] || problem "more than two files include $library" "$files"
    done
}

check_words() {
    problem 'a header holds an #if' "$(find "${floors[@]}" -name '*.hpp' ! -path kernels/stream.hpp ! -path kernels/cpu/simd.hpp |
        xargs grep -nE '^ *# *(if|ifdef|ifndef)\b' || true)"
    problem 'a kernel allocates' "$(sources kernels/cpu | grep -vE '/(device|libraries|onednn)\.' |
        code_matching '\bnew [A-Za-z_(]|\b(m|c|re)alloc\(|std::vector<|make_unique')"
    problem 'something is left to do' "$(sources "${floors[@]}" tests | xargs grep -nE '\b(TODO|FIXME|XXX)\b' || true)"
    # core/watch ends a process whose own thread cannot, and plants such faults.
    problem 'a floor below the launcher prints or exits' "$(sources kernels parallel core |
        grep -vE '^core/watch/(ending|planted_stall)\.cpp$' |
        code_matching 'std::(cout|cerr|exit|quick_exit)|\bf?printf\(|fmt::print|\b_exit\(|\bputs\(')"
    problem 'a name that means nothing' "$(find "${floors[@]}" tests -iregex '.*/\(utils?\|common\|misc\|helpers?\|impl\)\(\..*\)?' || true)"
    problem 'dynamic_cast or a singleton' "$(sources "${floors[@]}" | code_matching '\bdynamic_cast\b|getInstance')"
}

check_files() {
    local lines licensed
    lines=$(sources "${floors[@]}" tests | xargs wc -l | grep -v ' total$' | sort -rn)
    awk '$1 > 400 && $1 <= 600 { print "warning: " $2 " has " $1 " lines (400 is a warning, 600 never)" }' <<<"$lines"
    problem 'a file has more than 600 lines' "$(awk '$1 > 600' <<<"$lines")"
    mapfile -t all < <({ sources "${floors[@]}" tests; find tests -name '*.sh' -o -name '*.py' -o -name CMakeLists.txt; } | LC_ALL=C sort)
    licensed=$(awk 'FNR <= 2 && /SPDX-License-Identifier: Apache-2.0/ { print FILENAME }' "${all[@]}")
    problem 'a file does not open with its licence' "$(LC_ALL=C comm -23 <(printf '%s\n' "${all[@]}") <(echo "$licensed"))"
}

check() { # check TREE: prints every problem, succeeds when there is none
    cd "$1"
    check_includes
    check_words
    check_files
    [ "$problems" = 0 ]
}

# plant SENTENCE TEXT FILE…: TEXT, appended to each FILE in a copy, must be answered with SENTENCE.
plant() {
    local sentence=$1 text=$2 file answer
    shift 2
    local copy=$folder/copy
    rm -rf "$copy"
    mkdir "$copy"
    (cd "$TESSERA_SOURCE" && cp -r --parents "${floors[@]}" tests "$copy")
    for file in "$@"; do
        mkdir -p "$copy/$(dirname "$file")"
        [ -e "$copy/$file" ] || echo '// SPDX-License-Identifier: Apache-2.0' >"$copy/$file"
        printf '%s\n' "$text" >>"$copy/$file"
    done
    if answer=$(check "$copy"); then
        echo "not found after planting it in $*: $sentence"
        problems=$((problems + 1))
    elif ! grep -qF "$sentence:" <<<"$answer"; then
        printf 'planted in %s: %s; found instead:\n%s\n' "$*" "$sentence" "$answer"
        problems=$((problems + 1))
    fi
}

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
(check "$TESSERA_SOURCE")

plant 'kernels include a higher floor' '#include "core/config.hpp"' kernels/tensor.hpp
plant 'parallel includes a higher floor' '  #  include "core/config.hpp"' parallel/layout/mesh.cpp
plant 'core includes a higher floor' '#include "launcher/job/job.hpp"' core/config.cpp
plant 'a floor includes its tests' '#include "tests/support/main.cpp"' core/config.cpp
plant 'a strategy includes communication' '#include "parallel/communication/mpi.hpp"' parallel/strategies/planted.cpp
plant 'communication includes a strategy' '#include "parallel/strategies/zero.hpp"' parallel/communication/planted.cpp
plant 'layout includes more than layout and the words of the kernels floor' '#include "kernels/stream.hpp"' parallel/layout/planted.cpp
plant 'an include is not a path from the root' '#include "config.hpp"' core/planted.cpp
plant 'MPI is included outside parallel/communication' '#include <mpi.h>' core/planted.cpp
plant 'more than two files include toml++' '#include <toml++/toml.h>' core/planted.cpp core/other.cpp
plant 'a header holds an #if' '#ifdef WITH_CUDA' core/config.hpp
plant 'a kernel allocates' 'float* scratch = new float[9];' kernels/cpu/planted.cpp
plant 'a kernel allocates' 'std::vector<float> scratch(9);' kernels/cpu/planted.cpp
plant 'something is left to do' '// TO''DO: later' launcher/main.cpp
plant 'a floor below the launcher prints or exits' 'std::exit(1);' core/config.cpp
plant 'a name that means nothing' '' core/utils.hpp
plant 'dynamic_cast or a singleton' 'auto* base = dynamic_cast<Base*>(it);' core/config.cpp
plant 'a file has more than 600 lines' "$(seq -f '// %g' 600)" core/planted.cpp
sed -i 1d "$folder/copy/core/planted.cpp"
if answer=$(check "$folder/copy") || ! grep -q 'a file does not open with its licence:' <<<"$answer"; then
    echo "a missing licence was not found"
    problems=$((problems + 1))
fi

[ "$problems" = 0 ] || exit 1
echo "all faults are found, and the sources have none"
