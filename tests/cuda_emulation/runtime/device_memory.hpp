// SPDX-License-Identifier: Apache-2.0
// The memory of the devices: pieces of a range of addresses that nobody else uses, with pages between them that nobody
// may touch. A freed piece becomes such pages, and its addresses are given out again only much later.
#pragma once

#include <cstddef>
#include <deque>
#include <map>

namespace tessera::emulation {

class DeviceMemory {
public:
    struct Piece {
        char* start;
        std::size_t bytes;
        int device;
    };

    DeviceMemory();
    DeviceMemory(const DeviceMemory&) = delete;
    DeviceMemory& operator=(const DeviceMemory&) = delete;

    void* allocate(std::size_t bytes, int device); // filled with garbage; null: the device has no room
    bool release(const void* start);
    const Piece* find(const void* address) const; // the piece that holds it
    bool reserves(const void* address) const;     // an address that only devices use
    std::size_t used(int device) const;

    // Where the settings ask for protection, the memory can be touched only between the two; calls nest.
    void open();
    void close();

private:
    struct Pages {
        char* first;
        std::size_t bytes; // with the page behind that nobody may touch
    };
    Pages take_pages(std::size_t bytes);

    char* base_ = nullptr;
    char* top_ = nullptr; // nothing behind it was ever given out
    std::map<const char*, Piece> pieces_;
    std::map<const char*, Pages> pages_; // of each piece
    std::deque<Pages> freed_;            // oldest first
    std::size_t freed_bytes_ = 0;
    std::map<int, std::size_t> used_;
    int opened_ = 0;
};

} // namespace tessera::emulation
