// SPDX-License-Identifier: Apache-2.0
#include "oci/seccomp_cache.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <string_view>

#include "base/id.h"
#include "base/sha256.h"
#include "base/strings.h"
#include "base/unique_fd.h"

namespace caisson::oci {
namespace {

constexpr std::string_view kMagic = "caisson seccomp filter 1\n";
constexpr size_t kHeader = kMagic.size() + 32;

// `dir` as a descriptor if nobody but us may change what is in it.
UniqueFd OpenDir(const std::string& dir) {
  UniqueFd fd(open(dir.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  struct stat st{};
  if (fd && (fstat(fd.get(), &st) != 0 || st.st_uid != geteuid() || (st.st_mode & 022) != 0)) fd.Reset();
  return fd;
}

// Each text with its length before it, so that no two specs look alike.
class Canonical {
 public:
  void Add(std::string_view text) { out_ += fmt::format("{}:", text.size()), out_ += text; }
  void Add(uint64_t number) { out_ += fmt::format("#{};", number); }
  void Add(std::optional<uint32_t> number) { number ? Add(uint64_t{*number}) : Add("-"); }
  void Add(const std::vector<std::string>& texts) {
    Add(uint64_t{texts.size()});
    for (const std::string& text : texts) Add(text);
  }
  const std::string& out() const { return out_; }

 private:
  std::string out_;
};

}  // namespace

std::string SeccompCacheKey(const SeccompSpec& spec, const std::string& platform) {
  Canonical c;
  c.Add(kMagic);
  c.Add(platform);
  c.Add(spec.default_action);
  c.Add(spec.default_errno_ret);
  c.Add(spec.architectures);
  c.Add(uint64_t{spec.syscalls.size()});
  for (const SeccompSyscall& rule : spec.syscalls) {
    c.Add(rule.names);
    c.Add(rule.action);
    c.Add(rule.errno_ret);
    c.Add(uint64_t{rule.args.size()});
    for (const SeccompArg& arg : rule.args) {
      c.Add(uint64_t{arg.index});
      c.Add(arg.value);
      c.Add(arg.value_two);
      c.Add(arg.op);
    }
  }
  return HexEncode(Sha256(c.out()));
}

std::optional<std::string> ReadSeccompCache(const std::string& dir, const std::string& key) {
  if (dir.empty()) return std::nullopt;
  UniqueFd parent = OpenDir(dir);
  if (!parent) return std::nullopt;
  UniqueFd fd(openat(parent.get(), key.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  struct stat st{};
  if (!fd || fstat(fd.get(), &st) != 0 || !S_ISREG(st.st_mode) || st.st_uid != geteuid() || (st.st_mode & 0777) != 0600 ||
      static_cast<size_t>(st.st_size) <= kHeader || static_cast<size_t>(st.st_size) > kHeader + kMaxFilterBytes) {
    return std::nullopt;
  }
  std::string data(static_cast<size_t>(st.st_size), '\0');
  if (read(fd.get(), data.data(), data.size()) != st.st_size || !data.starts_with(kMagic)) return std::nullopt;
  std::string hash = data.substr(kMagic.size(), 32);
  data.erase(0, kHeader);
  // The key is in the hash, so that a file under a wrong name is not taken for another profile's.
  if (data.size() % 8 != 0 || Sha256(key + data) != hash) return std::nullopt;
  return data;
}

void WriteSeccompCache(const std::string& dir, const std::string& key, const std::string& bpf) {
  if (dir.empty()) return;
  (void)mkdir(dir.c_str(), 0700);
  UniqueFd parent = OpenDir(dir);
  if (!parent) return;
  std::string temporary = "." + key.substr(0, 16) + "." + NewId().substr(0, 16);
  UniqueFd fd(openat(parent.get(), temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!fd) return;
  std::string data = std::string(kMagic) + Sha256(key + bpf) + bpf;
  bool whole = write(fd.get(), data.data(), data.size()) == static_cast<ssize_t>(data.size()) && fchmod(fd.get(), 0600) == 0;
  if (!whole || renameat(parent.get(), temporary.c_str(), parent.get(), key.c_str()) != 0) {
    (void)unlinkat(parent.get(), temporary.c_str(), 0);
  }
}

}  // namespace caisson::oci
