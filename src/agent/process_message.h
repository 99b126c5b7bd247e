// SPDX-License-Identifier: Apache-2.0
//
// oci::ProcessSpec as the message that a messenger hands to a launcher (launch.proto), and back. Pure.
//
// A guest has no AppArmor and no SELinux: profile and label are not among the members, nor is keep_groups, which no JSON has either.
#pragma once

#include "caisson/guest/v1/launch.pb.h"
#include "oci/spec.h"

namespace caisson::agent {

guest::v1::Process MessageOf(const oci::ProcessSpec& process);
// Numbers that a ProcessSpec cannot hold are cut: the kernel refuses what they are then.
oci::ProcessSpec ProcessOf(const guest::v1::Process& message);

}  // namespace caisson::agent
