// SPDX-License-Identifier: Apache-2.0
// Convolution and pooling of images that ranks hold in strips, or tiles, against the whole: forward and every gradient,
// and what the ranks send.
#include "parallel/layout/halo.hpp"
#include "core/ops/ops.hpp"
#include "parallel/communication/groups.hpp"
#include "tests/core/sharded_run.hpp"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <rapidcheck.h>

using namespace tessera;

namespace {

enum class Windowed { convolution, depthwise, max_pool, average_pool, average_pool_with_padding };

struct Case {
    Windowed kind = Windowed::convolution;
    Shape image;
    Window window;
    DType dtype = DType::f32;
    Mesh mesh{{}}; // axis 0: height, axis 1: width

    std::string text() const {
        const auto dim = [](const WindowDim& d) {
            return fmt::format("{} stride {} dilation {} padding {} {}", d.size, d.stride, d.dilation, d.before,
                               d.after);
        };
        return fmt::format("op {}, {} {} over {} / {} on {}", static_cast<int>(kind), name_of(dtype), image.text(),
                           dim(window.height), dim(window.width), mesh.text());
    }
};

Mesh spatial(int height, int width) { return Mesh({{"spatial", height}, {"spatial_width", width}}); }

// The op, then the nodes of its gradients.
Graph graph_of(const Case& one) {
    Graph graph;
    const std::int64_t channels = one.image[3];
    const bool depthwise = one.kind == Windowed::depthwise;
    const ValueId x = graph.input("x", {one.image, one.dtype});
    ValueId y = no_value;
    if (one.kind == Windowed::max_pool) {
        y = ops::max_pool(graph, "op", x, one.window);
    } else if (one.kind == Windowed::convolution || depthwise) {
        const std::int64_t filters = depthwise ? channels : 4;
        const Shape weight{filters, one.window.height.size, one.window.width.size, depthwise ? 1 : channels};
        y = ops::convolution(graph, "op", x, graph.input("w", {weight, one.dtype}),
                             graph.input("bias", {{filters}, DType::f32}), one.window, depthwise ? channels : 1);
    } else {
        y = ops::average_pool(graph, "op", x, one.window, one.kind == Windowed::average_pool_with_padding);
    }
    const ValueId dy = graph.input("dy", graph.value(y).type);
    const Node node = graph.nodes().front();
    std::vector<ValueId> gradients(node.outputs.size(), no_value);
    gradients[0] = dy;
    node.op->gradient(graph, node, gradients);
    return graph;
}

bool is_image(const Graph& graph, ValueId id) {
    return graph.value(id).type.shape.rank() == 4 && graph.value(id).name != "w";
}

// The node's op with halos along the mesh's axes, and the outputs' placements.
struct OnMesh {
    OpPointer op;
    std::vector<Placements> inputs, outputs;
};

OnMesh on_mesh(const Graph& graph, const Node& node, const Mesh& mesh) {
    OnMesh found{node.op, std::vector<Placements>(node.inputs.size()), std::vector<Placements>(node.outputs.size())};
    std::vector<TensorType> types;
    for (const ValueId id : node.inputs)
        types.push_back(graph.value(id).type);
    for (int axis = 0; axis < mesh.axis_count(); ++axis) {
        std::vector<Placement> inputs;
        for (const ValueId id : node.inputs)
            inputs.push_back(is_image(graph, id) ? Placement::shard(axis + 1) : Placement::replicate());
        const auto halo = found.op->with_halo(axis, mesh.axis(axis).size, types, inputs);
        if (!halo) throw InternalError("no halo");
        EXPECT_EQ(halo->inputs, inputs);
        found.op = halo->op;
        for (std::size_t i = 0; i < inputs.size(); ++i)
            found.inputs[i].push_back(inputs[i]);
        for (std::size_t i = 0; i < node.outputs.size(); ++i)
            found.outputs[i].push_back(halo->outputs[i]);
    }
    return found;
}

Sample part_of(const Sample& whole, const Placements& placements, const Mesh& mesh, int rank) {
    const Box box = local_box(whole.view().shape, placements, mesh, mesh.coordinate(rank));
    Sample part(box.shape(), whole.dtype());
    for_each_element(whole.view().shape, box, [&](std::int64_t place, std::int64_t i) { part.set(i, whole[place]); });
    return part;
}

// One output of all ranks against the whole. A sum is that of all ranks' summands.
void expect_whole(const std::vector<Samples>& of_rank, std::size_t output, const Placements& placements,
                  const Sample& whole, DType dtype, const Mesh& mesh) {
    if (placements[0] == Placement::partial()) {
        Samples parts;
        for (const Samples& samples : of_rank)
            parts.push_back(samples[output]);
        return expect_joined(parts, Placement::partial(), whole, dtype);
    }
    const double magnitude = largest(whole);
    for (int rank = 0; rank < mesh.size(); ++rank) {
        const Sample expected = part_of(whole, placements, mesh, rank);
        EXPECT_TRUE(close_to(of_rank[static_cast<std::size_t>(rank)][output], expected.values(),
                             tolerance(dtype, Kind::sharded),
                             std::vector<double>(static_cast<std::size_t>(expected.count()), magnitude)))
            << "rank " << rank;
    }
}

// Runs a node of the graph on the mesh and compares its outputs with those of `whole`, and what was sent with what
// the op says. Returns the bytes that each rank sent.
std::vector<std::int64_t> expect_node_is_whole(const Graph& graph, const Node& node, GraphRun& whole, const Mesh& mesh,
                                               DType dtype) {
    const OnMesh there = on_mesh(graph, node, mesh);
    std::vector<Samples> of_rank(static_cast<std::size_t>(mesh.size()));
    std::vector<std::int64_t> sent(of_rank.size());
    run_as_threads(mesh, [&](int rank, Groups groups) {
        Samples inputs, outputs;
        for (std::size_t i = 0; i < node.inputs.size(); ++i)
            inputs.push_back(part_of(whole[node.inputs[i]], there.inputs[i], mesh, rank));
        for (std::size_t i = 0; i < node.outputs.size(); ++i) {
            const Sample& all = whole[node.outputs[i]];
            outputs.emplace_back(local_box(all.view().shape, there.outputs[i], mesh, mesh.coordinate(rank)).shape(),
                                 all.dtype());
            fill_with_nan(outputs.back().view());
        }
        const std::vector<View> in = views_of(inputs), out = views_of(outputs);
        Stream stream = CpuStream(1);
        const std::int64_t bytes = there.op->workspace_bytes(stream, types_of(in), types_of(out));
        const Sample workspace({(bytes + 3) / 4}, DType::f32);
        fill_with_nan(workspace.view());
        there.op->run(stream, {in, out, workspace.view(), nullptr, &groups});
        const auto halos = there.op->halos(types_of(in), mesh.coordinate(rank));
        EXPECT_EQ(halos.size(), static_cast<std::size_t>(mesh.axis_count()));
        for (const Op::Sent& along : halos) {
            EXPECT_EQ(groups.axis(along.axis).bytes_sent(), along.bytes) << node.name << ", rank " << rank;
            sent[static_cast<std::size_t>(rank)] += along.bytes;
        }
        of_rank[static_cast<std::size_t>(rank)] = std::move(outputs);
    });
    for (std::size_t i = 0; i < node.outputs.size(); ++i)
        expect_whole(of_rank, i, there.outputs[i], whole[node.outputs[i]], dtype, mesh);
    return sent;
}

// Of all nodes that look beyond a strip: the op, then its gradients.
std::vector<std::vector<std::int64_t>> expect_halos_are_whole(const Case& one) {
    SCOPED_TRACE(one.text());
    const Graph graph = graph_of(one);
    GraphRun whole(graph);
    std::mt19937 generator(5);
    for (const ValueId id : graph.of_kind(ValueKind::input))
        fill_randomly(whole[id], generator);
    whole.run({});
    std::vector<std::vector<std::int64_t>> sent;
    for (const Node& node : graph.nodes())
        if (node.op->name() != "sum_rows") // the bias's
            sent.push_back(expect_node_is_whole(graph, node, whole, one.mesh, one.dtype));
    return sent;
}

WindowDim any_window() {
    const auto below = [](int end) { return *rc::gen::inRange<std::int64_t>(0, end); };
    return {
        .size = 1 + below(4), .stride = 1 + below(3), .dilation = 1 + below(3), .before = below(3), .after = below(3)};
}

} // namespace

