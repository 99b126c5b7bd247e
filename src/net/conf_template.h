// SPDX-License-Identifier: Apache-2.0
//
// A CNI configuration made of an operator's template and of the node's pod CIDR, as the kubelet tells it (CRI
// UpdateRuntimeConfig) once the node has one. The template is a conflist in which these strings stand for values:
//   "@POD_CIDR@"         the first CIDR, a string
//   "@POD_CIDR_RANGES@"  host-local's `ranges`: a set of one subnet for each CIDR
//   "@DEFAULT_ROUTES@"   host-local's `routes`: 0.0.0.0/0 and ::/0, of the families that the CIDRs have
// Values are put in as values, never as text. Stateless; any thread.
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"

namespace caisson::net {

// `pod_cidrs`: one, or one of each family with a comma between ("10.1.2.0/24,fd00:1::/64"). Errors: kInvalidArgument.
Result<std::string> RenderConfTemplate(std::string_view text, std::string_view pod_cidrs);

// Renders the template at `template_path` into `conf_dir`, which appears there whole, as kTemplateFile, or changes nothing.
// Does nothing if that is what is there. Errors name the path; an error as well while another call is at it.
Result<> WriteConfTemplate(const std::string& template_path, const std::string& conf_dir, std::string_view pod_cidrs);

inline constexpr char kTemplateFile[] = "10-caisson.conflist";

}  // namespace caisson::net
