// SPDX-License-Identifier: Apache-2.0
// A rank that stops, dies or leaves something out on purpose, so that a watchdog can be seen to notice.
#pragma once

#include "parallel/communication/flight_recorder.hpp"

#include <memory>
#include <string>
#include <vector>

namespace tessera {

// "RANK STEP WHERE WHAT", as in "2 5 reading sleep:30": rank 2, in step 5 (from 1), where it begins to read data.
//   WHERE  reading, computing (a node), saving, evaluating, auditing
//   WHAT   sleep:SECONDS, spin (for ever), exit (code 0, without MPI_Finalize), leave (code 0, after MPI_Finalize),
//          abort, stop (SIGSTOP), or skip: the next collective is left out
// It happens once. Null for another rank than that of the fault. ConfigError for any other text, on every rank.
std::unique_ptr<FlightRecorder::Fault> planted_stall(const std::string& fault, int rank);

} // namespace tessera
