// SPDX-License-Identifier: Apache-2.0
// Pieces of files in memory: those used last, as many as fit into so many bytes.
#pragma once

#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <utility>

namespace tessera {

// Not for two threads at once; what `get` gives stays as long as somebody holds it.
template <class Piece> class PieceCache {
public:
    using Key = std::pair<std::int64_t, std::int64_t>; // file, piece of it

    explicit PieceCache(std::int64_t most_bytes = 0) : most_bytes_(most_bytes) {}

    // The piece of this key, or that of `read()`, which has `bytes`. One larger than all room is kept alone.
    template <class Read> std::shared_ptr<const Piece> get(const Key& key, std::int64_t bytes, const Read& read) {
        if (const auto found = places_.find(key); found != places_.end()) {
            used_.splice(used_.begin(), used_, found->second);
            return used_.front().piece;
        }
        while (!used_.empty() && bytes_ + bytes > most_bytes_) {
            bytes_ -= used_.back().bytes;
            places_.erase(used_.back().key);
            used_.pop_back();
        }
        used_.push_front({key, bytes, std::make_shared<const Piece>(read())});
        places_.emplace(key, used_.begin());
        bytes_ += bytes;
        return used_.front().piece;
    }

private:
    struct Kept {
        Key key;
        std::int64_t bytes;
        std::shared_ptr<const Piece> piece;
    };

    std::int64_t most_bytes_, bytes_ = 0;
    std::list<Kept> used_; // last first
    std::map<Key, typename std::list<Kept>::iterator> places_;
};

} // namespace tessera
