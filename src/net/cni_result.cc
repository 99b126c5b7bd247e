// SPDX-License-Identifier: Apache-2.0
#include "net/cni_result.h"

#include <arpa/inet.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/bad.h"
#include "base/json.h"
#include "base/limits.h"
#include "base/strings.h"
#include "net/conflist.h"

namespace caisson::net {
namespace {

constexpr size_t kErrorTextBytes = 1024;
constexpr size_t kNameBytes = 256;

Result<AddressPrefix> ParseAddress(const Json& entry, size_t i) {
  auto at = entry.find("address");
  if (at == entry.end() || !at->is_string()) return Bad("ips[{}].address: not a string", i);
  const auto& text = at->get_ref<const std::string&>();
  auto address = ParseAddressPrefix(text);
  if (!address) return Bad("ips[{}].address: '{}' is not an address with a prefix length", i, Printable(text, 64));
  return std::move(*address);
}

bool IsMac(std::string_view text) {
  if (text.size() != 17) return false;
  for (size_t i = 0; i < text.size(); ++i) {
    bool ok = i % 3 == 2 ? text[i] == ':' : std::isxdigit(static_cast<unsigned char>(text[i])) != 0;
    if (!ok) return false;
  }
  return true;
}

struct Interface {
  bool in_pod = false;
};

Result<std::vector<Interface>> ReadInterfaces(const Json& result, std::string_view if_name, std::string* mac) {
  std::vector<Interface> interfaces;
  auto at = result.find("interfaces");
  if (at == result.end() || at->is_null()) return interfaces;
  if (!at->is_array()) return Bad("interfaces: not a list");
  if (at->size() > limits::kCniInterfaces) return Bad("interfaces: more than {}", limits::kCniInterfaces);
  for (size_t i = 0; i < at->size(); ++i) {
    const Json& entry = (*at)[i];
    if (!entry.is_object()) return Bad("interfaces[{}]: not an object", i);
    auto text = [&](const char* key) -> Result<std::string> {
      auto field = entry.find(key);
      if (field == entry.end()) return std::string();
      if (!field->is_string()) return Bad("interfaces[{}].{}: not a string", i, key);
      return field->get_ref<const std::string&>();
    };
    std::string name = TRY(text("name")), hardware = TRY(text("mac"));
    if (name.empty() || name.size() > kNameBytes) return Bad("interfaces[{}].name: empty or too long", i);
    bool in_pod = !TRY(text("sandbox")).empty();
    if (in_pod && name == if_name && IsMac(hardware)) *mac = hardware;
    interfaces.push_back({in_pod});
  }
  return interfaces;
}

// Versions before 1.0.0 name the family of each address in "version", later ones do not have that field.
void ConvertAddress(Json* entry, bool v6, std::string_view version) {
  if (VersionAtLeast(version, "1.0.0")) {
    entry->erase("version");
  } else {
    (*entry)["version"] = v6 ? "6" : "4";
  }
}

Result<> ReadIps(Json* result, const std::vector<Interface>& interfaces, std::string_view version, CniResult* out) {
  auto at = result->find("ips");
  if (at == result->end() || at->is_null()) return {};
  if (!at->is_array()) return Bad("ips: not a list");
  if (at->size() > limits::kCniAddresses) return Bad("ips: more than {}", limits::kCniAddresses);
  for (size_t i = 0; i < at->size(); ++i) {
    Json& entry = (*at)[i];
    if (!entry.is_object()) return Bad("ips[{}]: not an object", i);
    AddressPrefix address = TRY(ParseAddress(entry, i));
    ConvertAddress(&entry, address.v6, version);
    auto index = entry.find("interface");
    if (index != entry.end() && !index->is_null()) {
      if (!index->is_number_integer() || index->get<int64_t>() < 0 || index->get<uint64_t>() >= interfaces.size()) {
        return Bad("ips[{}].interface: not an index of interfaces", i);
      }
      // An address of the host's end (a bridge's, say) is not the pod's.
      if (!interfaces[index->get<size_t>()].in_pod) continue;
    }
    if (std::find(out->ips.begin(), out->ips.end(), address.ip) == out->ips.end()) out->ips.push_back(address.ip);
  }
  return {};
}

}  // namespace

std::optional<AddressPrefix> ParseAddressPrefix(const std::string& text) {
  size_t slash = text.find('/');
  // A zero byte would end the text early for inet_pton.
  if (slash == text.npos || slash > INET6_ADDRSTRLEN || text.find('\0') != text.npos) return std::nullopt;
  AddressPrefix address;
  address.v6 = text.find(':') != text.npos;
  auto prefix = ParseUint64(std::string_view(text).substr(slash + 1));
  if (!prefix || *prefix > (address.v6 ? 128u : 32u)) return std::nullopt;
  unsigned char bytes[sizeof(in6_addr)];
  int family = address.v6 ? AF_INET6 : AF_INET;
  if (inet_pton(family, text.substr(0, slash).c_str(), bytes) != 1) return std::nullopt;
  char canonical[INET6_ADDRSTRLEN];
  inet_ntop(family, bytes, canonical, sizeof canonical);
  address.ip = canonical;
  return address;
}

Result<CniResult> ParseCniResult(std::string_view text, std::string_view version, std::string_view if_name) {
  Json result = TRY(ParseJson(text, limits::kCniOutputBytes));
  if (!result.is_object()) return Bad("not a JSON object");
  if (auto at = result.find("cniVersion"); at != result.end()) {
    if (!at->is_string() || !IsKnownVersion(at->get_ref<const std::string&>())) {
      return Bad("cniVersion: not one of 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0");
    }
  }
  result["cniVersion"] = version;
  for (const char* key : {"routes", "dns"}) {
    auto at = result.find(key);
    bool fits = at == result.end() || at->is_null() || (key[0] == 'r' ? at->is_array() : at->is_object());
    if (!fits) return Bad("{}: not {}", key, key[0] == 'r' ? "a list" : "an object");
  }
  CniResult out;
  auto interfaces = TRY(ReadInterfaces(result, if_name, &out.mac));
  TRY(ReadIps(&result, interfaces, version, &out));
  out.json = DumpJson(result);
  return out;
}

bool ParseCniError(std::string_view text, CniError* error) {
  auto object = ParseJson(text, limits::kCniOutputBytes);
  if (!object || !object->is_object()) return false;
  auto code = object->find("code");
  auto message = object->find("msg");
  if (code == object->end() || !code->is_number_integer() || message == object->end() || !message->is_string()) {
    return false;
  }
  int64_t number = code->get<int64_t>();
  error->code = number > 0 && number < INT32_MAX ? static_cast<int>(number) : INT32_MAX;
  error->message = Printable(message->get_ref<const std::string&>(), kErrorTextBytes);
  auto details = object->find("details");
  if (details != object->end() && details->is_string() && !details->get_ref<const std::string&>().empty()) {
    error->message += "; " + Printable(details->get_ref<const std::string&>(), kErrorTextBytes);
  }
  return true;
}

std::string Printable(std::string_view text, size_t limit) {
  std::string_view kept = Trim(text.substr(0, limit));
  std::string printable(kept);
  for (char& c : printable) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = ' ';
  }
  if (text.size() > limit) {
    // Not in the middle of a UTF-8 sequence: gRPC sends messages as text.
    while (!printable.empty() && (static_cast<unsigned char>(printable.back()) & 0xc0) == 0x80) printable.pop_back();
    if (!printable.empty() && (static_cast<unsigned char>(printable.back()) & 0x80)) printable.pop_back();
    printable += "…";
  }
  return printable;
}

}  // namespace caisson::net
