// SPDX-License-Identifier: Apache-2.0
// The program: parses the subcommand; the only catch and the only exit code.
int main() { return 0; }