TEST(Halo, StripsAndTilesOfAnyShapeAreWhole) {
    int run = 0;
    rc::check([&] {
        Case one;
        one.kind = *rc::gen::element(Windowed::convolution, Windowed::depthwise, Windowed::max_pool,
                                     Windowed::average_pool, Windowed::average_pool_with_padding);
        one.image = {2, *rc::gen::inRange<std::int64_t>(1, 13), *rc::gen::inRange<std::int64_t>(1, 9), 3};
        one.window = {any_window(), any_window()};
        one.dtype = *rc::gen::element(DType::f32, DType::bf16);
        const auto [height, width] = *rc::gen::element(std::pair{2, 1}, std::pair{3, 1}, std::pair{4, 1},
                                                       std::pair{1, 2}, std::pair{2, 2}, std::pair{3, 2});
        one.mesh = spatial(height, width);
        try {
            graph_of(one);
        } catch (const ConfigError&) { // an image smaller than the window, or a pooling of padding alone
            return;
        }
        ++run;
        expect_halos_are_whole(one);
        RC_ASSERT(!testing::Test::HasFailure());
    });
    EXPECT_GT(run, 30);
}

// Three rows by three columns, as in most networks: one row to each neighbour, of what is fetched and nothing else.
TEST(Halo, OnlyTheRowsAtTheEdgesTravel) {
    const WindowDim three{.size = 3, .before = 1, .after = 1};
    for (const std::int64_t height : {28, 7})
        for (const int ranks : {2, 3, 4})
            for (const DType dtype : {DType::f32, DType::bf16}) {
                const Case one{Windowed::convolution, {2, height, 5, 3}, {three, three}, dtype, spatial(ranks, 1)};
                const auto sent = expect_halos_are_whole(one);
                ASSERT_EQ(sent.size(), 3u);
                const std::int64_t row_of_x = 2 * 5 * 3 * bytes_of(dtype), row_of_dy = 2 * 5 * 4 * bytes_of(dtype);
                for (int rank = 0; rank < ranks; ++rank) {
                    const int neighbours = rank == 0 || rank == ranks - 1 ? 1 : 2;
                    const auto at = static_cast<std::size_t>(rank);
                    EXPECT_EQ(sent[0][at], neighbours * row_of_x);
                    EXPECT_EQ(sent[1][at], neighbours * row_of_dy); // for the gradient of x
                    EXPECT_EQ(sent[2][at], neighbours * row_of_x);  // for that of w
                }
            }
}

// A window wider than a strip fetches from several ranks; after strides some ranks have no output left.
TEST(Halo, WideWindowsAndEmptyStripsAreWhole) {
    const Window wide{{.size = 5, .dilation = 2, .before = 4, .after = 4}, {}};
    const Window far{{.size = 2, .stride = 4}, {.size = 2, .stride = 2}};
    for (const Windowed kind : {Windowed::convolution, Windowed::depthwise, Windowed::max_pool, Windowed::average_pool})
        for (const Window& window : {wide, far})
            for (const std::int64_t height : {3, 6})
                expect_halos_are_whole({kind, {1, height, 4, 3}, window, DType::f32, spatial(4, 1)});
}

// Where windows leave gaps, or fit the strips, nobody asks for a row.
TEST(Halo, NothingTravelsWhereNoWindowLooksOverAnEdge) {
    const Window two{{.size = 2, .stride = 2}, {.size = 2, .stride = 2}};
    for (const Windowed kind : {Windowed::convolution, Windowed::max_pool, Windowed::average_pool})
        for (const auto& sent : expect_halos_are_whole({kind, {2, 8, 4, 3}, two, DType::f32, spatial(2, 2)}))
            EXPECT_THAT(sent, testing::Each(0));
}
