// SPDX-License-Identifier: Apache-2.0
// An op answers five questions: infer, gradient, placements, run, example. It holds attributes, never state.
#pragma once

#include "kernels/stream.hpp"
#include "kernels/tensor.hpp"
#include "parallel/layout/placement.hpp"
#include "parallel/layout/redistribute.hpp"

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace tessera {

class Attributes;
class Graph;
class Groups;
struct Node;

using ValueId = std::int32_t;
inline constexpr ValueId no_value = -1;

struct TensorType {
    Shape shape;
    DType dtype = DType::f32;

    std::int64_t bytes() const { return shape.count() * bytes_of(dtype); }
    friend bool operator==(const TensorType&, const TensorType&) = default;
};

// What changes from step to step and from micro-batch to micro-batch. It reaches ops as step inputs only
// (Graph::step_input): a GPU records what they run once and replays it in every step.
struct StepState {
    std::uint64_t seed = 1;
    std::int64_t step = 0;         // 0-based
    std::int64_t first_sample = 0; // of this micro-batch, within the step's global batch
    double learning_rate = 0;
    std::int64_t skipped_steps = 0; // earlier ones that changed nothing: f16 gradients that were not finite
};

// What a rank's operands are parts of. The values of a micro-batch are whole along the data axis.
struct Locality {
    std::vector<Shape> wholes; // the inputs' logical shapes
    std::vector<Box> inputs;   // this rank's parts of them
    std::vector<Range> runs;   // the elements of its part that it holds: all but where an axis has Flat
    // Whether this rank adds an input to output 0 where that is a sum over the ranks of an axis. One of the ranks that
    // hold the same input does, the others must leave it out.
    std::vector<bool> counts;
    // Where an axis of so many ranks cuts a dim zig-zag (layout/zigzag.hpp), `inputs` counts its places. Empty:
    // nowhere.
    struct Zigzag {
        int dim = -1; // of none
        int ranks = 1;
    };
    std::vector<Zigzag> zigzags;
};

// What a running op is given. Shapes are this rank's (local); views of `inputs` are written only where writes() says
// so.
struct Operands {
    std::span<const View> inputs;
    std::span<const View> outputs;
    View workspace;
    const Locality* locality = nullptr; // null: all tensors are whole
    Groups* groups = nullptr;           // for collectives; null where there are none

    bool counts(std::size_t input) const { return locality == nullptr || locality->counts[input]; }
};

// One way to run an op on the ranks of one mesh axis without communication: where each input must be, where each output
// then is. That everything may be replicated goes without saying.
struct PlacementRule {
    std::vector<Placement> inputs;
    std::vector<Placement> outputs;
};

// Writes a step input's numbers into memory of the host.
using StepFunction = std::function<void(const StepState& state, const View& host)>;

// Small inputs for the tests that walk the catalog.
struct ExampleInput {
    TensorType type;
    bool differentiable = true; // an i32 input never is
    std::int32_t below = 0;     // i32: random ids in [0, below)
    double offset = 0;          // f32: added to the random normal numbers
    StepFunction of_step{};     // of a step input, which is not differentiable
};

class Op {
public:
    virtual ~Op() = default;

    virtual std::string_view name() const = 0;

    // Types of the outputs. Throws ConfigError that says what was found and what is expected; Graph adds the node's
    // name.
    virtual std::vector<TensorType> infer(std::span<const TensorType> inputs) const = 0;

    // Appends the nodes that compute the gradients of `node`'s inputs and returns one value per input (no_value where
    // there is none). `output_gradients` holds one value per output, no_value where nothing depends on it.
    virtual std::vector<ValueId> gradient(Graph& graph, const Node& node,
                                          std::span<const ValueId> output_gradients) const;

    virtual std::vector<PlacementRule> placements(std::span<const TensorType> inputs) const;

    // More rules for an op that must see all samples of a micro-batch: over an axis whose ranks share out
    // micro-batches, where Shard(0) of a value means that each rank has its own, and Partial that they are summed over
    // the step.
    virtual std::vector<PlacementRule> micro_batch_rules(std::span<const TensorType>) const { return {}; }

    // Where the outputs are when the inputs are placed so, not all of them on every rank; nothing when the op cannot
    // run so without communication. By the first of `placements` that fits; an op that treats many tensors, each on its
    // own, answers for itself.
    virtual std::optional<std::vector<Placement>> placed(std::span<const TensorType> types,
                                                         std::span<const Placement> inputs) const;

    // The op looks at where this input is, not at what it holds.
    virtual bool ignores(std::size_t /*input*/) const { return false; }

    // Two ops that do the same on ranks over which the inputs are placed so, but for a collective between them: the
    // first makes one tensor of the op's inputs, the second has the op's outputs and takes that tensor as last input.
    // Each has rules of its own. Nothing when there is no such way.
    struct Halves {
        std::shared_ptr<const Op> first, second;
    };
    virtual std::optional<Halves> halves(std::span<const TensorType>, std::span<const Placement>, int /*ranks*/) const {
        return std::nullopt;
    }

    // An op that does the same on the ranks of an axis, and itself sends between them while it runs; and where its
    // outputs then are. It is the same on every rank.
    struct Substitute {
        std::shared_ptr<const Op> op;
        std::vector<Placement> outputs;
        std::vector<Placement> inputs{}; // where it wants them; none: where they are
    };
    // That sends parts around the ring of ranks, over which the inputs are placed so (Shard: zig-zag). Nothing when
    // there is no such way.
    virtual std::optional<Substitute> around_ring(int /*axis*/, int /*ranks*/, std::span<const TensorType>,
                                                  std::span<const Placement>) const {
        return std::nullopt;
    }
    // That fetches what lies beyond the edges of a rank's Shards from the ranks that hold it. Nothing likewise.
    virtual std::optional<Substitute> with_halo(int /*axis*/, int /*ranks*/, std::span<const TensorType>,
                                                std::span<const Placement>) const {
        return std::nullopt;
    }
    // Bytes of a rank's parts that travel to all others (Collective::ring), given what it holds.
    virtual std::int64_t travelling_bytes(std::span<const TensorType> /*inputs*/) const { return 0; }
    // What the rank at these coordinates of the mesh sends to others (Collective::halo), by axis, given what it holds.
    struct Sent {
        int axis;
        std::int64_t bytes;
    };
    virtual std::vector<Sent> halos(std::span<const TensorType> /*inputs*/,
                                    const std::vector<int>& /*coordinate*/) const {
        return {};
    }

    // Of an op that the plan has inserted, or that sends itself: what it does between the ranks of an axis of the mesh.
    struct Transfer {
        int axis;
        Collective collective;
    };
    virtual std::optional<Transfer> transfer() const { return std::nullopt; }

    // What it was told when it was made, where others write it down (attributes.hpp); most say nothing.
    virtual Attributes attributes() const;

    virtual void run(Stream& stream, const Operands& operands) const = 0;
    // Of a collective that need not end yet: begins it. Returns what its axis's communicator calls the ticket.
    virtual std::int64_t begin(Stream& stream, const Operands& operands) const {
        run(stream, operands);
        return -1;
    }

    // Empty when the op needs no example of its own because it is another op's gradient or an optimizer's update.
    virtual std::vector<ExampleInput> example() const { return {}; }

    virtual std::int64_t workspace_bytes(const Stream&, std::span<const TensorType>,
                                         std::span<const TensorType>) const {
        return 0;
    }
    // Output 0 may take over the memory of this input when nobody needs the input afterwards; -1: never.
    virtual int in_place_input() const { return -1; }
    // Inputs that the op writes to: weights and optimizer states.
    virtual std::vector<int> writes() const { return {}; }
    // Its output takes more memory than doing it again takes time: element by element, from inputs that are kept
    // anyway.
    virtual bool is_cheap() const { return false; }
    virtual double flops(std::span<const TensorType>, std::span<const TensorType>) const { return 0; }
};

using OpPointer = std::shared_ptr<const Op>;

// Rules for an op that treats the first `dims` dims of all its inputs and outputs alike, element by element.
std::vector<PlacementRule> elementwise_rules(int dims, std::size_t inputs, std::size_t outputs);

} // namespace tessera
