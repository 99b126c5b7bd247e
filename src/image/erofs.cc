// SPDX-License-Identifier: Apache-2.0
#include "image/erofs.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "base/clock.h"
#include "base/id.h"
#include "base/limits.h"
#include "base/scope_exit.h"
#include "base/strings.h"
#include "base/unique_fd.h"
#include "sys/command.h"

namespace caisson::image {
namespace {

constexpr size_t kToolOutputBytes = 64 << 10;
constexpr size_t kToldBytes = 512;  // of the tool's last words in an error
// What would differ from one making to the next.
constexpr char kUuid[] = "-U00000000-0000-4000-8000-000000000000";

// struct erofs_super_block (fs/erofs/erofs_fs.h): it is at byte 1024, in the host's order here.
constexpr off_t kSuperOffset = 1024;
constexpr uint32_t kMagic = 0xe0f5e1e2;
constexpr uint32_t kChecksummed = 1;
constexpr size_t kChecksumAt = 4, kFeaturesAt = 8, kBlockBitsAt = 12, kBuildTimeAt = 24, kBuildTimeBytes = 12, kBlocksAt = 36;
constexpr size_t kSuperBytes = 128;
constexpr uint8_t kMinBlockBits = 9, kMaxBlockBits = 16;

uint32_t Number(const char* at) {
  uint32_t number;
  memcpy(&number, at, sizeof number);
  return number;
}

// CRC-32C as the kernel's crc32c(): reflected, without the final inversion.
uint32_t Crc32c(uint32_t crc, std::string_view bytes) {
  for (char byte : bytes) {
    crc ^= static_cast<uint8_t>(byte);
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78u : 0u);
  }
  return crc;
}

bool ReadSuper(int fd, std::array<char, kSuperBytes>* super, uint8_t* block_bits) {
  if (pread(fd, super->data(), super->size(), kSuperOffset) != static_cast<ssize_t>(super->size())) return false;
  *block_bits = static_cast<uint8_t>((*super)[kBlockBitsAt]);
  return Number(super->data()) == kMagic && *block_bits >= kMinBlockBits && *block_bits <= kMaxBlockBits;
}

bool IsWhole(int fd) {
  std::array<char, kSuperBytes> super;
  uint8_t block_bits;
  struct stat info {};
  if (!ReadSuper(fd, &super, &block_bits) || fstat(fd, &info) != 0) return false;
  return static_cast<uint64_t>(info.st_size) >= static_cast<uint64_t>(Number(super.data() + kBlocksAt)) << block_bits;
}

// When it was made is no property of the layer. Every inode has a time of its own, so the time of making is nobody's.
Result<> ForgetBuildTime(int fd, const std::string& path) {
  std::array<char, kSuperBytes> super;
  uint8_t block_bits;
  if (!ReadSuper(fd, &super, &block_bits)) return MakeError(Code::kInternal, "'{}' has no EROFS superblock", path);
  std::string block(std::max<size_t>(size_t{1} << block_bits, kSuperOffset + kSuperBytes) - kSuperOffset, '\0');
  if (pread(fd, block.data(), block.size(), kSuperOffset) < 0) return ErrnoError("read '{}'", path);
  memset(block.data() + kBuildTimeAt, 0, kBuildTimeBytes);
  memset(block.data() + kChecksumAt, 0, sizeof(uint32_t));
  if ((Number(super.data() + kFeaturesAt) & kChecksummed) != 0) {
    uint32_t checksum = Crc32c(~0u, block);
    memcpy(block.data() + kChecksumAt, &checksum, sizeof checksum);
  }
  if (pwrite(fd, block.data(), kSuperBytes, kSuperOffset) != static_cast<ssize_t>(kSuperBytes)) return ErrnoError("write '{}'", path);
  return {};
}

std::string LastWords(const sys::CommandOutput& output) {
  std::string_view said = Trim(output.err.empty() ? output.out : output.err);
  if (said.size() > kToldBytes) said.remove_prefix(said.size() - kToldBytes);
  std::string plain(said);
  std::replace_if(plain.begin(), plain.end(), [](char c) { return static_cast<uint8_t>(c) < ' '; }, ' ');
  return plain;
}

Result<> RunTool(const std::string& tool, const std::string& tree, const std::string& file, const std::stop_token& stop) {
  sys::Command command;
  command.argv = {tool, "--quiet", "-d1", "--preserve-mtime", kUuid, file, tree};
  command.environment = {"LC_ALL=C"};
  command.max_out_bytes = kToolOutputBytes;
  command.background = true;
  command.stop = stop;
  auto ran = sys::RunCommand(command, Deadline::After(limits::kErofsMillis));
  if (!ran && ran.error().sys_errno == ENOENT) {
    return MakeError(Code::kUnimplemented, "'{}' is not installed; a VM pod's images need it (package erofs-utils)", tool);
  }
  if (!ran) return std::move(ran.error());
  if (ran->signal != 0) return MakeError(Code::kInternal, "'{}' was killed by signal {}", tool, ran->signal);
  if (ran->exit_code == 0) return {};
  std::string said = LastWords(*ran);
  bool full = said.find(strerror(ENOSPC)) != std::string::npos;
  return MakeError(full ? Code::kResourceExhausted : Code::kInternal, "'{}' ended with {}: {}", tool, ran->exit_code, said);
}

}  // namespace

std::string DefaultMkfsErofs() {
  for (const char* path : {"/usr/bin/mkfs.erofs", "/usr/sbin/mkfs.erofs", "/sbin/mkfs.erofs", "/usr/local/bin/mkfs.erofs"}) {
    if (access(path, X_OK) == 0) return path;
  }
  return "/usr/bin/mkfs.erofs";
}

Result<> MakeErofs(const std::string& tool, const std::string& tree, const std::string& target, const std::stop_token& stop) {
  // A name of its own: the tool of a daemon that was killed may still write to its.
  std::string making = target + "." + NewId().substr(0, 12);
  ScopeExit remove([&] { unlink(making.c_str()); });
  TRY(RunTool(tool, tree, making, stop));
  UniqueFd file(open(making.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW));
  if (!file) return MakeError(Code::kInternal, "'{}' made no image: {}", tool, strerror(errno));
  if (!IsWhole(file.get())) return MakeError(Code::kInternal, "'{}' made an image that is not whole", tool);
  TRY(ForgetBuildTime(file.get(), making));
  if (fchmod(file.get(), 0400) != 0 || fsync(file.get()) != 0) return ErrnoError("sync '{}'", making);
  if (rename(making.c_str(), target.c_str()) != 0) return ErrnoError("rename '{}' to '{}'", making, target);
  remove.Dismiss();
  return {};
}

bool IsWholeErofs(const std::string& path) {
  UniqueFd file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  return file && IsWhole(file.get());
}

}  // namespace caisson::image
