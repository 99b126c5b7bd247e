// SPDX-License-Identifier: Apache-2.0
//
// The commands of caisson-oci and what they share. Each runs once in a process of its own, from one thread.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "oci/container.h"
#include "ocicli/flags.h"
#include "ocicli/record.h"
#include "ocicli/report.h"

namespace caisson::ocicli {

constexpr int64_t kDeadlineMillis = 10'000;  // of what ends or removes something

struct Context {
  std::string root;  // absolute
  Report report;
  bool systemd_cgroup = false;
  bool rootless = false;  // cgroups may be out of our reach

  Folder FolderOf(const std::string& id) const { return Folder(root, id); }
  // Compiled filters, of all containers below this root.
  std::string seccomp_cache() const { return root + "/.seccomp"; }
};

// Finds, checks and runs what the words after the program's name say. Never fails otherwise than by an exit status.
int Main(const std::vector<std::string>& words);

// A container of an earlier run.
struct Found {
  Folder folder;
  Record record;
  Status status;
};
Result<Found> Find(const Context& context, const std::string& id);
// Reads its configuration again. `gate`: connect to it, to start the container. `hooks` not null: gets the container's hooks,
// which the caller then runs itself.
Result<std::unique_ptr<oci::Container>> Open(const Context& context, const Found& found, bool gate = false, oci::Hooks* hooks = nullptr);

// create, start, delete and run: lifecycle.cc. The words are checked for their number already.
Result<int> Create(const Context& context, const Flags& flags);
Result<int> Start(const Context& context, const Flags& flags);
Result<int> Run(const Context& context, const Flags& flags);
Result<int> Delete(const Context& context, const Flags& flags);
Result<int> Kill(const Context& context, const Flags& flags);
Result<int> Exec(const Context& context, const Flags& flags);
Result<int> State(const Context& context, const Flags& flags);
Result<int> List(const Context& context, const Flags& flags);
Result<int> Ps(const Context& context, const Flags& flags);
Result<int> Events(const Context& context, const Flags& flags);
Result<int> Pause(const Context& context, const Flags& flags);
Result<int> Resume(const Context& context, const Flags& flags);
Result<int> Update(const Context& context, const Flags& flags);
Result<int> WriteSpec(const Context& context, const Flags& flags);
Result<int> Features(const Context& context, const Flags& flags);
Result<int> Refuse(const Context& context, const Flags& flags);

// Ends and removes the container and what is left of one that `create` was killed at (delete.cc). `force`: also one that
// runs; one that does not exist is then no error.
Result<> DeleteContainer(const Context& context, const std::string& id, bool force);

// The number of a signal by its number or name ("9", "KILL", "SIGKILL", "RTMIN+1").
Result<int> SignalNumber(const std::string& text);

// To stdout. Errors: it is closed or full.
Result<> Print(std::string_view text);
// Two spaces a level, and a newline.
std::string Indented(const Json& value);

}  // namespace caisson::ocicli
