// SPDX-License-Identifier: Apache-2.0
#include "oci/cgroup_systemd.h"

#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "base/id.h"
#include "base/strings.h"
#include "oci/cgroup_dir.h"
#include "oci/cgroup_plan.h"
#include "sys/cgroup.h"

namespace caisson::oci {
namespace {

constexpr char kPrivateSocket[] = "/run/systemd/private";
constexpr size_t kMaxMessage = 1 << 20;
constexpr int64_t kCallMillis = 10'000;

// Little-endian D-Bus marshalling ("Marshaling (Wire Format)" of the specification). Alignment counts from the start of
// the message; header and body both start at multiples of 8, so each may be written on its own.
class Writer {
 public:
  void Align(size_t to) { out_.resize((out_.size() + to - 1) / to * to); }
  void Byte(uint8_t value) { out_ += static_cast<char>(value); }
  void Uint32(uint32_t value) {
    Align(4);
    Raw(&value, 4);
  }
  void Uint64(uint64_t value) {
    Align(8);
    Raw(&value, 8);
  }
  void String(std::string_view value) {
    Uint32(static_cast<uint32_t>(value.size()));
    out_ += value;
    out_ += '\0';
  }
  void Signature(std::string_view value) {
    Byte(static_cast<uint8_t>(value.size()));
    out_ += value;
    out_ += '\0';
  }
  // Writes an array of elements aligned to `align` with `body`; its length excludes the padding before the first.
  template <class F>
  void Array(size_t align, F body) {
    Uint32(0);
    size_t length_at = out_.size() - 4;
    Align(align);
    size_t start = out_.size();
    body();
    auto length = static_cast<uint32_t>(out_.size() - start);
    memcpy(out_.data() + length_at, &length, 4);
  }
  std::string Take() { return std::move(out_); }
  const std::string& out() const { return out_; }

