// SPDX-License-Identifier: Apache-2.0
// Neighbouring elements that one thread moves at once, whatever their type; and when memory allows it.
#pragma once

#include "kernels/cuda/launch.cuh"

#include <algorithm>
#include <cstring>
#include <initializer_list>

namespace tessera::cuda {

// More than 16 bytes are several moves.
template <class T, int width> struct alignas(std::min(16, width* static_cast<int>(sizeof(T)))) Piece {
    T element[width];
};

template <int width, class T> __device__ __forceinline__ Piece<T, width> load_piece(const T* from) {
    return *reinterpret_cast<const Piece<T, width>*>(from);
}

// To global memory. Through the intrinsic, which stays one instruction: plain stores of structures are seen to be taken
// apart.
template <class T, int width> __device__ __forceinline__ void store_piece(T* to, const Piece<T, width>& piece) {
    if constexpr (sizeof piece % sizeof(uint4) == 0) {
#pragma unroll
        for (unsigned part = 0; part < sizeof piece / sizeof(uint4); ++part) {
            unsigned word[4];
            memcpy(word, piece.element + part * sizeof word / sizeof(T), sizeof word);
            __stcg(reinterpret_cast<uint4*>(to) + part, make_uint4(word[0], word[1], word[2], word[3]));
        }
    } else {
        *reinterpret_cast<Piece<T, width>*>(to) = piece;
    }
}

// Whether 16 bytes at a time can be moved from the start of each of these. Null, for what is absent, is no obstacle.
inline bool aligned(std::initializer_list<const void*> starts) {
    return std::all_of(starts.begin(), starts.end(),
                       [](const void* start) { return reinterpret_cast<std::uintptr_t>(start) % 16 == 0; });
}

// Calls work.template operator()<width>() with the elements of T in 16 bytes where `wide`, else with 1.
template <class T, class Work> void with_width(bool wide, const Work& work) {
    if (wide)
        work.template operator()<Vector<T>::count>();
    else
        work.template operator()<1>();
}

} // namespace tessera::cuda
