// SPDX-License-Identifier: Apache-2.0
#include "oci/seccomp.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <seccomp.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <memory>

#include "base/id.h"
#include "base/limits.h"
#include "base/sha256.h"
#include "base/strings.h"
#include "base/unique_fd.h"
#include "oci/json_reader.h"
#include "oci/seccomp_cache.h"

namespace caisson::oci {
namespace {

struct Word {
  std::string_view name;
  uint32_t value;
};

template <size_t N>
const Word* Lookup(const std::array<Word, N>& words, std::string_view name) {
  for (const Word& word : words) {
    if (word.name == name) return &word;
  }
  return nullptr;
}

// ERRNO and TRACE get their number later.
constexpr std::array<Word, 9> kActions = {{{"SCMP_ACT_ALLOW", SCMP_ACT_ALLOW},
                                           {"SCMP_ACT_ERRNO", SCMP_ACT_ERRNO(0)},
                                           {"SCMP_ACT_KILL", SCMP_ACT_KILL_THREAD},
                                           {"SCMP_ACT_KILL_THREAD", SCMP_ACT_KILL_THREAD},
                                           {"SCMP_ACT_KILL_PROCESS", SCMP_ACT_KILL_PROCESS},
                                           {"SCMP_ACT_TRAP", SCMP_ACT_TRAP},
                                           {"SCMP_ACT_TRACE", SCMP_ACT_TRACE(0)},
                                           {"SCMP_ACT_LOG", SCMP_ACT_LOG},
                                           {"SCMP_ACT_NOTIFY", SCMP_ACT_NOTIFY}}};
constexpr std::array<Word, 7> kOperators = {{{"SCMP_CMP_NE", SCMP_CMP_NE},
                                             {"SCMP_CMP_LT", SCMP_CMP_LT},
                                             {"SCMP_CMP_LE", SCMP_CMP_LE},
                                             {"SCMP_CMP_EQ", SCMP_CMP_EQ},
                                             {"SCMP_CMP_GE", SCMP_CMP_GE},
                                             {"SCMP_CMP_GT", SCMP_CMP_GT},
                                             {"SCMP_CMP_MASKED_EQ", SCMP_CMP_MASKED_EQ}}};
constexpr std::array<Word, 4> kFlags = {{{"SECCOMP_FILTER_FLAG_TSYNC", SECCOMP_FILTER_FLAG_TSYNC},
                                         {"SECCOMP_FILTER_FLAG_LOG", SECCOMP_FILTER_FLAG_LOG},
                                         {"SECCOMP_FILTER_FLAG_SPEC_ALLOW", SECCOMP_FILTER_FLAG_SPEC_ALLOW},
                                         {"SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV", 1u << 5}}};
constexpr std::array<Word, 20> kArchitectures = {{{"SCMP_ARCH_NATIVE", SCMP_ARCH_NATIVE},
                                                  {"SCMP_ARCH_X86", SCMP_ARCH_X86},
                                                  {"SCMP_ARCH_X86_64", SCMP_ARCH_X86_64},
                                                  {"SCMP_ARCH_X32", SCMP_ARCH_X32},
                                                  {"SCMP_ARCH_ARM", SCMP_ARCH_ARM},
                                                  {"SCMP_ARCH_AARCH64", SCMP_ARCH_AARCH64},
                                                  {"SCMP_ARCH_MIPS", SCMP_ARCH_MIPS},
                                                  {"SCMP_ARCH_MIPS64", SCMP_ARCH_MIPS64},
                                                  {"SCMP_ARCH_MIPS64N32", SCMP_ARCH_MIPS64N32},
                                                  {"SCMP_ARCH_MIPSEL", SCMP_ARCH_MIPSEL},
                                                  {"SCMP_ARCH_MIPSEL64", SCMP_ARCH_MIPSEL64},
                                                  {"SCMP_ARCH_MIPSEL64N32", SCMP_ARCH_MIPSEL64N32},
                                                  {"SCMP_ARCH_PPC", SCMP_ARCH_PPC},
                                                  {"SCMP_ARCH_PPC64", SCMP_ARCH_PPC64},
                                                  {"SCMP_ARCH_PPC64LE", SCMP_ARCH_PPC64LE},
                                                  {"SCMP_ARCH_S390", SCMP_ARCH_S390},
                                                  {"SCMP_ARCH_S390X", SCMP_ARCH_S390X},
                                                  {"SCMP_ARCH_PARISC", SCMP_ARCH_PARISC},
                                                  {"SCMP_ARCH_PARISC64", SCMP_ARCH_PARISC64},
                                                  {"SCMP_ARCH_RISCV64", SCMP_ARCH_RISCV64}}};

Result<> CheckAction(const std::string& action, const std::string& where) {
  const Word* word = Lookup(kActions, action);
  if (word == nullptr) return MakeError(Code::kInvalidArgument, "{} '{}' is no seccomp action", where, action.substr(0, 64));
  if (word->value == SCMP_ACT_NOTIFY) {
    return MakeError(Code::kUnimplemented, "{} SCMP_ACT_NOTIFY is not supported: no seccomp agent is served", where);
  }
  return {};
}

// The value for libseccomp of an action that CheckAction has passed. The default errno is EPERM (config-linux.md).
uint32_t ActionOf(const std::string& name, std::optional<uint32_t> number) {
  uint32_t action = Lookup(kActions, name)->value;
  if (action == SCMP_ACT_ERRNO(0)) return SCMP_ACT_ERRNO(number.value_or(EPERM));
  if (action == SCMP_ACT_TRACE(0)) return SCMP_ACT_TRACE(number.value_or(EPERM));
  return action;
}

Result<> CheckErrno(const std::optional<uint32_t>& number, const std::string& action, const std::string& where) {
  if (!number) return {};
  if (*number > 4095) return MakeError(Code::kInvalidArgument, "{} {} is no errno value", where, *number);
  if (action != "SCMP_ACT_ERRNO" && action != "SCMP_ACT_TRACE" && *number != 0) {
    return MakeError(Code::kInvalidArgument, "{} is set, but action {} takes none", where, action);
  }
  return {};
}

Result<SeccompSyscall> ParseSyscall(const JsonReader& reader) {
  SeccompSyscall rule;
  TRY(reader.Read("names", &rule.names));
  TRY(reader.Read("action", &rule.action));
  TRY(reader.Read("errnoRet", &rule.errno_ret));
  if (rule.names.empty() || rule.names.size() > limits::kSeccompSyscalls) {
    return MakeError(Code::kInvalidArgument, "{} has {} entries, 1 to {} are allowed", reader.At("names"), rule.names.size(),
                     limits::kSeccompSyscalls);
  }
  TRY(CheckAction(rule.action, reader.At("action")));
  TRY(CheckErrno(rule.errno_ret, rule.action, reader.At("errnoRet")));
  TRY(reader.EachObject("args", [&](const JsonReader& item) -> Result<> {
    SeccompArg arg;
    TRY(item.Read("index", &arg.index));
    TRY(item.Read("value", &arg.value));
    TRY(item.Read("valueTwo", &arg.value_two));
    TRY(item.Read("op", &arg.op));
    if (arg.index > 5) return MakeError(Code::kInvalidArgument, "{} {} is not 0 to 5", item.At("index"), arg.index);
    if (Lookup(kOperators, arg.op) == nullptr) {
      return MakeError(Code::kInvalidArgument, "{} '{}' is no comparison", item.At("op"), arg.op.substr(0, 64));
    }
    if (rule.args.size() >= 64) return MakeError(Code::kInvalidArgument, "{} has too many entries", reader.At("args"));
    rule.args.push_back(std::move(arg));
    return {};
  }));
  return rule;
}

using Context = std::unique_ptr<void, void (*)(scmp_filter_ctx)>;

Error LibraryError(int negative_errno, std::string_view what) {
  return SysError(-negative_errno, fmt::format("seccomp: {}", what));
}

Result<> AddRule(scmp_filter_ctx context, uint32_t action, int number, const std::string& name,
                 const std::vector<scmp_arg_cmp>& args) {
  int failed = seccomp_rule_add_array(context, action, number, static_cast<unsigned>(args.size()), args.data());
  if (failed != 0) return LibraryError(failed, fmt::format("add rule for '{}'", name));
  return {};
}

Result<> AddSyscall(scmp_filter_ctx context, const SeccompSpec& spec, const SeccompSyscall& rule) {
  uint32_t action = ActionOf(rule.action, rule.errno_ret);
  // libseccomp refuses rules that say what the default says.
  if (action == ActionOf(spec.default_action, spec.default_errno_ret)) return {};
  std::vector<scmp_arg_cmp> args;
  unsigned seen = 0;
  bool repeated = false;
  for (const SeccompArg& arg : rule.args) {
    repeated = repeated || (seen & 1u << arg.index) != 0;
    seen |= 1u << arg.index;
    args.push_back({arg.index, static_cast<scmp_compare>(Lookup(kOperators, arg.op)->value), arg.value, arg.value_two});
  }
  for (const std::string& name : rule.names) {
    int number = seccomp_syscall_resolve_name(name.c_str());
    if (number == __NR_SCMP_ERROR) continue;  // unknown here: never matched (config-linux.md)
    if (!repeated) {
      TRY(AddRule(context, action, number, name, args));
      continue;
    }
    // One rule cannot test an argument twice; the established reading is one rule for each test.
    for (const scmp_arg_cmp& arg : args) TRY(AddRule(context, action, number, name, {arg}));
  }
  return {};
}

std::vector<uint32_t> ArchitecturesOf(const SeccompSpec& spec) {
  std::vector<uint32_t> out = {seccomp_arch_native()};
  for (const std::string& name : spec.architectures) {
    uint32_t arch = Lookup(kArchitectures, name)->value;
    if (arch == SCMP_ARCH_NATIVE) arch = seccomp_arch_native();
    if (std::find(out.begin(), out.end(), arch) == out.end()) out.push_back(arch);
  }
  return out;
}

// A syscall newer than all that the profile names was not known to its author. C libraries fall back to older calls on
// ENOSYS, but take EPERM for an answer; so a denial of such a call says ENOSYS. Nothing is allowed by it.
void PrependNewerThanProfile(const SeccompSpec& spec, std::vector<sock_filter>* out) {
  if (spec.default_action != "SCMP_ACT_ERRNO" || spec.default_errno_ret.value_or(EPERM) == ENOSYS) return;
  for (uint32_t arch : ArchitecturesOf(spec)) {
    if (arch == SCMP_ARCH_X32) continue;  // shares its AUDIT_ARCH with x86-64
    int largest = -1;
    for (const SeccompSyscall& rule : spec.syscalls) {
      for (const std::string& name : rule.names) {
        largest = std::max(largest, seccomp_syscall_resolve_name_arch(arch, name.c_str()));
      }
    }
    if (largest < 0) continue;
    // libseccomp's tokens are the AUDIT_ARCH values that seccomp_data.arch holds.
    const bool x86_64 = arch == SCMP_ARCH_X86_64;
    const uint8_t past = x86_64 ? 4 : 3;
    out->push_back(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, arch)));
    out->push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, arch, 0, past));
    out->push_back(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)));
    if (x86_64) out->push_back(BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, 0x40000000, 2, 0));  // x32: left to the filter
    out->push_back(BPF_JUMP(BPF_JMP | BPF_JGT | BPF_K, static_cast<uint32_t>(largest), 0, 1));
    out->push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS));
  }
}

