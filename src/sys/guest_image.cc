// SPDX-License-Identifier: Apache-2.0
#include "sys/guest_image.h"

#include <filesystem>
#include <optional>

#include <nlohmann/json.hpp>

#include "base/json.h"
#include "base/limits.h"
#include "base/sha256.h"
#include "base/strings.h"
#include "sys/path.h"

namespace caisson::sys {
namespace {

constexpr const char* kRemedy = "install the package caisson-guest of the same version, or run tools/build-guest";

struct GuestFile {
  std::string path;
  uint64_t bytes = 0;
  std::string sha256;
};

struct GuestManifest {
  std::string version, kernel_version, kernel_kind;
  GuestFile kernel, initrd;
};

// Nothing: `path` is not the file that `manifest` names so.
std::optional<GuestFile> FileIn(const Json& manifest, const char* name, const std::string& path) {
  auto found = manifest.find(name);
  if (found == manifest.end() || !found->is_object()) return std::nullopt;
  auto file = found->find("file"), bytes = found->find("bytes"), sha256 = found->find("sha256");
  if (file == found->end() || !file->is_string() || bytes == found->end() || !bytes->is_number_unsigned() || sha256 == found->end() || !sha256->is_string()) return std::nullopt;
  if (std::filesystem::path(path).filename() != file->get<std::string>()) return std::nullopt;
  return GuestFile{path, bytes->get<uint64_t>(), sha256->get<std::string>()};
}

std::string TextIn(const Json& manifest, const char* name) {
  auto found = manifest.find(name);
  return found != manifest.end() && found->is_string() ? found->get<std::string>() : "";
}

Result<std::optional<GuestManifest>> ReadManifest(const std::string& kernel, const std::string& initrd) {
  std::filesystem::path folder = std::filesystem::path(initrd).parent_path(), path = folder / "manifest.json";
  std::error_code error;
  if (std::filesystem::path(kernel).parent_path() != folder || !std::filesystem::exists(path, error)) return std::nullopt;
  auto parsed = ParseJson(TRY(ReadFile(path, limits::kConfigFileBytes)));
  if (!parsed || !parsed->is_object()) return MakeError(Code::kFailedPrecondition, "'{}' is no manifest: {}", path.string(), kRemedy);
  auto kernel_file = FileIn(*parsed, "kernel", kernel), initrd_file = FileIn(*parsed, "initramfs", initrd);
  if (!kernel_file || !initrd_file) return std::nullopt;  // of other files in the same folder
  return GuestManifest{TextIn(*parsed, "version"), TextIn(*parsed, "kernel_version"), TextIn(*parsed, "kernel_kind"), *kernel_file, *initrd_file};
}

Result<> CheckManifest(const GuestManifest& manifest, const std::string& version) {
  std::string folder = std::filesystem::path(manifest.initrd.path).parent_path();
  if (manifest.version != version) {
    return MakeError(Code::kFailedPrecondition, "the guest image in '{}' is of version {}, and this is {}: {}", folder, manifest.version, version, kRemedy);
  }
  for (const GuestFile& file : {manifest.kernel, manifest.initrd}) {
    std::error_code error;
    uint64_t bytes = std::filesystem::file_size(file.path, error);
    if (error) return MakeError(Code::kFailedPrecondition, "'{}': {}: {}", file.path, error.message(), kRemedy);
    if (bytes != file.bytes) return MakeError(Code::kFailedPrecondition, "'{}' has {} bytes, and its manifest says {}: {}", file.path, bytes, file.bytes, kRemedy);
  }
  return {};
}

}  // namespace

Result<> CheckGuestImage(const std::string& kernel, const std::string& initrd, const std::string& version) {
  auto manifest = TRY(ReadManifest(kernel, initrd));
  return manifest ? CheckManifest(*manifest, version) : Result<>();
}

Result<std::string> VerifyGuestImage(const std::string& kernel, const std::string& initrd, const std::string& version) {
  auto manifest = TRY(ReadManifest(kernel, initrd));
  if (!manifest) return std::string();
  TRY(CheckManifest(*manifest, version));
  for (const GuestFile& file : {manifest->kernel, manifest->initrd}) {
    std::string found = HexEncode(Sha256(TRY(ReadFile(file.path, file.bytes))));
    if (found != file.sha256) return MakeError(Code::kFailedPrecondition, "'{}' is not what was built (SHA-256 {}, its manifest says {}): {}", file.path, found, file.sha256, kRemedy);
  }
  return fmt::format("version {}, kernel {} ({})", manifest->version, manifest->kernel_version, manifest->kernel_kind);
}

}  // namespace caisson::sys
