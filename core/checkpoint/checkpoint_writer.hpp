// SPDX-License-Identifier: Apache-2.0
// A save beside other work: begun by all ranks, written by a thread on each, settled by all ranks.
#pragma once

#include "core/checkpoint/checkpoint.hpp"

#include <string>
#include <vector>

namespace tessera {

// A save passes through two stages. In the first each rank's thread writes its file, rank 0's the index, too. When all
// have ended, rank 0 is given the hashes, and in the second its thread adds the manifest and publishes the folder.
// Threads call neither the team nor libhdf5: what ranks tell each other they tell in the calls below, which all ranks
// make in the same order from the threads that own the team. So no rank ever settles a save alone, and a failure is
// thrown on all alike.
class CheckpointWriter {
public:
    CheckpointWriter(Team team, std::string checkpoints_folder, const Retention& retention);
    // Gives up what is under way: its folder stays hidden, and goes with the next save.
    ~CheckpointWriter();
    CheckpointWriter(const CheckpointWriter&) = delete;
    CheckpointWriter& operator=(const CheckpointWriter&) = delete;

    // Collective; nothing may be under way. Checks the content, lays out the files (the first time, and when the
    // structure has changed), makes the hidden folder and starts the threads. The memory of the content's tensors must
    // stay as it is until nothing is under way. Throws as save_checkpoint does.
    void begin(CheckpointContent content);

    bool under_way() const; // on all ranks alike

    // Collective, and waits for no disk: takes the save under way as far as it has come. True when nothing is under way
    // any more. Throws what has failed, as save_checkpoint does; then nothing is under way.
    bool advance();

    // Collective: advance() until nothing is under way, waiting for the disks.
    void finish();

    // Of the last save: bytes of tensors over all ranks (rank 0 only), and what could not be tidied up (rank 0 only;
    // "" for nothing): old checkpoints that the retention would not keep.
    std::int64_t bytes() const;
    const std::string& untidy() const;

private:
    struct Save;
    std::unique_ptr<Save> save_;
};

} // namespace tessera