// On 32-bit x86 and others libseccomp turns each rule for a socket call into one for its number within socketcall, where
// the arguments cannot be compared: a rule for some address families would allow them all. A profile that denies the
// multiplexer itself means it; that comes before libseccomp's rules.
void PrependDeniedMultiplexers(const SeccompSpec& spec, std::vector<sock_filter>* out) {
  for (const char* multiplexer : {"socketcall", "ipc"}) {
    const SeccompSyscall* denial = nullptr;
    for (const SeccompSyscall& rule : spec.syscalls) {
      bool names = std::find(rule.names.begin(), rule.names.end(), multiplexer) != rule.names.end();
      if (names && rule.args.empty() && rule.action != "SCMP_ACT_ALLOW" && rule.action != "SCMP_ACT_LOG") denial = &rule;
    }
    if (denial == nullptr) continue;
    for (uint32_t arch : ArchitecturesOf(spec)) {
      int number = seccomp_syscall_resolve_name_arch(arch, multiplexer);
      if (number < 0) continue;
      out->push_back(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, arch)));
      out->push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, arch, 0, 3));
      out->push_back(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)));
      out->push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<uint32_t>(number), 0, 1));
      // SCMP_ACT_* are the values of SECCOMP_RET_*.
      out->push_back(BPF_STMT(BPF_RET | BPF_K, ActionOf(denial->action, denial->errno_ret)));
    }
  }
}

