// SPDX-License-Identifier: Apache-2.0
#include "net/any_port.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <cstddef>
#include <vector>

#include "sys/bpf.h"

namespace caisson::net {
namespace {

using sys::BpfInstruction;

constexpr int32_t kLoopbackNet = 127;

// struct bpf_sk_lookup in R6, everything from its end: what is put in front knows how far it is to where a connection is let pass.
class Program {
 public:
  Program() { Front(BPF_JMP | BPF_EXIT, 0), Front(BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_0, 0, 0, SK_PASS), end_ = code_.size(); }

  void Front(uint8_t code, uint8_t dst, uint8_t src = 0, int16_t off = 0, int32_t imm = 0) { code_.insert(code_.begin(), sys::MakeBpf(code, dst, src, off, imm)); }
  void Copy(uint8_t dst, uint8_t src) { Front(BPF_ALU64 | BPF_MOV | BPF_X, dst, src); }
  void Call(int32_t function) { Front(BPF_JMP | BPF_CALL, 0, 0, 0, function); }
  void Load(uint8_t dst, size_t field) { Front(BPF_LDX | BPF_MEM | BPF_W, dst, BPF_REG_6, static_cast<int16_t>(field)); }
  // Behind it only with `value` in the register.
  void PassUnless(uint8_t reg, int32_t value) { Front(BPF_JMP | BPF_JNE | BPF_K, reg, 0, ToPass(), value); }
  int16_t ToPass() const { return static_cast<int16_t>(code_.size() - end_); }
  size_t size() const { return code_.size(); }
  const std::vector<BpfInstruction>& code() const { return code_; }

