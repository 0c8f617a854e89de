#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Packs what a machine with a GPU needs to test and measure this build, for one that has CUDA's libraries and python3 with
# PyTorch, but no Open MPI, HDF5 or Boost, and a glibc that is no older than this machine's. See --help.
set -euo pipefail
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.."

most_bytes=$((64 << 20)) # what one transfer to a lent machine may hold
programs=(tessera test_kernels_cuda test_core_cuda test_parallel_cuda test_parallel_mpi_cuda
    bench_step_profile_cuda bench_gpu_kernels_cuda bench_gpu_nccl_cuda)
# The target's own: glibc, the compiler's runtime, CUDA.
left_out='^(ld-linux.*|libc|libm|libpthread|libdl|librt|libresolv|libutil|libgcc_s|libstdc\+\+|libcuda|libcudart|libcublas|libcublasLt|libcudnn.*|libnccl|libnvrtc|libnvJitLink)\.so'

usage() {
    cat <<'TEXT'
usage: cluster/gpu_bundle.sh [--as-built] [BUILD_FOLDER] [OUT.tgz]     (build, BUILD_FOLDER/tessera_gpu.tgz)

Builds the target gpu_bundle_programs in BUILD_FOLDER, which has been configured
with CUDA (CMAKE_CUDA_ARCHITECTURES=90-real makes it smaller), and packs them
with mpirun, the libraries they need, configs, a text, tests and benchmarks.
--as-built: builds nothing, and packs the programs that are there.

There: tar xzf tessera_gpu.tgz && tessera_gpu/run_all --out RESULTS
TEXT
}

say() { printf 'gpu_bundle: %s\n' "$*"; }

refuse() {
    printf 'gpu_bundle: %s\n' "$*" >&2
    exit 2
}

copy_programs() {
    local program file
    mkdir -p "$bundle/programs" "$bundle/bin" "$bundle/lib"
    for program in "${programs[@]}"; do
        file=$build/tests/$program
        [ "$program" = tessera ] && file=$build/tessera
        if [ -x "$file" ]; then
            cp "$file" "$bundle/programs/"
        elif [ "$as_built" = yes ]; then
            say "left out, since it is not built: $program"
        else
            refuse "there is no $file"
        fi
    done
    [ -x "$bundle/programs/tessera" ] || refuse "there is no $build/tessera"
    ln -s ../ompi/bin/mpirun "$bundle/programs/mpirun"
    # A substitute of NCCL that sums over MPI, for several ranks on one GPU.
    file=$build/tests/cuda_emulation/nccl_over_mpi/libnccl.so.2
    if [ -e "$file" ]; then
        mkdir "$bundle/lib/nccl_over_mpi"
        cp -L "$file" "$bundle/lib/nccl_over_mpi/libnccl.so.2"
    elif [ "$as_built" = no ]; then
        refuse "there is no $file"
    fi
}