// What libseccomp makes of the context. Version 2.5 writes to a descriptor only.
Result<std::string> Export(scmp_filter_ctx context) {
  UniqueFd file(memfd_create("seccomp", MFD_CLOEXEC));
  if (!file) return ErrnoError("memfd for the seccomp filter");
  if (int failed = seccomp_export_bpf(context, file.get()); failed != 0) return LibraryError(failed, "export the filter");
  off_t size = lseek(file.get(), 0, SEEK_END);
  if (size <= 0 || static_cast<size_t>(size) > kMaxFilterBytes || static_cast<size_t>(size) % sizeof(sock_filter) != 0) {
    return MakeError(Code::kResourceExhausted, "seccomp filter of {} bytes; the kernel takes {}", size, kMaxFilterBytes);
  }
  std::string bpf(static_cast<size_t>(size), '\0');
  if (pread(file.get(), bpf.data(), bpf.size(), 0) != size) return ErrnoError("read the seccomp filter back");
  return bpf;
}

Result<std::string> CompileNow(const SeccompSpec& spec) {
  Context context(seccomp_init(ActionOf(spec.default_action, spec.default_errno_ret)), seccomp_release);
  if (context == nullptr) return MakeError(Code::kInternal, "seccomp: libseccomp cannot make a filter");
  // A binary tree over the syscall numbers instead of a chain of comparisons.
  (void)seccomp_attr_set(context.get(), SCMP_FLTATR_CTL_OPTIMIZE, 2);
  for (uint32_t arch : ArchitecturesOf(spec)) {
    int failed = seccomp_arch_add(context.get(), arch);
    if (failed != 0 && failed != -EEXIST) return LibraryError(failed, fmt::format("add architecture {:#x}", arch));
  }
  for (const SeccompSyscall& rule : spec.syscalls) TRY(AddSyscall(context.get(), spec, rule));
  std::vector<sock_filter> before;
  PrependDeniedMultiplexers(spec, &before);
  PrependNewerThanProfile(spec, &before);
  std::string bpf(reinterpret_cast<const char*>(before.data()), before.size() * sizeof(sock_filter));
  bpf += TRY(Export(context.get()));
  if (bpf.size() > kMaxFilterBytes) {
    return MakeError(Code::kResourceExhausted, "seccomp filter of {} bytes; the kernel takes {}", bpf.size(), kMaxFilterBytes);
  }
  return bpf;
}

