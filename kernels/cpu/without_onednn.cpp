// SPDX-License-Identifier: Apache-2.0
// In place of onednn.cpp where oneDNN was not found: there is no call to make.
#include "kernels/cpu/onednn.hpp"

#include "kernels/error.hpp"

namespace tessera::kernels {

struct OnednnCall::State {};

namespace {

[[noreturn]] void refuse() { throw InternalError("a call of oneDNN in a build without it"); }

} // namespace

OnednnCall::OnednnCall(std::unique_ptr<State> state) : state_(std::move(state)) {}
OnednnCall::~OnednnCall() = default;

const OnednnCall* OnednnCall::find(const OnednnConvolution&) { return nullptr; }
const std::string& OnednnCall::name() const { refuse(); }
std::int64_t OnednnCall::weights_bytes() const { refuse(); }
std::int64_t OnednnCall::scratch_bytes() const { refuse(); }
bool OnednnCall::has_weights_of(const OnednnCall&) const { refuse(); }
void OnednnCall::compile() const { refuse(); }
void OnednnCall::pack_weights(const void*, void*) const { refuse(); }
void OnednnCall::unpack_weights(const void*, float*) const { refuse(); }
void OnednnCall::run(void*, void*, const float*, void*, void*) const { refuse(); }

} // namespace tessera::kernels