 private:
  std::vector<BpfInstruction> code_;
  size_t end_ = 0;
};

// Read from the last line to the first.
std::vector<BpfInstruction> MakeProgram(int map) {
  Program program;
  // bpf_sk_assign(context, bpf_map_lookup_elem(map, &0), 0), and the reference to the socket is given back.
  program.Call(BPF_FUNC_sk_release);
  program.Copy(BPF_REG_1, BPF_REG_7);
  program.Call(BPF_FUNC_sk_assign);
  program.Front(BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_3);
  program.Copy(BPF_REG_2, BPF_REG_7);
  program.Copy(BPF_REG_1, BPF_REG_6);
  program.Copy(BPF_REG_7, BPF_REG_0);
  program.Front(BPF_JMP | BPF_JEQ | BPF_K, BPF_REG_0, 0, program.ToPass(), 0);
  program.Call(BPF_FUNC_map_lookup_elem);
  program.Front(0, 0);  // the other half of the one before
  program.Front(BPF_LD | BPF_DW | BPF_IMM, BPF_REG_1, BPF_PSEUDO_MAP_FD, 0, map);
  program.Front(BPF_ALU64 | BPF_ADD | BPF_K, BPF_REG_2, 0, 0, -4);
  program.Copy(BPF_REG_2, BPF_REG_10);
  program.Front(BPF_ST | BPF_MEM | BPF_W, BPF_REG_10, 0, -4, 0);
  const size_t taken = program.size();
  // 127.0.0.0/8, or
  program.PassUnless(BPF_REG_2, kLoopbackNet);
  program.Front(BPF_ALU64 | BPF_RSH | BPF_K, BPF_REG_2, 0, 0, 24);
  program.Front(BPF_ALU | BPF_END | BPF_TO_BE, BPF_REG_2, 0, 0, 32);
  program.Load(BPF_REG_2, offsetof(bpf_sk_lookup, local_ip4));
  const size_t four = program.size();
  // ::1
  program.Front(BPF_JMP | BPF_JA, 0, 0, static_cast<int16_t>(four - taken));
  for (size_t word : {3, 2, 1, 0}) {
    program.PassUnless(BPF_REG_2, word == 3 ? static_cast<int32_t>(htonl(1)) : 0);
    program.Load(BPF_REG_2, offsetof(bpf_sk_lookup, local_ip6) + word * sizeof(uint32_t));
  }
  program.PassUnless(BPF_REG_2, AF_INET6);
  program.Front(BPF_JMP | BPF_JEQ | BPF_K, BPF_REG_2, 0, static_cast<int16_t>(program.size() - four), AF_INET);
  program.Load(BPF_REG_2, offsetof(bpf_sk_lookup, family));
  program.PassUnless(BPF_REG_2, IPPROTO_TCP);
  program.Load(BPF_REG_2, offsetof(bpf_sk_lookup, protocol));
  program.Copy(BPF_REG_6, BPF_REG_1);
  return program.code();
}

// On the loopback, at a port that nobody needs to know.
Result<UniqueFd> Listen() {
  // One for both families; where there is no IPv6, for the other.
  UniqueFd listener(socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  sockaddr_in6 six = {};
  six.sin6_family = AF_INET6;
  // ::ffff:127.0.0.1: one at ::1 is of IPv6 alone, one at :: would be reached from elsewhere.
  six.sin6_addr.s6_addr[10] = six.sin6_addr.s6_addr[11] = 0xff;
  six.sin6_addr.s6_addr[12] = kLoopbackNet, six.sin6_addr.s6_addr[15] = 1;
  const int off = 0;
  const bool both = listener && setsockopt(listener.get(), IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off) == 0 && bind(listener.get(), reinterpret_cast<sockaddr*>(&six), sizeof six) == 0;
  if (!both) {
    listener = UniqueFd(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    sockaddr_in four = {};
    four.sin_family = AF_INET;
    four.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (!listener || bind(listener.get(), reinterpret_cast<sockaddr*>(&four), sizeof four) != 0) return ErrnoError("make a socket of the loopback");
  }
  if (listen(listener.get(), SOMAXCONN) != 0) return ErrnoError("listen on the loopback");
  return listener;
}

Result<UniqueFd> MakeMap(int listener) {
  bpf_attr make{};
  make.map_type = BPF_MAP_TYPE_SOCKMAP;
  make.key_size = sizeof(uint32_t);
  make.value_size = sizeof(uint64_t);
  make.max_entries = 1;
  UniqueFd map(sys::Bpf(BPF_MAP_CREATE, &make));
  if (!map) return ErrnoError("make a BPF map of sockets");
  const uint32_t key = 0;
  const uint64_t value = static_cast<uint64_t>(listener);
  bpf_attr set{};
  set.map_fd = static_cast<uint32_t>(map.get());
  set.key = reinterpret_cast<uint64_t>(&key);
  set.value = reinterpret_cast<uint64_t>(&value);
  if (sys::Bpf(BPF_MAP_UPDATE_ELEM, &set) != 0) return ErrnoError("put a listener into a BPF map");
  return map;
}

}  // namespace

Result<AnyPort> ListenOnAnyPort() {
  AnyPort any;
  any.listener = TRY(Listen());
  UniqueFd map = TRY(MakeMap(any.listener.get()));
  UniqueFd program = TRY(sys::LoadBpf(BPF_PROG_TYPE_SK_LOOKUP, BPF_SK_LOOKUP, MakeProgram(map.get()), "socket lookup"));
  UniqueFd netns(open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC));
  if (!netns) return ErrnoError("open '/proc/thread-self/ns/net'");
  bpf_attr attach{};
  attach.link_create.prog_fd = static_cast<uint32_t>(program.get());
  attach.link_create.target_fd = static_cast<uint32_t>(netns.get());
  attach.link_create.attach_type = BPF_SK_LOOKUP;
  any.link = UniqueFd(sys::Bpf(BPF_LINK_CREATE, &attach));
  if (!any.link) return ErrnoError("attach the socket lookup program to the network namespace");
  return any;
}

Result<AnyConnection> AcceptAny(const AnyPort& any) {
  AnyConnection connection;
  connection.socket = UniqueFd(accept4(any.listener.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!connection.socket && (errno == EAGAIN || errno == ECONNABORTED || errno == EINTR)) return MakeError(Code::kUnavailable, "no connection yet");
  if (!connection.socket) return ErrnoError("accept a connection on the loopback");
  sockaddr_in6 address = {};  // both families have the port in the same place
  socklen_t size = sizeof address;
  if (getsockname(connection.socket.get(), reinterpret_cast<sockaddr*>(&address), &size) != 0) return ErrnoError("read a connection's port");
  connection.port = ntohs(address.sin6_port);
  return connection;
}

}  // namespace caisson::net
