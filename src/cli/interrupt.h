// SPDX-License-Identifier: Apache-2.0
//
// Signals of the command. Apart from the rest because <csignal>'s macros and the CRI's enum Signal share their names.
#pragma once

namespace caisson::cli {

// A reader that goes away is then an error of write(2), not our end.
void IgnoreBrokenPipes();
// From now on SIGINT and SIGTERM are remembered instead of ending the command.
void CatchInterrupts();
// True once for each that came since the last call.
bool TakeInterrupt();

}  // namespace caisson::cli
