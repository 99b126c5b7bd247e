// SPDX-License-Identifier: Apache-2.0
//
// `caisson oci`: the OCI runtime's command line, which is a program of its own (ocicli/) since others run it so often.
#pragma once

namespace caisson::cli {

// Executes caisson-oci, the one beside this program, with the words after `words[0]`. Returns only if that cannot be: 1.
int RunOci(char** words);

}  // namespace caisson::cli
