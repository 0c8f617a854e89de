// SPDX-License-Identifier: Apache-2.0
// What the program's exit code says, to people, batch scripts and `tessera launch`. Only launcher/main.cpp chooses one
// for an exception; a command returns one of these when it ends.
#pragma once

namespace tessera::exit_code {

inline constexpr int done = 0;
inline constexpr int failure = 1;    // the machine or a library refused, or a comparison found a difference
inline constexpr int usage = 2;      // ConfigError: a command line or a config that a person can mend
inline constexpr int data = 3;       // DataError: data that cannot be read, or are not what they should be
inline constexpr int lost = 4;       // LostError: a rank or a link to it is gone, or stands still; a restart may help
inline constexpr int diverged = 5;   // DivergedError: training itself went wrong; a restart comes to the same
inline constexpr int run_again = 75; // stopped on request, with a checkpoint (EX_TEMPFAIL)
inline constexpr int interrupted = 130; // a second SIGINT: ended at once, without a checkpoint (128 + SIGINT)

} // namespace tessera::exit_code
