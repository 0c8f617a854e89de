// SPDX-License-Identifier: Apache-2.0
// The list of keys. A key that stands here and is read by no component is refused by Config::refuse_unread.
#include "core/config_catalog.hpp"

#include "core/log.hpp"
#include "core/run/folder.hpp"
#include "core/run/metrics.hpp"

namespace tessera {

std::vector<KeyInfo> known_keys() {
    return {
        key_info(metrics_color),
        key_info(metrics_log_every),
        key_info(run_folder),
        key_info(run_name),
    };
}

} // namespace tessera
