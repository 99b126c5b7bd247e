// SPDX-License-Identifier: Apache-2.0
//
// An unpacked layer as one EROFS image file, which a VM gets as a read-only disk: names, modes, numeric owners, times,
// extended attributes (overlay's opaque marks among them), links and device nodes (overlay's whiteouts among them) as they
// are. The same tree gives the same bytes. mkfs.erofs makes it, as a child at low priority. No state; any thread.
#pragma once

#include <stop_token>
#include <string>

#include "base/result.h"

namespace caisson::image {

// Where mkfs.erofs is, if nobody says otherwise: the first there is of where distributions put it.
std::string DefaultMkfsErofs();

// Makes `target`, which appears whole (on the disk too) or not at all; what is there is replaced. Its folder is the caller's
// alone. Errors: kUnimplemented without the tool, kResourceExhausted for a full disk, kDeadlineExceeded, kCancelled; else
// what the tool said. Nothing is left then.
Result<> MakeErofs(const std::string& tool, const std::string& tree, const std::string& target, const std::stop_token& stop);

// Whether the file has an EROFS superblock and all the bytes that it speaks of.
bool IsWholeErofs(const std::string& path);

}  // namespace caisson::image
