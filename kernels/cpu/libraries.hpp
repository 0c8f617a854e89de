// SPDX-License-Identifier: Apache-2.0
// What a CpuStream keeps of its libraries: the oneDNN engine and stream, and the matmul primitives made so far.
// This is the only header that knows oneDNN.
#pragma once

namespace tessera {

class CpuLibraries {};

} // namespace tessera
