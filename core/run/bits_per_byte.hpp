// SPDX-License-Identifier: Apache-2.0
// How many bytes of text stand for tokens, so that losses of different tokenizers can be compared.
#pragma once

#include "core/data/dataset.hpp"
#include "core/data/sample_order.hpp"
#include "parallel/communication/communicator.hpp"

namespace tessera {

// Bytes of the text of all targets in the first `samples` windows of this order of the validation split. Called by all
// ranks together: each decodes its share, and all are told the sum, the same on any number of them. `host` is where
// `all` exchanges what the host has. Throws ConfigError where nobody can tell: there is no tokenizer, or samples are no
// windows of a text.
std::int64_t text_bytes(const Dataset& dataset, const SampleOrder& order, std::int64_t samples, Communicator& all,
                        Stream& host);

// Of the mean loss in nats of so many tokens, which stand for so many bytes.
double bits_per_byte(double loss, std::int64_t tokens, std::int64_t bytes);

} // namespace tessera
