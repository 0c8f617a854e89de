// SPDX-License-Identifier: Apache-2.0
// How many bytes of text stand for a token, so that losses of different tokenizers can be compared.
#pragma once

#include "core/data/dataset.hpp"
#include "core/data/sample_order.hpp"

namespace tessera {

// Bytes of the text of all targets in the first `samples` windows of this order of the validation split, by their
// number. Throws ConfigError where nobody can tell: there is no tokenizer, or samples are no windows of a text.
double bytes_per_token(const Dataset& dataset, const SampleOrder& order, std::int64_t samples);

// Of a mean loss of a token in nats.
double bits_per_byte(double loss, double bytes_per_token);

} // namespace tessera
