// SPDX-License-Identifier: Apache-2.0
//
// CDI devices of a container: found by name among the specifications in the configured folders, and their edits made to the
// container's OCI configuration. Names come from the CRI's CDI_devices alone, never from annotations or an image. The
// folders are read for each container that asks: drivers write them at any time. Any thread.
#pragma once

#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

#include "base/result.h"
#include "cri/cdi_spec.h"

namespace caisson::cri {

// What the devices `names` want, a specification's own edits once and before those of its devices. Files are those of `dirs`
// (a folder that is not there is empty) that end in .json or .yaml. Of two files that have a device, the one of the later
// folder counts; in one folder they are a conflict. Errors: kInvalidArgument for a name that cannot be or a file that is
// not safe, kNotFound for an unknown device, with the files that could not be read; kFailedPrecondition for a conflict;
// kUnimplemented for what is not supported.
Result<CdiEdits> FindCdiDevices(const std::vector<std::string>& dirs, const std::vector<std::string>& names);

// What is in `dirs` now, as JSON for people: "specDirs", an array of {"path", "devices", "error"}; "devices" are the names
// that a container could ask for (of each folder those no later one has), at most 1000; "error" is of a folder that cannot be
// read, else null. "faults": files that cannot be used. Never fails.
nlohmann::json DescribeCdi(const std::vector<std::string>& dirs);

// Changes the OCI configuration `spec`, of a container that will run as the user it has in `process`. Looks at the device
// nodes on the host; kNotFound names one that is not there.
Result<> ApplyCdi(const CdiEdits& edits, nlohmann::json* spec);

}  // namespace caisson::cri
