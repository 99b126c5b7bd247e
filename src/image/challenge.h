// SPDX-License-Identifier: Apache-2.0
//
// Parses WWW-Authenticate (RFC 9110, 11.6.1): any number of challenges in any number of headers. Foreign input:
// bounded, never fails loudly; what cannot be read is left out. Pure.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace caisson::image {

struct Challenge {
  std::string scheme;                         // lowercase: "bearer", "basic"
  std::map<std::string, std::string> params;  // names lowercase; the first of a name counts

  std::string Param(const std::string& name) const;
};

// Appends the challenges of one header's value. At most 8 challenges of 16 parameters are kept.
void ParseChallenges(std::string_view header, std::vector<Challenge>* out);

}  // namespace caisson::image
