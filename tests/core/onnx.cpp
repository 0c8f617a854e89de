// SPDX-License-Identifier: Apache-2.0
// Which ops are written in ONNX's operators. What they compute there is tests/whole/onnx_files.py's.
#include "core/formats/onnx/lowering.hpp"
#include "core/ops/ops.hpp"

#include <algorithm>
#include <gtest/gtest.h>
#include <set>

using namespace tessera;

// An op that is new stands in one of the two lists: it has a lowering, or it is known to have none.
TEST(OnnxLowerings, EachOpHasOneOrIsKnownToHaveNone) {
    const std::set<std::string_view> without = {
        // losses and what is told of them
        "accuracy", "binary_counts", "binary_cross_entropy", "binary_cross_entropy_loss", "confusion",
        "counted_targets", "cross_entropy", "cross_entropy_loss", "huber", "mean_absolute_error", "mean_squared_error",
        "mean_squared_error_loss", "place_scores", "regression_sums", "smoothed_cross_entropy",
        "smoothed_cross_entropy_loss", "soft_cross_entropy", "top_k_hits",
        // training alone
        "batch_norm", "dropout", "mask_tokens", "sum_rows",
        // never in f32
        "cast"};
    std::set<std::string_view> with, all;
    for (const OnnxLoweringOf& lowering : onnx_lowerings())
        EXPECT_TRUE(with.insert(lowering.op).second) << lowering.op << " stands there twice";
    for (const OpPointer& op : op_catalog()) {
        all.insert(op->name());
        EXPECT_NE(with.contains(op->name()), without.contains(op->name())) << op->name();
    }
    for (const std::string_view name : with)
        EXPECT_TRUE(all.contains(name)) << name << " is no op";
    for (const std::string_view name : without)
        EXPECT_TRUE(all.contains(name)) << name << " is no op";
    EXPECT_TRUE(std::ranges::is_sorted(onnx_lowerings(), {}, &OnnxLoweringOf::op));
}

// What refuses is named by its layer.
TEST(OnnxLowerings, AnOpWithoutOneIsRefusedByName) {
    Graph graph;
    const ValueId x = graph.input("x", {{1, 6, 8}, DType::f32});
    const ValueId y = ops::dropout(graph, "layers.3.dropout", x, 0.5);
    OnnxGraph made;
    OnnxWriter writer(graph, made);
    try {
        lower_graph(graph, std::vector{y}, writer);
        FAIL();
    } catch (const std::exception& error) {
        EXPECT_STREQ(error.what(), "'layers.3.dropout' (op dropout): is not written in ONNX's operators");
    }
}