// Compiles in a child, so that the memory libseccomp takes is not ours for the life of a pod. The answer comes as one
// byte, 0 or 1, and the filter or the error's message.
Result<std::string> CompileApart(const SeccompSpec& spec) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return CompileNow(spec);
  UniqueFd in(ends[0]), out(ends[1]);
  pid_t pid = fork();
  if (pid < 0) return CompileNow(spec);
  if (pid == 0) {
    auto made = CompileNow(spec);
    std::string answer = made ? std::string(1, '\0') + *made
                              : std::string(1, '\1') + static_cast<char>(made.error().code) + made.error().message;
    std::string_view rest = answer;
    while (!rest.empty()) {
      ssize_t n = write(out.get(), rest.data(), rest.size());
      if (n <= 0) _exit(1);
      rest.remove_prefix(static_cast<size_t>(n));
    }
    _exit(0);
  }
  out.Reset();
  std::string answer;
  char buffer[8192];
  for (;;) {
    ssize_t n = read(in.get(), buffer, sizeof buffer);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0 || answer.size() > kMaxFilterBytes + 8192) break;
    answer.append(buffer, static_cast<size_t>(n));
  }
  in.Reset();
  int status = -1;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  if (status != 0 || answer.empty()) return CompileNow(spec);
  if (answer[0] == '\0') return answer.substr(1);
  return Error{static_cast<Code>(answer.at(1)), 0, answer.substr(2)};
}

}  // namespace