 private:
  void Raw(const void* data, size_t size) { out_.append(static_cast<const char*>(data), size); }
  std::string out_;
};

void WriteValue(const SystemdProperty& property, Writer* w) {
  if (const auto* text = std::get_if<std::string>(&property.value)) {
    w->Signature("s");
    w->String(*text);
  } else if (const auto* number = std::get_if<uint64_t>(&property.value)) {
    w->Signature("t");
    w->Uint64(*number);
  } else if (const auto* flag = std::get_if<bool>(&property.value)) {
    w->Signature("b");
    w->Uint32(*flag ? 1 : 0);
  } else if (const auto* pids = std::get_if<std::vector<uint32_t>>(&property.value)) {
    w->Signature("au");
    w->Array(4, [&] {
      for (uint32_t pid : *pids) w->Uint32(pid);
    });
  } else if (const auto* bytes = std::get_if<std::vector<uint8_t>>(&property.value)) {
    w->Signature("ay");
    w->Array(1, [&] {
      for (uint8_t byte : *bytes) w->Byte(byte);
    });
  }
}

void WriteProperties(const std::vector<SystemdProperty>& properties, Writer* w) {
  w->Array(8, [&] {  // a(sv)
    for (const SystemdProperty& property : properties) {
      w->Align(8);
      w->String(property.name);
      WriteValue(property, w);
    }
  });
}

std::string Call(uint32_t serial, std::string_view member, std::string_view signature, const std::string& body) {
  Writer w;
  w.Byte('l');
  w.Byte(1);  // METHOD_CALL
  w.Byte(0);
  w.Byte(1);  // protocol version
  w.Uint32(static_cast<uint32_t>(body.size()));
  w.Uint32(serial);
  auto field = [&](uint8_t code, std::string_view type, std::string_view value) {
    w.Align(8);
    w.Byte(code);
    w.Signature(type);
    if (type == "g") w.Signature(value);
    else w.String(value);
  };
  w.Array(8, [&] {
    field(1, "o", "/org/freedesktop/systemd1");
    field(2, "s", "org.freedesktop.systemd1.Manager");
    field(3, "s", member);
    field(6, "s", "org.freedesktop.systemd1");
    field(8, "g", signature);
  });
  w.Align(8);
  return w.Take() + body;
}

uint32_t U32(std::string_view bytes, size_t at) {
  uint32_t value;
  memcpy(&value, bytes.data() + at, 4);
  return value;
}

Error BadMessage(std::string_view why) { return MakeError(Code::kInvalidArgument, "D-Bus message: {}", why); }

// The string at `*at` (aligned), or an error if it leaves `bytes`.
Result<std::string> ReadString(std::string_view bytes, size_t* at) {
  size_t start = (*at + 3) / 4 * 4;
  if (start + 4 > bytes.size()) return BadMessage("string leaves the message");
  size_t length = U32(bytes, start);
  if (length > bytes.size() || start + 4 + length + 1 > bytes.size()) return BadMessage("string leaves the message");
  *at = start + 4 + length + 1;
  return std::string(bytes.substr(start + 4, length));
}

// `fields` starts at a multiple of 8 of the message, so alignment may be counted from its own start.
Result<> ReadFields(std::string_view fields, DbusReply* reply) {
  size_t at = 0;
  while (at < fields.size()) {
    at = (at + 7) / 8 * 8;
    if (at + 4 > fields.size()) return BadMessage("header field is cut off");
    auto code = static_cast<uint8_t>(fields[at]);
    size_t length = static_cast<uint8_t>(fields[at + 1]);
    if (length != 1 || fields[at + 3] != '\0') return BadMessage("header field of a compound type");
    char type = fields[at + 2];
    at += 4;
    if (type == 'u') {
      at = (at + 3) / 4 * 4;
      if (at + 4 > fields.size()) return BadMessage("header field is cut off");
      if (code == 5) reply->reply_serial = U32(fields, at);
      at += 4;
    } else if (type == 's' || type == 'o') {
      std::string value = TRY(ReadString(fields, &at));
      if (code == 4) reply->error_name = value;
    } else if (type == 'g') {
      if (at >= fields.size()) return BadMessage("header field is cut off");
      at += static_cast<uint8_t>(fields[at]) + size_t{2};
    } else {
      return BadMessage("header field of an unknown type");
    }
  }
  return {};
}

// One connection to systemd: authenticated by the socket's credentials (D-Bus mechanism EXTERNAL).
class Connection {
 public:
  static Result<Connection> Open(Deadline deadline) {
    Connection connection;
    connection.fd_ = UniqueFd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (!connection.fd_) return ErrnoError("socket for systemd");
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    memcpy(address.sun_path, kPrivateSocket, sizeof kPrivateSocket);
    if (connect(connection.fd_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
      return ErrnoError("connect to systemd at '{}'", kPrivateSocket);
    }
    // "\0AUTH EXTERNAL <hex of the decimal uid>"; the server answers "OK <guid>", and BEGIN starts the messages. All at once, for a message
    // that systemd reads together with BEGIN it leaves unheard until the next one.
    std::string hello("\0AUTH EXTERNAL ", 15);
    hello += HexEncode(fmt::format("{}", geteuid())) + "\r\nBEGIN\r\n";
    TRY(connection.Send(hello, deadline));
    std::string answer;
    while (answer.find("\r\n") == std::string::npos) {
      if (answer.size() > 512) return MakeError(Code::kUnavailable, "systemd answers the authentication with rubbish");
      TRY(connection.Receive(&answer, deadline));
    }
    if (!answer.starts_with("OK ")) return MakeError(Code::kPermissionDenied, "systemd refuses the authentication");
    return connection;
  }

  // Sends a call of serial 1, …; returns its error reply as an error.
  Result<> Invoke(const std::string& message, uint32_t serial, Deadline deadline) {
    TRY(Send(message, deadline));
    for (;;) {
      DbusReply reply = TRY(ParseDbusMessage(input_));
      if (reply.size == 0) {
        TRY(Receive(&input_, deadline));
        continue;
      }
      input_.erase(0, reply.size);
      if (reply.reply_serial != serial || (reply.type != 2 && reply.type != 3)) continue;
      if (reply.type == 2) return {};
      Code code = reply.error_name.ends_with(".NoSuchUnit")     ? Code::kNotFound
                  : reply.error_name.ends_with(".UnitExists")   ? Code::kAlreadyExists
                  : reply.error_name.ends_with(".AccessDenied") ? Code::kPermissionDenied
                                                                : Code::kFailedPrecondition;
      return MakeError(code, "systemd: {} ({})", reply.text, reply.error_name);
    }
  }

 private:
  Result<> Wait(short events, Deadline deadline) {
    pollfd poll_fd{fd_.get(), events, 0};
    int n = poll(&poll_fd, 1, deadline.RemainingMillis());
    if (n < 0 && errno != EINTR) return ErrnoError("wait for systemd");
    if (n == 0 && deadline.Passed()) return MakeError(Code::kDeadlineExceeded, "systemd does not answer");
    return {};
  }
  Result<> Send(std::string_view bytes, Deadline deadline) {
    while (!bytes.empty()) {
      ssize_t n = send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (n > 0) bytes.remove_prefix(static_cast<size_t>(n));
      else if (n < 0 && errno == EAGAIN) TRY(Wait(POLLOUT, deadline));
      else if (n < 0 && errno != EINTR) return ErrnoError("send to systemd");
    }
    return {};
  }
  Result<> Receive(std::string* into, Deadline deadline) {
    char buffer[4096];
    for (;;) {
      ssize_t n = recv(fd_.get(), buffer, sizeof buffer, 0);
      if (n == 0) return MakeError(Code::kUnavailable, "systemd closed the connection");
      if (n > 0) {
        into->append(buffer, static_cast<size_t>(n));
        return {};
      }
      if (errno == EAGAIN) TRY(Wait(POLLIN, deadline));
      else if (errno != EINTR) return ErrnoError("receive from systemd");
    }
  }

  UniqueFd fd_;
  std::string input_;
};

Result<> InvokeOnce(const std::string& message, Deadline deadline) {
  Connection connection = TRY(Connection::Open(deadline));
  return connection.Invoke(message, 1, deadline);
}

// A child that sleeps until it is killed or we die.
Result<int> ForkPlaceholder() {
  pid_t parent = getpid();
  pid_t pid = fork();
  if (pid < 0) return ErrnoError("fork a placeholder for the scope");
  if (pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(0);
    for (;;) pause();
  }
  return static_cast<int>(pid);
}

}  // namespace

bool IsSystemdPath(std::string_view path) { return ParseSystemdPath(path).has_value(); }

bool IsSystemdThere() { return access(kPrivateSocket, F_OK) == 0; }

Result<SystemdPath> ParseSystemdPath(std::string_view spec) {
  std::vector<std::string_view> parts = Split(spec, ':');
  auto bad = [&](std::string_view why) {
    return MakeError(Code::kInvalidArgument, "systemd cgroup path '{}': {}", spec.substr(0, 256), why);
  };
  if (parts.size() != 3) return bad("is not slice:prefix:name");
  if (!IsSafeName(parts[2])) return bad("bad name");
  if (!parts[1].empty() && !IsSafeName(parts[1])) return bad("bad prefix");
  SystemdPath out;
  out.slice = parts[0].empty() ? "system.slice" : std::string(parts[0]);
  if (out.slice == "-") out.slice = "-.slice";
  if (!IsSafeName(out.slice) || !out.slice.ends_with(".slice")) return bad("no slice name");
  bool scope = parts[2].ends_with(".scope");
  out.scope = (parts[1].empty() ? "" : std::string(parts[1]) + "-") + std::string(parts[2]) + (scope ? "" : ".scope");
  if (out.scope.size() > 255) return bad("unit name longer than 255 bytes");
  // systemd.slice(5): "a-b.slice" lives in "a.slice"; "-.slice" is the root.
  if (out.slice != "-.slice") {
    std::string_view stem = std::string_view(out.slice).substr(0, out.slice.size() - 6);
    for (std::string_view part : Split(stem, '-')) {
      if (part.empty()) return bad("slice has an empty part");
    }
    for (size_t dash = stem.find('-'); dash != std::string_view::npos; dash = stem.find('-', dash + 1)) {
      out.path += std::string(stem.substr(0, dash)) + ".slice/";
    }
    out.path += out.slice + "/";
  }
  out.path += out.scope;
  return out;
}

Result<std::vector<uint8_t>> CpuListBits(std::string_view list) {
  std::vector<uint8_t> bits;
  for (std::string_view range : Split(list, ',')) {
    size_t dash = range.find('-');
    auto first = ParseUint64(range.substr(0, dash));
    auto last = dash == std::string_view::npos ? first : ParseUint64(range.substr(dash + 1));
    if (!first || !last || *first > *last || *last >= 8192) {
      return MakeError(Code::kInvalidArgument, "'{}' is no list of CPUs or memory nodes", list);
    }
    if (bits.size() <= *last / 8) bits.resize(*last / 8 + 1);
    for (uint64_t i = *first; i <= *last; ++i) bits[i / 8] |= static_cast<uint8_t>(1u << (i % 8));
  }
  return bits;
}

namespace {

// What a file of cgroup v2 is called among systemd's properties (systemd.resource-control(5)); none for most files, and for
// a value that is no number: the kernel judges it when it is written.
void UnifiedProperties(const std::string& file, std::string_view value, std::vector<SystemdProperty>* out) {
  static constexpr std::pair<std::string_view, const char*> kNumbers[] = {
      {"memory.min", "MemoryMin"}, {"memory.low", "MemoryLow"},          {"memory.high", "MemoryHigh"},
      {"memory.max", "MemoryMax"}, {"memory.swap.max", "MemorySwapMax"}, {"pids.max", "TasksMax"},
      {"cpu.weight", "CPUWeight"}, {"io.weight", "IOWeight"}};
  value = Trim(value);
  if (file == "cpuset.cpus" || file == "cpuset.mems") {
    auto bits = CpuListBits(value);
    if (bits) out->push_back({file == "cpuset.cpus" ? "AllowedCPUs" : "AllowedMemoryNodes", std::move(*bits)});
    return;
  }
  if (file == "io.weight" && value.starts_with("default ")) value.remove_prefix(8);
  for (const auto& [name, property] : kNumbers) {
    if (file != name) continue;
    if (value == "max") return out->push_back({property, UINT64_MAX});
    if (auto number = ParseUint64(value)) out->push_back({property, *number});
  }
}

// Properties that came with systemd 240 to 244. What they say also stands in the container's own group.
bool IsNewer(const SystemdProperty& property) {
  return property.name == "CPUQuotaPeriodUSec" || property.name == "MemoryMin" || property.name.starts_with("Allowed");
}

// Sends what `message` makes of the properties; to a systemd that does not know the newer ones once more without them.
template <class F>
Result<> InvokeWith(std::vector<SystemdProperty> properties, Deadline deadline, F message) {
  auto done = InvokeOnce(message(properties), deadline);
  if (done || done.error().message.find("unknown property") == std::string::npos) return done;
  if (std::erase_if(properties, IsNewer) == 0) return done;
  return InvokeOnce(message(properties), deadline);
}

}  // namespace

std::vector<SystemdProperty> SystemdProperties(const Resources& resources, bool v2) {
  std::vector<SystemdProperty> out;
  auto size = [](int64_t bytes) { return bytes < 0 ? UINT64_MAX : static_cast<uint64_t>(bytes); };
  if (resources.memory) {
    const auto& m = *resources.memory;
    if (m.limit.value_or(0)) out.push_back({v2 ? "MemoryMax" : "MemoryLimit", size(*m.limit)});
    if (v2 && m.reservation.value_or(0)) out.push_back({"MemoryLow", size(*m.reservation)});
    if (v2 && m.swap.value_or(0) && m.limit.value_or(0) > 0) {
      out.push_back({"MemorySwapMax", *m.swap < 0 ? UINT64_MAX : size(*m.swap - *m.limit)});
    }
  }
  if (resources.cpu) {
    const auto& c = *resources.cpu;
    if (c.shares.value_or(0)) {
      out.push_back({v2 ? "CPUWeight" : "CPUShares", v2 ? CpuWeightOfShares(*c.shares) : *c.shares});
    }
    if (c.quota.value_or(0)) {
      // systemd keeps the quota as CPU microseconds per second, in steps of 10 ms.
      uint64_t period = c.period.value_or(0) ? *c.period : 100'000;
      uint64_t per_second = UINT64_MAX;
      if (*c.quota > 0) {
        __uint128_t exact = static_cast<__uint128_t>(*c.quota) * 1'000'000 / period;
        per_second = static_cast<uint64_t>(std::min<__uint128_t>((exact + 9'999) / 10'000 * 10'000, UINT64_MAX - 1));
      }
      out.push_back({"CPUQuotaPerSecUSec", per_second});
    }
    if (v2 && c.period.value_or(0)) out.push_back({"CPUQuotaPeriodUSec", *c.period});
    if (v2 && !c.cpus.empty()) {
      if (auto bits = CpuListBits(c.cpus)) out.push_back({"AllowedCPUs", *bits});
    }
    if (v2 && !c.mems.empty()) {
      if (auto bits = CpuListBits(c.mems)) out.push_back({"AllowedMemoryNodes", *bits});
    }
  }
  if (resources.pids_limit) out.push_back({"TasksMax", *resources.pids_limit <= 0 ? UINT64_MAX : size(*resources.pids_limit)});
  for (const auto& [file, value] : resources.unified) UnifiedProperties(file, value, &out);
  return out;
}

std::string StartTransientUnitMessage(uint32_t serial, const std::string& unit, const std::vector<SystemdProperty>& properties) {
  Writer w;  // ssa(sv)a(sa(sv))
  w.String(unit);
  w.String("fail");
  WriteProperties(properties, &w);
  w.Array(8, [] {});
  return Call(serial, "StartTransientUnit", "ssa(sv)a(sa(sv))", w.out());
}

std::string SetUnitPropertiesMessage(uint32_t serial, const std::string& unit, const std::vector<SystemdProperty>& properties) {
  Writer w;  // sba(sv)
  w.String(unit);
  w.Uint32(1);  // runtime only
  WriteProperties(properties, &w);
  return Call(serial, "SetUnitProperties", "sba(sv)", w.out());
}

std::string StopUnitMessage(uint32_t serial, const std::string& unit) {
  Writer w;
  w.String(unit);
  w.String("replace");
  return Call(serial, "StopUnit", "ss", w.out());
}

Result<DbusReply> ParseDbusMessage(std::string_view bytes) {
  DbusReply reply;
  if (bytes.size() < 16) return reply;
  if (bytes[0] != 'l' || bytes[3] != 1) return BadMessage("not little endian, version 1");
  size_t body = U32(bytes, 4), fields = U32(bytes, 12);
  if (body > kMaxMessage || fields > kMaxMessage) {
    return MakeError(Code::kResourceExhausted, "D-Bus message larger than {} bytes", kMaxMessage);
  }
  size_t body_at = (16 + fields + 7) / 8 * 8;
  if (bytes.size() < body_at + body) return reply;
  reply.size = body_at + body;
  reply.type = static_cast<uint8_t>(bytes[1]);
  TRY(ReadFields(bytes.substr(16, fields), &reply));
  if (reply.type == 3 && body >= 5) {
    size_t at = 0;
    if (auto text = ReadString(bytes.substr(body_at, body), &at)) reply.text = *text;
  }
  return reply;
}

Result<> SystemdScope::Start(const Resources& resources) {
  placeholder_ = TRY(ForkPlaceholder());
  std::vector<SystemdProperty> properties = {
      {"Description", "container " + path_.scope},
      {"Slice", path_.slice},
      {"PIDs", std::vector<uint32_t>{static_cast<uint32_t>(placeholder_)}},
      {"Delegate", true},
      {"DefaultDependencies", false},
      {"CollectMode", std::string("inactive-or-failed")},
  };
  std::vector<SystemdProperty> limits = SystemdProperties(resources, v2_);
  // Without a word systemd gives a scope its DefaultTasksMax, a limit that nobody has asked for.
  bool tasks = std::any_of(limits.begin(), limits.end(), [](const auto& one) { return one.name == "TasksMax"; });
  if (!tasks) properties.push_back({"TasksMax", UINT64_MAX});
  properties.insert(properties.end(), limits.begin(), limits.end());
  Deadline deadline = Deadline::After(kCallMillis);
  auto started = InvokeWith(std::move(properties), deadline,
                            [&](const auto& all) { return StartTransientUnitMessage(1, path_.scope, all); });
  if (!started) {
    ReleasePlaceholder();
    return started;
  }
  // The reply names a job; it is done when the placeholder is where the scope should be.
  auto inside = PollUntil(deadline, [this]() -> Result<bool> {
    auto groups = TRY(sys::ReadCgroupMembership(fmt::format("/proc/{}/cgroup", placeholder_)));
    return std::any_of(groups.begin(), groups.end(), [this](const sys::CgroupMembership& one) {
      return one.path.ends_with("/" + path_.path);
    });
  });
  if (inside && *inside) return {};
  ReleasePlaceholder();
  if (!inside) return std::move(inside.error());
  return MakeError(Code::kDeadlineExceeded, "systemd did not start '{}' in time", path_.scope);
}

Result<> SystemdScope::SetProperties(const Resources& resources) {
  std::vector<SystemdProperty> properties = SystemdProperties(resources, v2_);
  if (properties.empty()) return {};
  return InvokeWith(std::move(properties), Deadline::After(kCallMillis),
                    [&](const auto& all) { return SetUnitPropertiesMessage(1, path_.scope, all); });
}

Result<> SystemdScope::Stop(Deadline deadline) {
  ReleasePlaceholder();
  auto stopped = InvokeOnce(StopUnitMessage(1, path_.scope), deadline);
  if (!stopped && stopped.error().code != Code::kNotFound) return stopped;
  return {};
}

void SystemdScope::ReleasePlaceholder() {
  if (placeholder_ <= 0) return;
  kill(placeholder_, SIGKILL);
  while (waitpid(placeholder_, nullptr, 0) < 0 && errno == EINTR) {
  }
  placeholder_ = -1;
}

}  // namespace caisson::oci
