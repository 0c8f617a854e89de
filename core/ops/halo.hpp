// SPDX-License-Identifier: Apache-2.0
// Ops that go over images with a window, on ranks that hold strips of the images: each fetches what its windows see
// beyond its strip (the halo) from the ranks that hold it, and then works on its own. The spatial parallelism of LBANN
// (Dryden et al. 2019). Private to core/ops.
#pragma once

#include "core/graph/op.hpp"
#include "kernels/window.hpp"

namespace tessera {

// Images are (N, H, W, C), and what windows make of them (N, P, Q, K). A third dim of space would need: a third
// WindowDim in Window and kernels for it, images (N, D, H, W, C), and a mesh axis that cuts D; what stands here and in
// layout/halo.hpp goes by single dims and stays as it is, but for crop() and the two dims that dims_of_space names.
struct WindowedOp {
    enum class Reads {
        seen, // an image, or with `to_image` what windows made, of which a rank needs more than its strip
        own,  // of the same kinds, its strip alone
        whole // no image
    };

    OpPointer op; // of whole images
    Window window;
    std::int64_t height = 0, width = 0; // of the image
    std::vector<Reads> inputs;
    std::size_t outputs = 1;
    bool to_image = false;                              // a gradient: from what windows made to the image
    bool sums = false;                                  // its output is a sum over all that windows made
    std::function<OpPointer(const Window& own)> over{}; // the op on parts of images, of which `own` is the window
};

// The op on ranks of an axis that cut height or width of all images, as the inputs' placements say; nothing where they
// say neither, or no input is led there.
std::optional<Op::Substitute> with_halo(const WindowedOp& op, int axis, int ranks, std::span<const Placement> inputs);

} // namespace tessera
