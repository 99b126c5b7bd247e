// SPDX-License-Identifier: Apache-2.0
//
// Container: one OCI container as a value that owns its init process, cgroup and namespaces' pins, from created to
// deleted (runtime-spec, runtime.md "Lifecycle"). Used in process by the companion, the agent and `caisson oci`.
//
// Thread rule: one thread, in a process that has no other threads (Create and Exec clone). Calls block only for the
// few milliseconds the kernel needs and each has a deadline inside. Waiting for exit is the caller's: poll pidfd().
//
// It never logs, never parses protobuf, never knows pods.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "oci/cgroup.h"
#include "oci/seccomp.h"
#include "oci/spec.h"

namespace caisson::oci {

// The child's ends of stdio. Descriptors not valid become /dev/null. With a terminal they are ignored.
struct Stdio {
  UniqueFd in, out, err;
};

// How the root filesystem comes to be, done in the container's own mount namespace, so that nothing of it is ever seen
// on the host: mounted in order on the spec's root.path (containerd.types.Mount semantics: "overlay", "bind", "erofs").
struct RootfsMount {
  std::string type, source;
  std::vector<std::string> options;
};

// What takes the init's place for a container that is restored from a checkpoint: criu(8), which Start executes in the
// container's cgroup and among its mounts, made in a mount namespace of criu's own. Descriptor 3 is `socket`; the
// container's stdio, or the null device, kRestorerStdio and the two after it. What it then makes is Adopt's to judge.
constexpr int kRestorerStdio = 4;
struct Restorer {
  std::string program;  // absolute; empty: none
  UniqueFd socket;
};

struct CreateOptions {
  std::string id;                   // safe as a path component
  std::string bundle;               // absolute; spec paths that are relative start here
  Spec spec;                        // parsed config.json
  std::vector<RootfsMount> rootfs;  // empty: root.path is the file system
  Stdio stdio;
  bool systemd_cgroup = false;
  std::string seccomp_cache_dir;  // where compiled filters are kept; empty: not kept
  std::optional<SeccompFilter> filter = {};  // compiled already: spec.seccomp is not looked at
  int shm_fd =
      -1;  // the mount that is the pod's /dev/shm, cloned for a mount of type "caisson-shm": a detached one (fsmount(2)) or,
           // before Linux 6.15, one that is attached in our mount namespace
  int64_t deadline_millis = 60'000;
  // The container's processes get SIGKILL when the process that made them ends: nothing of a pod outlives its
  // companion.
  bool die_with_parent = true;
  Restorer restorer;
  // A listening SOCK_SEQPACKET socket at which the init waits once it is released (Release): whoever connects to it and says
  // so starts the program. Not valid: only the object that made the container starts it.
  UniqueFd gate;
  // A program that is not there is Create's error, not Start's.
  bool check_program = false;
  unsigned preserve_fds = 0;        // descriptors 3 to 3 + this - 1 of ours go to the program as they are
  bool new_session_keyring = true;  // session-keyring(7)
  // We are no root: user namespace, if new, with one line of each map at most and no setgroups(2) (user_namespaces(7));
  // cgroup hierarchies that may not be written to are left out.
  bool rootless = false;
};

// A container that another process of ours has made and released.
struct OpenOptions {
  std::string id;
  std::string bundle;
  Spec spec;
  int pid = 0;     // the init's, 0 if there is none any more; the caller has checked that it is no other's
  UniqueFd pidfd;  // of it; not valid if it has ended
  bool systemd_cgroup = false;
  std::string seccomp_cache_dir;
  bool rootless = false;
  UniqueFd gate;  // connected to the init's; not valid: started already
};

struct ExecOptions {
  ProcessSpec process;  // spec's `process` object; user already numeric or resolved against the container's rootfs
  Stdio stdio;
  bool systemd_cgroup = false;
  int64_t deadline_millis = 60'000;
  unsigned preserve_fds = 0;
  bool new_session_keyring = true;
};

// What it takes to be a further process of a container, beside its cgroup and its init.
struct ExecTarget {
  int namespace_flags = 0;              // of setns(2) on the init's pidfd; the PID namespace is not among them
  std::optional<SeccompFilter> filter;  // not set: none
  std::optional<unsigned long> personality;
  IdMaps id_maps;  // not empty: of the container's user namespace
};

// A process started in a container. The caller polls pidfd and then reaps with waitid(P_PIDFD).
struct Process {
  int pid = 0;
  UniqueFd pidfd;
  UniqueFd console;  // the pty master when the process has a terminal
};

class Container {
 public:
  // Clones the container's init up to just before execve of the user's program: namespaces, cgroup, mounts, pivot_root,
  // ids, capabilities and seccomp are in place. On failure nothing is left and the error names step and object.
  static Result<std::unique_ptr<Container>> Create(CreateOptions options);
  // Finds it again. Its cgroup may be gone already. Errors: those of a spec that cannot be.
  static Result<std::unique_ptr<Container>> Open(OpenOptions options);
  virtual ~Container() = default;  // kills nothing: call Delete

