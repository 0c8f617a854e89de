// SPDX-License-Identifier: Apache-2.0
// Some neighbouring elements that one thread moves at once, and whether memory allows that.
#pragma once

#include "kernels/cuda/launch.cuh"

#include <initializer_list>

namespace tessera::cuda {

// `width` elements, a power of two. Its memory starts at a multiple of its size, or of 16 bytes where it is larger.
template <class T, int width> struct alignas(sizeof(T) * width < 16 ? sizeof(T) * width : 16) Pack {
    T element[width];
};

template <int width, class T> __device__ __forceinline__ Pack<T, width> load_pack(const T* from) {
    return *reinterpret_cast<const Pack<T, width>*>(from);
}
template <class T, int width> __device__ __forceinline__ void store_pack(T* to, const Pack<T, width>& pack) {
    *reinterpret_cast<Pack<T, width>*>(to) = pack;
}

// Whether all of these start at multiples of 16 bytes; null does.
inline bool aligned(std::initializer_list<const void*> pointers) {
    std::uintptr_t bits = 0;
    for (const void* pointer : pointers)
        bits |= reinterpret_cast<std::uintptr_t>(pointer);
    return bits % 16 == 0;
}

} // namespace tessera::cuda
