// SPDX-License-Identifier: Apache-2.0
// A communicator whose calls are recorded, and, where a person asks for it, compared between the ranks beforehand.
#pragma once

#include "parallel/communication/communicator.hpp"
#include "parallel/communication/flight_recorder.hpp"
#include "parallel/communication/process_group.hpp"

#include <memory>
#include <optional>
#include <string>

namespace tessera {

// The axis as the recorder counts it, and as people call it.
struct RecordedAxis {
    int number = 0;
    std::string name;
};

// Does what `communicator` does. `recorder` outlives it. With `check`, a group of the same ranks, all ranks compare
// call, name, shape and dtype before each call in which all of them take part: InternalError on every rank, with both,
// where two differ. That costs an exchange between all of them per call. Ranks that are in calls of different axes
// still wait for each other. A call that a GPU replays is compared when it is recorded.
std::unique_ptr<Communicator> make_recorded_communicator(std::unique_ptr<Communicator> communicator, RecordedAxis axis,
                                                         FlightRecorder& recorder, std::optional<ProcessGroup> check);

} // namespace tessera
