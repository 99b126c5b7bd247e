// SPDX-License-Identifier: Apache-2.0
#include "ocicli/command.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>

#include "base/strings.h"
#include "sys/path.h"

namespace caisson::ocicli {
namespace {

constexpr size_t kAnyWords = SIZE_MAX;

struct Command {
  const char* name;
  const char* words;  // for the usage line
  const char* help;
  size_t least_words, most_words;
  size_t free_words;  // after so many words the rest is a program's
  Result<int> (*run)(const Context&, const Flags&);
  std::vector<Flag> flags;
  bool stateless = false;  // looks at no container
};

using Kind = Flag::Kind;

const std::vector<Flag> kGlobal = {
    {"root", "", Kind::kText, "folder of the containers' state (default: /run/caisson-oci, or below $XDG_RUNTIME_DIR)"},
    {"log", "", Kind::kText, "file to append messages to, beside stderr"},
    {"log-format", "", Kind::kText, "text (default) or json"},
    {"debug", "", Kind::kSwitch, "more messages"},
    {"systemd-cgroup", "", Kind::kSwitch, "let systemd make the cgroups; cgroupsPath is then slice:prefix:name"},
    {"rootless", "", Kind::kText, "true, false or auto (default): do without cgroups that are out of reach"},
    {"criu", "", Kind::kText, "taken and not used"},
    {"version", "v", Kind::kSwitch, "print the version"},
    {"help", "h", Kind::kSwitch, "print this"}};

const std::vector<Flag> kCreate = {
    {"bundle", "b", Kind::kText, "the bundle's folder (default: the working directory)"},
    {"console-socket", "", Kind::kText, "unix socket that gets the terminal"},
    {"pid-file", "", Kind::kText, "file to write the process id to"},
    {"preserve-fds", "", Kind::kText, "how many descriptors from 3 on the program gets"},
    {"no-pivot", "", Kind::kSwitch, "refused"},
    {"no-new-keyring", "", Kind::kSwitch, "keep the caller's session keyring"}};

const std::vector<Flag> kRun = {{"detach", "d", Kind::kSwitch, "do not wait for the container"},
                                {"keep", "", Kind::kSwitch, "do not delete the container when it has ended"},
                                {"no-subreaper", "", Kind::kSwitch, "taken: this command never is one"}};

const std::vector<Flag> kExec = {
    {"console-socket", "", Kind::kText, "unix socket that gets the terminal"},
    {"pid-file", "", Kind::kText, "file to write the process id to"},
    {"preserve-fds", "", Kind::kText, "how many descriptors from 3 on the program gets"},
    {"detach", "d", Kind::kSwitch, "do not wait for the process"},
    {"tty", "t", Kind::kSwitch, "with a terminal"},
    {"process", "p", Kind::kText, "file with the whole process object, instead of the flags"},
    {"cwd", "", Kind::kText, "working directory"},
    {"env", "e", Kind::kList, "NAME=value"},
    {"user", "u", Kind::kText, "UID[:GID], or a name of the container's"},
    {"additional-gids", "g", Kind::kList, "further group"},
    {"cap", "c", Kind::kList, "further capability"},
    {"no-new-privs", "", Kind::kSwitch, "set no_new_privs"},
    {"apparmor", "", Kind::kText, "AppArmor profile"},
    {"process-label", "", Kind::kText, "SELinux label"},
    {"cgroup", "", Kind::kText, "refused"},
    {"ignore-paused", "", Kind::kSwitch, "also in a paused container"},
    {"no-subreaper", "", Kind::kSwitch, "taken: this command never is one"}};

const std::vector<Flag> kUpdate = {
    {"resources", "r", Kind::kText, "file with the resources object, - for stdin; the other flags are then not looked at"},
    {"blkio-weight", "", Kind::kText, ""},
    {"cpu-period", "", Kind::kText, "microseconds"},
    {"cpu-quota", "", Kind::kText, "microseconds a period"},
    {"cpu-burst", "", Kind::kText, "microseconds"},
    {"cpu-share", "", Kind::kText, ""},
    {"cpu-rt-period", "", Kind::kText, "microseconds"},
    {"cpu-rt-runtime", "", Kind::kText, "microseconds"},
    {"cpu-idle", "", Kind::kText, "0 or 1"},
    {"cpuset-cpus", "", Kind::kText, "as 0-3,7"},
    {"cpuset-mems", "", Kind::kText, "as 0-3,7"},
    {"memory", "", Kind::kText, "bytes, as 64M"},
    {"memory-reservation", "", Kind::kText, "bytes"},
    {"memory-swap", "", Kind::kText, "bytes of memory and swap together, -1: no limit"},
    {"kernel-memory", "", Kind::kText, "taken and not used: kernels have no such limit any more"},
    {"kernel-memory-tcp", "", Kind::kText, "taken and not used"},
    {"pids-limit", "", Kind::kText, "-1: no limit"},
    {"l3-cache-schema", "", Kind::kText, "refused"},
    {"mem-bw-schema", "", Kind::kText, "refused"}};

std::vector<Flag> Both(std::vector<Flag> flags, const std::vector<Flag>& more) {
  flags.insert(flags.end(), more.begin(), more.end());
  return flags;
}

const std::vector<Command>& Commands() {
  static const std::vector<Command> commands = {
      {"create", "ID", "make a container of a bundle; its program waits for start", 1, 1, kAnyWords, Create, kCreate},
      {"start", "ID", "start the program of a created container", 1, 1, kAnyWords, Start, {}},
      {"run", "ID", "create and start a container, wait for it and delete it", 1, 1, kAnyWords, Run, Both(kCreate, kRun)},
      {"exec", "ID PROGRAM ...", "run a further program in a container", 1, kAnyWords, 1, Exec, kExec},
      {"kill", "ID [SIGNAL]", "send a signal (default: TERM) to the container's first process", 1, 2, kAnyWords, Kill,
       {{"all", "a", Kind::kSwitch, "to all its processes"}, {"signal", "s", Kind::kText, "the signal"}}},
      {"delete", "ID", "remove a container that has stopped", 1, 1, kAnyWords, Delete,
       {{"force", "f", Kind::kSwitch, "also one that runs, and none at all"}}},
      {"state", "ID", "print the state of a container", 1, 1, kAnyWords, State, {}},
      {"list", "", "print all containers below the root", 0, 0, kAnyWords, List,
       {{"format", "f", Kind::kText, "table (default) or json"}, {"quiet", "q", Kind::kSwitch, "ids alone"}}},
      {"ps", "ID [OPTION OF PS ...]", "print the processes of a container", 1, kAnyWords, 1, Ps,
       {{"format", "f", Kind::kText, "table (default) or json"}}},
      {"pause", "ID", "stop all processes of a container for a while", 1, 1, kAnyWords, Pause, {}},
      {"resume", "ID", "let them go on", 1, 1, kAnyWords, Resume, {}},
      {"update", "ID", "change limits of a container", 1, 1, kAnyWords, Update, kUpdate},
      {"events", "ID", "print what a container uses, and that it ran out of memory", 1, 1, kAnyWords, Events,
       {{"interval", "", Kind::kText, "time between two reports (default: 5s)"}, {"stats", "", Kind::kSwitch, "one report, then end"}}},
      {"spec", "", "write a config.json to begin with", 0, 0, kAnyWords, WriteSpec,
       {{"bundle", "b", Kind::kText, "folder to write it to (default: the working directory)"},
        {"rootless", "", Kind::kSwitch, "for a user who is not root"}}, true},
      {"features", "", "print what this runtime can do, as JSON", 0, 0, kAnyWords, Features, {}, true},
      {"checkpoint", "ID", "not supported", 0, kAnyWords, 0, Refuse, {}},
      {"restore", "ID", "not supported", 0, kAnyWords, 0, Refuse, {}}};
  return commands;
}

std::string DescribeFlags(const std::vector<Flag>& flags) {
  std::string text;
  for (const Flag& flag : flags) {
    std::string name = fmt::format("--{}{}", flag.name, flag.kind == Kind::kSwitch ? "" : " VALUE");
    if (*flag.short_name != '\0') name += fmt::format(", -{}", flag.short_name);
    text += fmt::format("  {:<30} {}\n", name, flag.help);
  }
  return text;
}

std::string Usage() {
  std::string text = "usage: caisson-oci [GLOBAL FLAG ...] COMMAND [FLAG ...] [WORD ...]\n\nAn OCI runtime: containers of bundles, by Caisson's launcher.\n\n";
  for (const Command& command : Commands()) text += fmt::format("  {:<12} {}\n", command.name, command.help);
  return text + "\nglobal flags:\n" + DescribeFlags(kGlobal) + "\nCOMMAND --help shows the command's own flags.\n";
}

std::string UsageOf(const Command& command) {
  std::string text = fmt::format("usage: caisson-oci {} {}{}\n\n{}\n", command.name, command.flags.empty() ? "" : "[FLAG ...] ", command.words, command.help);
  return command.flags.empty() ? text : text + "\n" + DescribeFlags(command.flags);
}

// The first line as other runtimes have it: containerd, Docker and podman read it.
std::string Version() { return fmt::format("caisson-oci version {}\nspec: 1.2.0\n", CAISSON_VERSION); }

// Of a user namespace that is not the host's, even root cannot make cgroups everywhere.
bool InUserNamespace() {
  auto map = sys::ReadFile("/proc/self/uid_map", 4096);
  if (!map) return false;
  std::vector<std::string_view> fields = Split(Trim(*map), ' ');
  std::erase(fields, std::string_view());
  return !(fields.size() == 3 && fields[0] == "0" && fields[1] == "0" && fields[2] == "4294967295");
}

Result<std::string> RootOf(const Flags& global) {
  std::string root = global.Text("root");
  if (root.empty() && geteuid() == 0) root = "/run/caisson-oci";
  const char* runtime = std::getenv("XDG_RUNTIME_DIR");
  if (root.empty() && runtime != nullptr && *runtime != '\0') root = std::string(runtime) + "/caisson-oci";
  if (root.empty()) return MakeError(Code::kInvalidArgument, "neither --root nor $XDG_RUNTIME_DIR says where the state is");
  while (root.size() > 1 && root.ends_with('/')) root.pop_back();
  if (root[0] == '/') return root;
  char* here = getcwd(nullptr, 0);
  if (here == nullptr) return ErrnoError("find the working directory");
  root = std::string(here) + "/" + root;
  free(here);
  return root;
}

Result<Context> MakeContext(const Flags& global, Report report, bool stateless) {
  Context context;
  context.report = std::move(report);
  if (!stateless) context.root = TRY(RootOf(global));
  context.systemd_cgroup = global.On("systemd-cgroup");
  std::string rootless = global.Given("rootless") ? global.Text("rootless") : "auto";
  if (rootless != "true" && rootless != "false" && rootless != "auto")
    return MakeError(Code::kInvalidArgument, "--rootless '{}' is neither true, false nor auto", rootless.substr(0, 64));
  context.rootless = rootless == "true" || (rootless == "auto" && (geteuid() != 0 || InUserNamespace()));
  return context;
}

Result<int> RunCommand(const Context& context, const Command& command, const std::vector<std::string>& words) {
  std::vector<Flag> known = Both(command.flags, {{"help", "h", Kind::kSwitch, ""}});
  // What is refused is refused whatever its flags are.
  if (command.free_words == 0) return command.run(context, Flags());
  Flags flags = TRY(Flags::Parse(known, words, command.free_words));
  if (flags.On("help")) {
    TRY(Print(UsageOf(command)));
    return 0;
  }
  size_t count = flags.words().size();
  if (count < command.least_words || count > command.most_words)
    return MakeError(Code::kInvalidArgument, "{} takes: {}", command.name, *command.words == '\0' ? "no word" : command.words);
  return command.run(context, flags);
}

Result<int> Dispatch(const Flags& global, Report report) {
  if (global.On("version") || global.On("help") || global.words().empty()) {
    TRY(Print(global.On("version") ? Version() : Usage()));
    return 0;
  }
  const std::string& name = global.words()[0];
  if (name == "help" || name == "version") {
    TRY(Print(name == "version" ? Version() : Usage()));
    return 0;
  }
  auto command = std::find_if(Commands().begin(), Commands().end(), [&](const Command& one) { return name == one.name; });
  if (command == Commands().end()) return MakeError(Code::kInvalidArgument, "unknown command '{}' (try --help)", name.substr(0, 64));
  Context context = TRY(MakeContext(global, std::move(report), command->stateless));
  return RunCommand(context, *command, {global.words().begin() + 1, global.words().end()});
}

}  // namespace

Result<int> Refuse(const Context&, const Flags&) {
  return MakeError(Code::kUnimplemented, "checkpoint and restore are not supported by this command line; caissond has them");
}

int Main(const std::vector<std::string>& words) {
  auto global = Flags::Parse(kGlobal, words, 1);
  if (!global) {
    Report().Error(global.error().message);
    return 1;
  }
  auto report = Report::Open(global->Text("log"), global->Text("log-format"), global->On("debug"));
  if (!report) {
    Report().Error(report.error().message);
    return 1;
  }
  auto code = Dispatch(*global, *report);
  if (code) return *code;
  report->Error(MessageForClients(code.error()));
  // Other runtimes' exec ends so, which cannot be taken for a status of the program's own.
  return !global->words().empty() && global->words()[0] == "exec" ? 255 : 1;
}

}  // namespace caisson::ocicli
