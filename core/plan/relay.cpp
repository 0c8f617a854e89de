// SPDX-License-Identifier: Apache-2.0
// All stages come by here, in one order; two of them have something to do.
#include "core/plan/relay.hpp"

#include "parallel/communication/groups.hpp"

namespace tessera {

void Relay::run(Stream& stream, const Operands& a) const {
    Communicator& stages = a.groups->axis(axis_);
    if (stages.rank() == from_) stages.send(stream, a.inputs[0], to_);
    if (stages.rank() == to_) stages.receive(stream, a.outputs[0], from_);
}

} // namespace tessera
