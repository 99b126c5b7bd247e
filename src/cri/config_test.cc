// SPDX-License-Identifier: Apache-2.0
#include "cri/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

namespace caisson::cri {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

std::string ErrorOf(std::string_view text) {
  auto parsed = ParseConfig(text, "f.toml");
  if (!parsed) return parsed.error().message;
  auto valid = ValidateConfig(*parsed);
  return valid ? "" : valid.error().message;
}

TEST(Config, DefaultsAreValid) { EXPECT_EQ(ErrorOf(""), ""); }

TEST(Config, EveryKindOfValueIsRead) {
  auto config = ParseConfig(R"(
root = "/r"
cgroup_driver = "systemd"
max_threads = 99
[cni]
bin_dirs = ["/a", "/b"]
add_timeout_seconds = 5
[containers]
unprivileged_ports = false
nofile_limit = 4096
[handlers.other]
shim_path = "/x"
)", "f.toml");
  ASSERT_TRUE(config) << config.error().message;
  EXPECT_EQ(config->root, "/r");
  EXPECT_EQ(config->cgroup_driver, CgroupDriver::kSystemd);
  EXPECT_EQ(config->max_threads, 99);
  EXPECT_THAT(config->cni.bin_dirs, testing::ElementsAre("/a", "/b"));
  EXPECT_EQ(config->cni.add_timeout_seconds, 5);
  EXPECT_FALSE(config->containers.unprivileged_ports);
  EXPECT_EQ(config->containers.nofile_limit, 4096u);
  EXPECT_EQ(config->handlers.at("other").shim_path, "/x");
  EXPECT_TRUE(config->handlers.contains("caisson"));
}

TEST(Config, HandlersOfVms) {
  EXPECT_TRUE(Config().handlers.at("caisson-vm").IsVm());
  EXPECT_FALSE(Config().handlers.at("caisson").IsVm());
  auto config = ParseConfig(R"(
untrusted_handler = "vm2"
[handlers.caisson-vm]
vcpus = 2
[handlers.vm2]
sandbox = "vm"
kernel = "/k"
initrd = "/i"
accelerator = "tcg"
memory_bytes = 1073741824
templates = false
debug = true
[handlers.native2]
sandbox = "native"
)", "f.toml");
  ASSERT_TRUE(config) << config.error().message;
  ASSERT_TRUE(ValidateConfig(*config));
  EXPECT_TRUE(config->handlers.at("caisson-vm").IsVm());
  EXPECT_EQ(config->handlers.at("caisson-vm").vcpus, 2);
  EXPECT_EQ(config->handlers.at("vm2").kernel, "/k");
  EXPECT_FALSE(config->handlers.at("vm2").templates);
  EXPECT_TRUE(config->handlers.at("vm2").debug);
  EXPECT_FALSE(config->handlers.at("caisson-vm").debug);
  EXPECT_TRUE(config->handlers.at("caisson-vm").templates);
  auto again = ParseConfig(FormatConfig(*config), "printed");
  ASSERT_TRUE(again) << again.error().message;
  EXPECT_THAT(ChangedKeys(*config, *again), IsEmpty());
  EXPECT_THAT(ErrorOf("[handlers.x]\nvcpus = 2"), HasSubstr("f.toml:2: 'handlers.x.vcpus' is for a handler with sandbox = \"vm\""));
  EXPECT_THAT(ErrorOf("[handlers.caisson-vm]\nvcpus = \"2\""), HasSubstr("'handlers.caisson-vm.vcpus' must be a number"));
  EXPECT_THAT(ErrorOf("[handlers.caisson-vm]\nvcpus = 0"), HasSubstr("between 1 and 255"));
  EXPECT_THAT(ErrorOf("[handlers.caisson-vm]\nmemory_bytes = 1000"), HasSubstr("handlers.caisson-vm.memory_bytes"));
  EXPECT_THAT(ErrorOf("[handlers.caisson-vm]\nvmm = \"xen\""), HasSubstr("must be one of qemu, not 'xen'"));
  EXPECT_THAT(ErrorOf("[handlers.caisson-vm]\naccelerator = \"hvf\""), HasSubstr("auto, kvm, tcg"));
  EXPECT_THAT(ErrorOf("[handlers.caisson-vm]\nkernel = \"\""), HasSubstr("absolute"));
  EXPECT_THAT(ErrorOf("[handlers.caisson-vm]\nfirst_vmm_id = 0"), HasSubstr("first_vmm_id"));
  EXPECT_THAT(ErrorOf("[handlers.x]\nsandbox = \"container\""), HasSubstr("native, vm"));
  EXPECT_THAT(ErrorOf("untrusted_handler = \"nope\""), HasSubstr("'untrusted_handler' is 'nope'"));
}

TEST(Config, HandlersOfForeignRuntimes) {
  auto config = ParseConfig(R"(
[handlers.runc]
runtime = "/usr/sbin/runc"
[handlers.gvisor]
runtime = "/usr/bin/runsc"
runtime_args = ["--platform=ptrace"]
[handlers.runc-shim]
runtime_type = "io.containerd.runc.v2"
runtime_path = "/opt/shim"
runtime_options = {BinaryName = "/usr/sbin/runc", SystemdCgroup = true, IoUid = 7}
)", "f.toml");
  ASSERT_TRUE(config) << config.error().message;
  ASSERT_TRUE(ValidateConfig(*config));
  const HandlerConfig& shim = config->handlers.at("runc-shim");
  EXPECT_TRUE(shim.IsForeign());
  EXPECT_TRUE(config->handlers.at("runc").IsForeign());
  EXPECT_FALSE(config->handlers.at("caisson").IsForeign());
  EXPECT_THAT(config->handlers.at("gvisor").runtime_args, ElementsAre("--platform=ptrace"));
  EXPECT_EQ(shim.runtime_options.at("SystemdCgroup"), "true");
  EXPECT_EQ(shim.runtime_options.at("IoUid"), "7");
  auto again = ParseConfig(FormatConfig(*config), "printed");
  ASSERT_TRUE(again) << again.error().message;
  EXPECT_THAT(ChangedKeys(*config, *again), IsEmpty());
  EXPECT_EQ(ShimNameOf("io.containerd.kata-qemu.v2"), "containerd-shim-kata-qemu-v2");
  EXPECT_THAT(ErrorOf("[handlers.x]\nruntime_args = []"), HasSubstr("f.toml:2: 'handlers.x.runtime_args' is for a handler with a 'runtime'"));
  EXPECT_THAT(ErrorOf("[handlers.x]\nruntime = \"/r\"\nruntime_path = \"/s\""), HasSubstr("is for a handler with a 'runtime_type'"));
  EXPECT_THAT(ErrorOf("[handlers.x]\nruntime = \"/r\"\nruntime_type = \"a.b.c\""), HasSubstr("exclude each other"));
  EXPECT_THAT(ErrorOf("[handlers.x]\nsandbox = \"vm\"\nruntime = \"/r\""), HasSubstr("'handlers.x.runtime' is no handler with sandbox"));
  EXPECT_THAT(ErrorOf("[handlers.x]\nruntime = \"runc\""), HasSubstr("absolute"));
  EXPECT_THAT(ErrorOf("[handlers.x]\nruntime_type = \"runc.v2\""), HasSubstr("io.containerd.runc.v2"));
  EXPECT_THAT(ErrorOf("[handlers.x]\nruntime_type = \"io./../x.v2\""), HasSubstr("io.containerd.runc.v2"));
  EXPECT_THAT(ErrorOf("[handlers.x]\nruntime_type = \"a.b.c\"\nruntime_options = {A = [1]}"), HasSubstr("a table of strings"));
}

TEST(Config, UnknownKeysAreNamedWithTheirLine) {
  EXPECT_EQ(ErrorOf("\nrooot = \"/x\""), "f.toml:2: unknown key 'rooot'");
  EXPECT_EQ(ErrorOf("[cni]\nconf = 1"), "f.toml:2: unknown key 'cni.conf'");
  EXPECT_THAT(ErrorOf("[nothing]\na = 1"), HasSubstr("unknown key 'nothing'"));
  EXPECT_THAT(ErrorOf("[handlers.x]\npath = \"/a\""), HasSubstr("unknown key 'handlers.x.path'"));
  // A key of a table is not one of the whole file.
  EXPECT_THAT(ErrorOf("conf_dir = \"/x\""), HasSubstr("unknown key 'conf_dir'"));
}

TEST(Config, WrongTypesAndValuesAreNamed) {
  EXPECT_THAT(ErrorOf("root = 5"), HasSubstr("'root' must be a string"));
  EXPECT_THAT(ErrorOf("max_threads = \"x\""), HasSubstr("'max_threads' must be a number"));
  EXPECT_THAT(ErrorOf("max_threads = 99999999999"), HasSubstr("'max_threads' must be a number"));
  EXPECT_THAT(ErrorOf("cni = 5"), HasSubstr("'cni' must be a table"));
  EXPECT_THAT(ErrorOf("cgroup_driver = \"x\""), HasSubstr("cgroup_driver"));
  EXPECT_THAT(ErrorOf("[containers]\nnofile_limit = -1"), HasSubstr("not negative"));
  EXPECT_THAT(ErrorOf("[cni]\nbin_dirs = [1]"), HasSubstr("array of strings"));
  EXPECT_THAT(ErrorOf("root = \"relative\""), HasSubstr("absolute"));
  EXPECT_THAT(ErrorOf("log_level = \"loud\""), HasSubstr("log_level"));
  EXPECT_THAT(ErrorOf("max_threads = 0"), HasSubstr("between"));
  EXPECT_THAT(ErrorOf("default_handler = \"vm\""), HasSubstr("'vm'"));
  EXPECT_THAT(ErrorOf("[handlers.\"a/b\"]"), HasSubstr("a/b"));
}

TEST(Config, BrokenTomlIsAnErrorWithItsLine) { EXPECT_THAT(ErrorOf("root = \n"), HasSubstr("f.toml:1:")); }

TEST(Config, AFileThatIsTooLongIsRefused) {
  EXPECT_THAT(ErrorOf(std::string(2 << 20, '#')), HasSubstr("longer than"));
}

TEST(Config, AnAbsentFileIsTheDefaultsUnlessAskedFor) {
  EXPECT_TRUE(LoadConfig("/nonexistent/config.toml", false));
  EXPECT_FALSE(LoadConfig("/nonexistent/config.toml", true));
}

TEST(Config, WhatIsPrintedIsReadBack) {
  Config config;
  config.root = "/r \"quoted\"";
  config.containers.nofile_limit = 7;
  config.handlers["x"].shim_path = "/shim";
  std::string text = FormatConfig(config);
  auto parsed = ParseConfig(text, "printed");
  ASSERT_TRUE(parsed) << parsed.error().message << "\n" << text;
  EXPECT_EQ(FormatConfig(*parsed), text);
  EXPECT_EQ(parsed->root, config.root);
  EXPECT_EQ(parsed->handlers.at("x").shim_path, "/shim");
}

TEST(Config, ChangedKeysAreNamedAsInTheFile) {
  auto parse = [](const char* text) { return *ParseConfig(text, "test"); };
  EXPECT_THAT(ChangedKeys(Config(), parse("")), IsEmpty());
  auto before = parse("log_level = \"warn\"\n[cni]\nmax_conf_files = 2\n[images]\npinned = [\"a\"]\n");
  auto after = parse("log_level = \"debug\"\n[cni]\nmax_conf_files = 3\n[images]\npinned = [\"a\", \"b\"]\n");
  EXPECT_THAT(ChangedKeys(before, after), ElementsAre("log_level", "cni.max_conf_files", "images.pinned"));
  before = parse("[handlers.caisson]\n[handlers.one]\nshim_path = \"/a\"\n[handlers.gone]\n");
  after = parse("[handlers.caisson]\n[handlers.one]\nshim_path = \"/b\"\n[handlers.fresh]\n");
  EXPECT_THAT(ChangedKeys(before, after), ElementsAre("handlers.fresh", "handlers.one", "handlers.gone"));
}

std::string ReadSource(const std::string& name) {
  std::ifstream file(std::string(CAISSON_SOURCE_DIR) + "/" + name);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

// The shipped file shows the defaults, and the page for users names every key.
TEST(Config, TheShippedFileIsTheDefaults) {
  std::string text = ReadSource("share/config.toml");
  auto parsed = ParseConfig(text, "share/config.toml");
  ASSERT_TRUE(parsed) << parsed.error().message;
  EXPECT_EQ(FormatConfig(*parsed), FormatConfig(Config()));
  std::string page = ReadSource("docs/config.md"), table;
  std::istringstream lines(FormatConfig(Config()));
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("[")) table = line.substr(1, line.find(']') - 1) + ".";
    size_t equals = line.find(" = ");
    if (equals == std::string::npos || line.starts_with("[") || table.starts_with("handlers")) continue;
    std::string key = line.substr(0, equals);
    key.erase(0, key.find_first_not_of(' '));
    EXPECT_THAT(page, HasSubstr("`" + table + key + "`"));
    EXPECT_THAT(text, HasSubstr(key + " = "));
  }
}

}  // namespace
}  // namespace caisson::cri
