// SPDX-License-Identifier: Apache-2.0
#include "image/reference.h"

#include <algorithm>

#include "base/strings.h"
#include "image/digest.h"

namespace caisson::image {
namespace {

constexpr std::string_view kDockerHub = "docker.io";
constexpr size_t kMaxText = 1024;
constexpr size_t kMaxName = 255;
constexpr size_t kMaxTag = 128;

bool IsDigit(char c) { return c >= '0' && c <= '9'; }
bool IsLower(char c) { return c >= 'a' && c <= 'z'; }
bool IsUpper(char c) { return c >= 'A' && c <= 'Z'; }
bool IsAlnum(char c) { return IsDigit(c) || IsLower(c) || IsUpper(c); }
bool IsHex(char c) { return IsDigit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F'); }

template <class Predicate>
bool All(std::string_view text, Predicate predicate) {
  return std::all_of(text.begin(), text.end(), predicate);
}

// port: decimal, 1 to 65535.
bool IsPort(std::string_view port) {
  if (port.empty() || port.size() > 5 || !All(port, IsDigit)) return false;
  int value = 0;
  for (char c : port) value = value * 10 + (c - '0');
  return value >= 1 && value <= 65535;
}

// Letters, digits and inner hyphens, as a DNS label.
bool IsDomainComponent(std::string_view part) {
  if (part.empty() || part.size() > 63 || !IsAlnum(part.front()) || !IsAlnum(part.back())) return false;
  return All(part, [](char c) { return IsAlnum(c) || c == '-' || c == '_'; });
}

bool IsDomain(std::string_view domain) {
  if (domain.empty() || domain.size() > kMaxName) return false;
  std::string_view host = domain;
  if (domain.front() == '[') {
    size_t end = domain.find(']');
    if (end == std::string_view::npos || end < 3) return false;
    host = domain.substr(1, end - 1);
    std::string_view rest = domain.substr(end + 1);
    if (!rest.empty() && (rest.front() != ':' || !IsPort(rest.substr(1)))) return false;
    return All(host, [](char c) { return IsHex(c) || c == ':' || c == '.'; }) && host.find(':') != host.npos;
  }
  size_t colon = domain.find(':');
  if (colon != std::string_view::npos) {
    if (!IsPort(domain.substr(colon + 1))) return false;
    host = domain.substr(0, colon);
  }
  for (std::string_view part : Split(host, '.')) {
    if (!IsDomainComponent(part)) return false;
  }
  return true;
}

// Runs of [a-z0-9] joined by ".", "_", "__" or any number of "-".
bool IsPathComponent(std::string_view part) {
  auto plain = [](char c) { return IsDigit(c) || IsLower(c); };
  if (part.empty() || !plain(part.front()) || !plain(part.back())) return false;
  for (size_t i = 0; i < part.size();) {
    if (plain(part[i])) {
      ++i;
      continue;
    }
    size_t end = i;
    while (end < part.size() && part[end] == part[i]) ++end;
    size_t length = end - i;
    bool fine = (part[i] == '.' && length == 1) || (part[i] == '_' && length <= 2) || part[i] == '-';
    if (!fine || !plain(part[end])) return false;
    i = end;
  }
  return true;
}

bool IsTag(std::string_view tag) {
  auto word = [](char c) { return IsAlnum(c) || c == '_'; };
  if (tag.empty() || tag.size() > kMaxTag || !word(tag.front())) return false;
  return All(tag, [&](char c) { return word(c) || c == '.' || c == '-'; });
}

std::string Printable(std::string_view text) {
  std::string out;
  for (char c : text.substr(0, 200)) out.push_back(c > ' ' && c < 0x7f ? c : '?');
  if (text.size() > 200) out += "...";
  return out;
}

// The first component is a domain if it can be told from a path: it has a dot, a port or capitals, or is "localhost".
bool LooksLikeDomain(std::string_view first) {
  return first.find_first_of(".:[") != std::string_view::npos || first == "localhost" ||
         std::any_of(first.begin(), first.end(), IsUpper);
}

Result<> SplitName(std::string_view name, std::string_view shown, Reference* out) {
  size_t slash = name.find('/');
  if (slash != std::string_view::npos && LooksLikeDomain(name.substr(0, slash))) {
    out->domain = name.substr(0, slash);
    out->path = name.substr(slash + 1);
  } else {
    out->domain = kDockerHub;
    out->path = name;
  }
  if (out->domain == "index.docker.io" || out->domain == "registry-1.docker.io") out->domain = kDockerHub;
  if (out->domain == kDockerHub && out->path.find('/') == std::string::npos) out->path = "library/" + out->path;
  if (!IsDomain(out->domain)) {
    return MakeError(Code::kInvalidArgument, "image reference '{}': '{}' is no host[:port]", shown,
                     Printable(out->domain));
  }
  if (out->path.size() > kMaxName) {
    return MakeError(Code::kInvalidArgument, "image reference '{}': repository name is longer than {} characters",
                     shown, kMaxName);
  }
  for (std::string_view part : Split(out->path, '/')) {
    if (IsPathComponent(part)) continue;
    if (std::any_of(part.begin(), part.end(), IsUpper)) {
      return MakeError(Code::kInvalidArgument, "image reference '{}': repository name must be lowercase", shown);
    }
    return MakeError(Code::kInvalidArgument,
                     "image reference '{}': '{}' is no repository name (lowercase letters and digits, joined by "
                     "'.', '_', '__' or '-')",
                     shown, Printable(part));
  }
  return {};
}

}  // namespace

std::string Reference::ToString() const {
  std::string text = Repository();
  if (!tag.empty()) text += ":" + tag;
  if (!digest.empty()) text += "@" + digest;
  return text;
}

Result<Reference> ParseReference(std::string_view text) {
  std::string shown = Printable(text);
  if (text.empty()) return MakeError(Code::kInvalidArgument, "the image reference is empty");
  if (text.size() > kMaxText) {
    return MakeError(Code::kInvalidArgument, "image reference '{}' is longer than {} characters", shown, kMaxText);
  }
  if (text.size() == 64 && All(text, [](char c) { return IsDigit(c) || (c >= 'a' && c <= 'f'); })) {
    return MakeError(Code::kInvalidArgument, "image reference '{}' would be an image id, not a name", shown);
  }
  Reference reference;
  std::string_view name = text;
  if (size_t at = name.find('@'); at != std::string_view::npos) {
    reference.digest = name.substr(at + 1);
    name = name.substr(0, at);
    auto good = CheckDigest(reference.digest);
    if (!good) return Error(good.error()).Within("image reference '" + shown + "'");
  }
  size_t slash = name.rfind('/');
  size_t colon = name.find(':', slash == std::string_view::npos ? 0 : slash);
  if (colon != std::string_view::npos) {
    reference.tag = name.substr(colon + 1);
    name = name.substr(0, colon);
    if (!IsTag(reference.tag)) {
      return MakeError(Code::kInvalidArgument,
                       "image reference '{}': '{}' is no tag (up to {} letters, digits, '_', '.', '-'; the first no "
                       "'.' or '-')",
                       shown, Printable(reference.tag), kMaxTag);
    }
  }
  TRY(SplitName(name, shown, &reference));
  if (reference.tag.empty() && reference.digest.empty()) reference.tag = "latest";
  return reference;
}

bool IsLoopbackDomain(std::string_view domain) {
  if (domain.starts_with("[::1]")) return true;
  std::string_view host = domain.substr(0, domain.find(':'));
  if (host == "localhost") return true;
  auto parts = Split(host, '.');
  if (parts.size() != 4 || parts[0] != "127") return false;
  return std::all_of(parts.begin(), parts.end(),
                     [](std::string_view part) { return !part.empty() && part.size() <= 3 && All(part, IsDigit); });
}

}  // namespace caisson::image
