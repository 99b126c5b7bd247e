// SPDX-License-Identifier: Apache-2.0
#include "oci/id_mapping.h"

#include <limits>

#include "base/strings.h"

namespace caisson::oci {
namespace {

constexpr size_t kMostMappings = 340;  // user_namespaces(7)

bool Share(uint32_t one, uint32_t one_size, uint32_t other, uint32_t other_size) {
  return one < uint64_t{other} + other_size && other < uint64_t{one} + one_size;
}

}  // namespace

Result<> CheckIdMappings(const std::vector<IdMapping>& mappings, std::string_view what) {
  if (mappings.empty()) return MakeError(Code::kInvalidArgument, "{} is empty", what);
  if (mappings.size() > kMostMappings)
    return MakeError(Code::kInvalidArgument, "{} has more than {} entries", what, kMostMappings);
  // 4294967295 is no id but says "leave it as it is" (setresuid(2)).
  constexpr uint64_t kEnd = std::numeric_limits<uint32_t>::max();
  for (size_t i = 0; i < mappings.size(); ++i) {
    const IdMapping& one = mappings[i];
    if (one.size == 0 || uint64_t{one.container_id} + one.size > kEnd || uint64_t{one.host_id} + one.size > kEnd) {
      return MakeError(Code::kInvalidArgument, "{} has a range that cannot be: {} ids from {} to those from {}", what,
                       one.size, one.container_id, one.host_id);
    }
    for (size_t j = 0; j < i; ++j) {
      const IdMapping& other = mappings[j];
      if (Share(one.container_id, one.size, other.container_id, other.size) ||
          Share(one.host_id, one.size, other.host_id, other.size))
        return MakeError(Code::kInvalidArgument, "{} has ranges that overlap", what);
    }
  }
  return {};
}

std::optional<uint32_t> ToHostId(const std::vector<IdMapping>& mappings, uint32_t container_id) {
  for (const auto& mapping : mappings) {
    if (container_id >= mapping.container_id && container_id - mapping.container_id < mapping.size)
      return mapping.host_id + (container_id - mapping.container_id);
  }
  return std::nullopt;
}

std::string FormatIdMappings(const std::vector<IdMapping>& mappings) {
  std::string text;
  for (const auto& mapping : mappings)
    text += fmt::format("{} {} {}\n", mapping.container_id, mapping.host_id, mapping.size);
  return text;
}

Result<std::vector<IdMapping>> ParseIdMappings(std::string_view text) {
  std::vector<IdMapping> mappings;
  auto bad = [&] { return MakeError(Code::kInvalidArgument, "'{}' is no id mapping", text.substr(0, 128)); };
  for (std::string_view range : Split(text, ',')) {
    auto words = Split(range, ':');
    if (words.size() != 3 || mappings.size() >= kMostMappings) return bad();
    uint32_t numbers[3];
    for (size_t i = 0; i < 3; ++i) {
      auto number = ParseUint64(words[i]);
      if (!number || *number > std::numeric_limits<uint32_t>::max()) return bad();
      numbers[i] = static_cast<uint32_t>(*number);
    }
    mappings.push_back({numbers[0], numbers[1], numbers[2]});
  }
  return mappings;
}

}  // namespace caisson::oci
