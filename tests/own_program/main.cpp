// SPDX-License-Identifier: Apache-2.0
// All of `tessera`, with three parts more.
#include "parts.hpp"

#include "launcher/program.hpp"

int main(int argc, char** argv) {
    tessera::extend({.keys = moons_keys(),
                     .layers = {softplus_layer()},
                     .optimizers = {sign_descent()},
                     .readers = {moons_reader()}});
    return tessera::run_program(argc, argv);
}
