// SPDX-License-Identifier: Apache-2.0
// What a way to parallelise says: where tensors live on one axis of the mesh. It moves nothing and sees no graph.
#pragma once

#include "parallel/layout/placement.hpp"

#include <string>
#include <string_view>

namespace tessera {

struct ParameterDescription {
    std::string name;
    Shape shape;      // of the whole parameter
    std::string role; // what it is to its layer ("column", "row", "head", "norm", …)
    int layer = 0;    // the number of its layer, from 0
};

struct InputDescription { // of what is read from the data for a micro-batch
    std::string name;
    Shape shape;      // of a micro-batch, dim 0 counting samples
    std::string role; // what the samples are: "tokens" (dim 1 counts time), "image" (N, H, W, C), "": all else
};

struct ParameterPlacement {
    Placement rest;           // between steps
    Placement use;            // while its layer computes; where that is a part of what rests whole, a rank takes it
    Placement gradient;       // once a step's gradient is finished
    Placement state;          // the optimizer's
    bool stays_in_use = true; // where rest is not use: led there once a step, or whenever its layer computes
};

class Strategy {
public:
    virtual ~Strategy() = default;
    virtual std::string_view axis() const = 0; // the mesh's axis that it speaks of
    virtual ParameterPlacement place(const ParameterDescription& parameter) const = 0;
    virtual Placement input(const InputDescription& input) const = 0;
    virtual Placement activation() const = 0; // what sums over the axis become between layers
    // A Shard over the axis cuts a dim zig-zag (layout/zigzag.hpp), and ops that can do so send parts around the ring
    // of its ranks rather than gather or exchange them.
    virtual bool zigzag() const { return false; }
    // What an op on images sees beyond the edges of a Shard is fetched from the ranks that hold it (layout/halo.hpp)
    // rather than gathered.
    virtual bool exchanges_halos() const { return false; }
    // Gradients and loss are summed over the axis in every micro-batch, not once a step.
    virtual bool sums_every_micro_batch() const { return false; }
};

} // namespace tessera