# Open MPI of one machine: shared memory and TCP, without fabrics, schedulers, OpenSHMEM and parallel files.
copy_mpi() {
    local plugins=$libraries/openmpi/lib/openmpi3 pmix=$libraries/pmix2/lib/pmix file
    [ -d "$plugins" ] && [ -d "$pmix" ] || refuse "no Debian Open MPI in $plugins with PMIx in $pmix"
    mkdir -p "$bundle/ompi/bin" "$bundle/ompi/share" "$bundle/ompi${plugins#/usr}" "$bundle/pmix${pmix#/usr}" "$bundle/pmix/share"
    cp -L /usr/bin/orterun "$bundle/ompi/bin/mpirun"
    cp -L /usr/bin/orted "$bundle/ompi/bin/"
    cp -r /usr/share/openmpi "$bundle/ompi/share/"
    [ ! -d /usr/share/pmix2 ] || cp -r /usr/share/pmix2 "$bundle/pmix/share/"
    for file in "$plugins"/mca_*.so; do
        case $(basename "$file") in
            *ofi* | *openib* | *psm* | *ucx* | *verbs* | *usnic* | *memheap* | *spml* | *scoll* | *sshmem* | *slurm* | *_tm.so | \
                *monitoring* | *portals* | *romio* | *_gridengine* | *loadleveler* | *crs* | *vprotocol*) ;;
            *) cp -L "$file" "$bundle/ompi${plugins#/usr}/" ;;
        esac
    done
    cp -L "$pmix"/*.so "$bundle/pmix${pmix#/usr}/"
}

# What all of these load, but for what the target has; and the names of CUDA's libraries that they want there.
copy_libraries() {
    local files file
    mapfile -t files < <(find "$bundle" -type f \( -name '*.so*' -o -path '*/programs/*' -o -path '*/ompi/bin/*' \))
    ldd "${files[@]}" 2>/dev/null | awk '$2 == "=>" && $3 ~ /^\// { print $3 }' | sort -u | while read -r file; do
        [[ $(basename "$file") =~ $left_out ]] || cp -Ln "$file" "$bundle/lib/"
    done
    # Those that the programs name, and those that cuDNN opens while it runs.
    {
        readelf -d "$bundle"/programs/* 2>/dev/null | sed -n 's/.*NEEDED.*\[\(lib\(cu\|nccl\|nv\)[^]]*\)\]/\1/p'
        printf '%s\n' libcublas.so.13 libnvrtc.so.13
    } | sort -u >"$bundle/cuda_libraries"
    find "$bundle" -type f \( -name '*.so*' -o -path '*/programs/*' -o -path '*/ompi/bin/*' \) -exec strip --strip-unneeded {} +
}

write_environment() {
    sed "s|@PLUGINS@|pmix${libraries#/usr}/pmix2/lib/pmix|" >"$bundle/env.sh" <<'SH'
# SPDX-License-Identifier: Apache-2.0
# What the programs of this bundle need in their environment; bin/ and run_all read it.
# CUDA_LIBS: colon-separated folders of CUDA's libraries; without it they are looked for once.
bundle=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
if [ -z "${CUDA_LIBS:-}" ] && ! read -r CUDA_LIBS 2>/dev/null <"$bundle/cuda_folders"; then
    CUDA_LIBS=$(while read -r library; do
        for root in /usr/local /usr/lib /opt /; do
            file=$(find "$root" -xdev -name "$library" -not -path '*/stubs/*' -print -quit 2>/dev/null)
            [ -z "$file" ] || break
        done
        [ -z "$file" ] || dirname "$file"
    done <"$bundle/cuda_libraries" | awk '!seen[$0]++' | paste -sd :)
    printf '%s\n' "$CUDA_LIBS" >"$bundle/cuda_folders.$$" && mv "$bundle/cuda_folders.$$" "$bundle/cuda_folders"
fi
export CUDA_LIBS
export OPAL_PREFIX=$bundle/ompi OPAL_SYSCONFDIR=$bundle/ompi/etc PMIX_INSTALL_PREFIX=$bundle/pmix
export PMIX_MCA_mca_base_component_path=$bundle/@PLUGINS@
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OMPI_MCA_pml=ob1 OMPI_MCA_btl=${OMPI_MCA_btl:-self,vader,tcp} OMPI_MCA_plm=isolated
export OMPI_MCA_btl_tcp_if_include=lo OMPI_MCA_oob_tcp_if_include=lo OMPI_MCA_btl_vader_single_copy_mechanism=none
export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_hwloc_base_binding_policy=none
# NCCL_OVER_MPI=1: the substitute of NCCL, with which several ranks share a GPU.
first=$bundle/lib
[ "${NCCL_OVER_MPI:-0}" = 0 ] || first=$bundle/lib/nccl_over_mpi:$first
export LD_LIBRARY_PATH=$first:$CUDA_LIBS${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
SH
    cat >"$bundle/bin/start" <<'SH'
#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Starts the program of this bundle by whose name it is called.
bundle=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/..
source "$bundle/env.sh"
exec "$bundle/programs/$(basename "$0")" "$@"
SH
    chmod +x "$bundle/bin/start"
    local program
    for program in "$bundle"/programs/*; do
        ln -s start "$bundle/bin/$(basename "$program")"
    done
}

copy_sources() {
    mkdir -p "$bundle/source/tests"
    cp -r configs "$bundle/source/"
    cp -r tests/support tests/whole tests/benchmarks "$bundle/source/tests/"
    cp cluster/gpu_session.sh "$bundle/run_all"
    git describe --always --dirty >"$bundle/version" 2>/dev/null || echo unknown >"$bundle/version"
}

# The corpus of the quick start, or what there is of plain text.
copy_text() {
    if [ -s corpus/kjv.txt ]; then
        cat corpus/kjv.txt
    elif command -v bible >/dev/null; then
        bible -f gen1:1-rev22:21 | sed 's/^[^ ]* //'
    else
        cat /usr/share/common-licenses/*
    fi >"$bundle/text.txt"
}

as_built=no
words=()
for word in "$@"; do
    case $word in
        --as-built) as_built=yes ;;
        --help | -h)
            usage
            exit
            ;;
        -*) refuse "no option named '$word'; see --help" ;;
        *) words+=("$word") ;;
    esac
done
build=${words[0]:-build}
out=${words[1]:-$build/tessera_gpu.tgz}
[ -e "$build/CMakeCache.txt" ] || refuse "$build is no build folder"
grep -q '^CMAKE_CUDA_ARCHITECTURES:' "$build/CMakeCache.txt" || refuse "$build has been configured without CUDA"
libraries=/usr/lib/$(gcc -print-multiarch)
[ "$as_built" = yes ] || cmake --build "$build" --target gpu_bundle_programs -j "$(nproc)"

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
bundle=$folder/tessera_gpu
copy_programs
copy_mpi
copy_libraries
write_environment
copy_sources
copy_text
tar -C "$folder" -czf "$out" tessera_gpu
bytes=$(stat -c %s "$out")
du -sh "$bundle"/* | sort -h
say "$out: $bytes bytes, unpacked $(du -sb "$bundle" | cut -f 1)"
[ "$bytes" -le "$most_bytes" ] || refuse "$out is larger than $most_bytes bytes: configure $build with -DCMAKE_CUDA_ARCHITECTURES=90-real"