Result<SeccompSpec> ParseSeccomp(const Json& seccomp) {
  if (!seccomp.is_object()) return MakeError(Code::kInvalidArgument, "linux.seccomp is not an object");
  JsonReader reader(seccomp, "linux.seccomp");
  SeccompSpec spec;
  TRY(reader.Read("defaultAction", &spec.default_action));
  TRY(reader.Read("defaultErrnoRet", &spec.default_errno_ret));
  TRY(reader.Read("architectures", &spec.architectures));
  TRY(reader.Read("flags", &spec.flags));
  TRY(reader.Read("listenerPath", &spec.listener_path));
  TRY(reader.Read("listenerMetadata", &spec.listener_metadata));
  TRY(CheckAction(spec.default_action, reader.At("defaultAction")));
  TRY(CheckErrno(spec.default_errno_ret, spec.default_action, reader.At("defaultErrnoRet")));
  for (const std::string& name : spec.architectures) {
    if (Lookup(kArchitectures, name) == nullptr) {
      return MakeError(Code::kInvalidArgument, "linux.seccomp.architectures: '{}' is unknown", name.substr(0, 64));
    }
  }
  for (const std::string& name : spec.flags) {
    if (Lookup(kFlags, name) == nullptr) {
      return MakeError(Code::kInvalidArgument, "linux.seccomp.flags: '{}' is unknown", name.substr(0, 64));
    }
  }
  if (!spec.listener_path.empty()) {
    return MakeError(Code::kUnimplemented, "linux.seccomp.listenerPath is not supported: no seccomp agent is served");
  }
  size_t names = 0;
  TRY(reader.EachObject("syscalls", [&](const JsonReader& item) -> Result<> {
    SeccompSyscall rule = TRY(ParseSyscall(item));
    names += rule.names.size();
    if (names > limits::kSeccompSyscalls || spec.syscalls.size() >= limits::kSeccompSyscalls) {
      return MakeError(Code::kResourceExhausted, "linux.seccomp names more than {} syscalls", limits::kSeccompSyscalls);
    }
    spec.syscalls.push_back(std::move(rule));
    return {};
  }));
  return spec;
}

Result<SeccompFilter> CompileSeccomp(const SeccompSpec& spec, const std::string& cache_dir) {
  // A spec that was not made by ParseSeccomp gets the same checks where the tables below rely on them.
  TRY(CheckAction(spec.default_action, "linux.seccomp.defaultAction"));
  SeccompFilter filter;
  for (const std::string& name : spec.flags) {
    const Word* flag = Lookup(kFlags, name);
    if (flag == nullptr) return MakeError(Code::kInvalidArgument, "linux.seccomp.flags: '{}' is unknown", name);
    filter.flags |= flag->value;
  }
  for (const std::string& name : spec.architectures) {
    if (Lookup(kArchitectures, name) == nullptr) {
      return MakeError(Code::kInvalidArgument, "linux.seccomp.architectures: '{}' is unknown", name);
    }
  }
  for (const SeccompSyscall& rule : spec.syscalls) {
    TRY(CheckAction(rule.action, "linux.seccomp.syscalls.action"));
    for (const SeccompArg& arg : rule.args) {
      if (Lookup(kOperators, arg.op) == nullptr || arg.index > 5) {
        return MakeError(Code::kInvalidArgument, "linux.seccomp.syscalls: bad argument {} '{}'", arg.index, arg.op);
      }
    }
  }
  utsname host{};
  uname(&host);
  std::string key = SeccompCacheKey(spec, fmt::format("{} {} {}.{}.{}", host.machine, host.release, SCMP_VER_MAJOR,
                                                      SCMP_VER_MINOR, SCMP_VER_MICRO));
  if (auto cached = ReadSeccompCache(cache_dir, key)) {
    filter.bpf = *std::move(cached);
    return filter;
  }
  filter.bpf = TRY(CompileApart(spec));
  WriteSeccompCache(cache_dir, key, filter.bpf);
  return filter;
}

int LoadSeccomp(const SeccompFilter& filter) noexcept {
  sock_fprog program{};
  program.len = static_cast<unsigned short>(filter.bpf.size() / sizeof(sock_filter));
  program.filter = reinterpret_cast<sock_filter*>(const_cast<char*>(filter.bpf.data()));
  long failed = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, filter.flags, &program);
  if (failed < 0) return errno;
  return failed > 0 ? ESRCH : 0;  // TSYNC: the id of a thread that could not follow
}

}  // namespace caisson::oci