  virtual const std::string& id() const = 0;
  virtual const Process& init() const = 0;
  virtual Process* mutable_init() = 0;
  virtual Cgroup* cgroup() = 0;
  // The file system that a restorer works in; of one without a restorer, where the root was mounted.
  virtual const std::string& root_path() const = 0;
  virtual const SeccompFilter* filter() const = 0;  // null: none
  virtual const Spec& spec() const = 0;  // as created, but without the seccomp rules: they are compiled

  // Of one created with a gate: the init no longer ends with this process but waits there. Not before the caller has
  // written down what it takes to find it again.
  virtual Result<> Release() = 0;
  // Lets init execve. Its terminal may come only now. Errors: kFailedPrecondition if started already; the execve failure, naming the program.
  virtual Result<> Start() = 0;
  // With a restorer that runs: takes the process `pid`, a child of ours that it has restored and holds still, as the init.
  // kPermissionDenied if it, or any process beside it, has more than the container would have given it (restored.h).
  virtual Result<> Adopt(int pid) = 0;
  // Starts criu(8) beside the running container, as a child of ours that `socket` is descriptor 3 of.
  virtual Result<Process> StartDumper(const std::string& program, UniqueFd socket) = 0;
  // Starts a further process inside. Errors as Create.
  virtual Result<Process> Exec(ExecOptions options) = 0;
  // For BecomeExec. Errors: its filter cannot be compiled; kUnimplemented for containers that another makes.
  virtual Result<ExecTarget> MakeExecTarget() { return MakeError(Code::kUnimplemented, "container '{}' is made by another", id()); }
  // Sends `signal` to init, or with `all` to every process of the cgroup. Ended already: success.
  virtual Result<> Kill(int signal, bool all) = 0;
  // SIGKILL to each process of the cgroup, until none is left. kDeadlineExceeded names those that stay.
  virtual Result<> EndAll(int64_t deadline_millis) { return cgroup()->Kill(Deadline::After(deadline_millis)); }
  // False: none of its processes is the host's, and those of init() and Exec stand for them.
  virtual bool HasHostProcesses() const { return true; }
  // To a process that Exec has started and that is not reaped. Ended already: success.
  virtual Result<> Signal(const Process& process, int signal);
  virtual Result<> Pause() = 0;
  virtual Result<> Resume() = 0;
  // The runtime-spec's linux.resources, as JSON. Errors: as ParseResources and Cgroup::Apply.
  virtual Result<> Update(std::string_view resources) = 0;
  virtual Result<std::vector<int>> Pids() = 0;
  virtual Result<CgroupStats> Stats(StatsPart part) { return cgroup()->Stats(part); }
  // Kills what is left, removes the cgroup and all else. Idempotent. Errors: what would not go within the deadline.
  virtual Result<> Delete(int64_t deadline_millis) = 0;
};

// The calling process, of one thread, which was born in the container's PID namespace and cgroup, becomes a further process of it, or
// ends. `control`: the child's end of a control pair, by whose other end AwaitExec (control.h) hears how that goes.
[[noreturn]] void BecomeExec(const ExecTarget& target, const ExecOptions& exec, int init_pidfd, UniqueFd control);

}  // namespace caisson::oci
