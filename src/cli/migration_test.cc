// SPDX-License-Identifier: Apache-2.0
#include "cli/migration.h"

#include <gmock/gmock.h>

namespace caisson::cli {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::StartsWith;
using ::testing::UnorderedElementsAre;

std::vector<Setting> Parsed(std::string_view text) {
  auto settings = ParseSettings(text, "test.toml");
  EXPECT_TRUE(settings) << settings.error().message;
  return settings ? *settings : std::vector<Setting>();
}

Migration FromContainerd(std::string_view text) { return MigrateContainerd(Parsed(text), "/etc/certs.d"); }

Migration FromCrio(std::string_view text, std::string_view registries = "") {
  Registries parsed;
  std::vector<std::string> notes;
  EXPECT_TRUE(AddContainersRegistries(registries, "registries.conf", &parsed, &notes));
  Migration migration = MigrateCrio(Parsed(text), std::move(parsed), "/etc/certs.d");
  migration.notes.insert(migration.notes.end(), notes.begin(), notes.end());
  return migration;
}

TEST(Settings, NamesAreAsTheyAreWritten) {
  auto settings = Parsed("a = 1\n[b.\"c.d\"]\ne = [\"x\", \"y\"]\nf = [1, 2]\n");
  ASSERT_EQ(settings.size(), 3u);
  EXPECT_EQ(settings[1].Name(), "b.\"c.d\".e");
  EXPECT_THAT(std::get<std::vector<std::string>>(settings[1].value), ElementsAre("x", "y"));
  EXPECT_THAT(std::get<std::string>(settings[2].value), HasSubstr("1, 2"));
}

TEST(Settings, ErrorsNameFileAndLine) {
  auto settings = ParseSettings("a = 1\nb =\n", "test.toml");
  ASSERT_FALSE(settings);
  EXPECT_THAT(settings.error().message, StartsWith("test.toml:2: "));
}

TEST(MigrateContainerd, TheSameInItsThreeVersions) {
  constexpr const char* kRest = R"(
[plugins."{0}".containerd]
default_runtime_name = "runc"
[plugins."{0}".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."{0}".containerd.runtimes.runc.options]
SystemdCgroup = true
[plugins."{0}".containerd.runtimes.kata]
runtime_type = "io.containerd.kata.v2"
[plugins."{0}".cni]
conf_dir = "/etc/cni/other.d"
)";
  std::string first;
  for (const char* plugin : {"cri", "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime"}) {
    Migration migration = FromContainerd(fmt::format(fmt::runtime(kRest), plugin));
    EXPECT_THAT(migration.notes, IsEmpty()) << plugin;
    if (first.empty()) first = migration.toml;
    EXPECT_EQ(migration.toml, first);
  }
  EXPECT_EQ(first,
            "# caissond's configuration, by `caisson migrate --from containerd`.\n"
            "cgroup_driver = \"systemd\"\n"
            "default_handler = \"runc\"\n"
            "\n[cni]\nconf_dir = \"/etc/cni/other.d\"\n"
            "\n[handlers.kata]\nsandbox = \"vm\"\n"
            "\n[handlers.runc]\nsandbox = \"native\"\n");
}

TEST(MigrateContainerd, WhatHasNoCounterpartIsSaid) {
  Migration migration = FromContainerd(R"(
root = "/data/containerd"
[plugins."io.containerd.gc.v1.scheduler"]
pause_threshold = 0.02
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "registry.example/pause:3"
stream_server_port = "99999"
enable_selinux = true
disable_apparmor = false
[plugins."io.containerd.grpc.v1.cri".containerd]
default_runtime_name = "runsc"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runsc]
runtime_type = "io.containerd.runsc.v1"
pod_annotations = ["dev.example"]
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.old]
runtime_type = "io.containerd.runtime.v1.linux"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.old.options]
BinaryName = "/opt/other/runtime"
)");
  EXPECT_THAT(migration.toml, HasSubstr("[handlers.runsc]\nruntime_type = \"io.containerd.runsc.v1\"\n"));
  EXPECT_THAT(migration.toml, Not(HasSubstr("handlers.old")));
  for (const char* words : {"plugins.\"io.containerd.grpc.v1.cri\".sandbox_image: there is no pause container", "root: ", "enable_selinux",
                            "stream_server_port: its value cannot be streaming.port's",
                            "plugin 'io.containerd.gc.v1.scheduler'", "runtime 'old' (io.containerd.runtime.v1.linux)", "pod_annotations"}) {
    EXPECT_THAT(migration.notes, Contains(HasSubstr(words)));
  }
  EXPECT_THAT(migration.notes, Not(Contains(HasSubstr("disable_apparmor"))));  // says what is so anyway
}

TEST(MigrateContainerd, OtherRuntimesAreHandlersThatRunThem) {
  Migration migration = FromContainerd(R"(
[plugins.cri.containerd.runtimes.gvisor]
runtime_type = "io.containerd.runsc.v1"
runtime_path = "/opt/gvisor/containerd-shim-runsc-v1"
[plugins.cri.containerd.runtimes.gvisor.options]
TypeUrl = "io.containerd.runsc.v1.options"
ConfigPath = "/etc/containerd/runsc.toml"
[plugins.cri.containerd.runtimes.own]
runtime_type = "io.containerd.runc.v2"
[plugins.cri.containerd.runtimes.own.options]
BinaryName = "/opt/own/runtime"
)");
  EXPECT_THAT(migration.notes, IsEmpty());
  EXPECT_THAT(migration.toml, HasSubstr("[handlers.gvisor]\nruntime_options = { ConfigPath = \"/etc/containerd/runsc.toml\", TypeUrl = \"io.containerd.runsc.v1.options\" }\n"
                                        "runtime_path = \"/opt/gvisor/containerd-shim-runsc-v1\"\nruntime_type = \"io.containerd.runsc.v1\"\n"));
  EXPECT_THAT(migration.toml, HasSubstr("[handlers.own]\nruntime_options = { BinaryName = \"/opt/own/runtime\" }\nruntime_type = \"io.containerd.runc.v2\"\n"));
}

TEST(MigrateContainerd, Values) {
  Migration migration = FromContainerd(R"(
[debug]
level = "trace"
[plugins.cri]
systemd_cgroup = true
stream_idle_timeout = "4h0m30s"
image_pull_progress_timeout = "250ms"
unset_seccomp_profile = "runtime/default"
stats_collect_period = 10
[plugins.cri.cni]
bin_dir = "/opt/a\"b"
[plugins.cri.registry]
config_path = "/etc/containerd/certs.d:/etc/docker/certs.d"
)");
  for (const char* line : {"log_level = \"debug\"\n", "cgroup_driver = \"systemd\"\n", "idle_timeout_seconds = 14430\n", "seccomp_default = \"RuntimeDefault\"\n",
                           "sample_seconds = 10\n", "bin_dirs = [\"/opt/a\\\"b\"]\n", "certs_dir = \"/etc/containerd/certs.d\"\n"}) {
    EXPECT_THAT(migration.toml, HasSubstr(line));
  }
  EXPECT_THAT(migration.notes, ElementsAre(HasSubstr("image_pull_progress_timeout")));  // less than a second
}

TEST(MigrateCrio, RuntimesAndTheRest) {
  Migration migration = FromCrio(R"(
[crio]
storage_driver = "btrfs"
[crio.runtime]
default_runtime = "crun"
cgroup_manager = "cgroupfs"
log_level = "fatal"
pids_limit = -1
[crio.runtime.runtimes.crun]
runtime_path = ""
runtime_type = "oci"
monitor_path = "/usr/bin/conmon"
[crio.runtime.runtimes.kata-qemu]
runtime_path = "/usr/bin/containerd-shim-kata-v2"
runtime_type = "vm"
privileged_without_host_devices = true
[crio.runtime.runtimes.sandboxed]
runtime_path = "/usr/bin/runsc"
[crio.runtime.runtimes.shim]
runtime_path = "/usr/bin/containerd-shim-other-v2"
runtime_type = "vm"
[crio.network]
plugin_dirs = ["/usr/lib/cni"]
[crio.image]
pinned_images = ["registry.example/a"]
)");
  for (const char* line : {"default_handler = \"crun\"\n", "cgroup_driver = \"cgroupfs\"\n", "log_level = \"error\"\n", "[handlers.crun]\nsandbox = \"native\"\n",
                           "[handlers.kata-qemu]\nsandbox = \"vm\"\n", "[handlers.sandboxed]\nruntime = \"/usr/bin/runsc\"\n",
                           "[handlers.shim]\nruntime_path = \"/usr/bin/containerd-shim-other-v2\"\nruntime_type = \"io.containerd.other.v2\"\n", "bin_dirs = [\"/usr/lib/cni\"]\n", "pinned = [\"registry.example/a\"]\n"}) {
    EXPECT_THAT(migration.toml, HasSubstr(line));
  }
  for (const char* words : {"crio.storage_driver: layers are", "pids_limit: its value", "privileged_without_host_devices"}) {
    EXPECT_THAT(migration.notes, Contains(HasSubstr(words)));
  }
}

TEST(MigrateContainerd, MirrorsAndTheirTlsAreHostsToml) {
  Migration migration = FromContainerd(R"(
[plugins.cri.registry.mirrors."docker.io"]
endpoint = ["https://mirror.example/v2/hub", "https://other.example:5000", "https://registry-1.docker.io"]
[plugins.cri.registry.mirrors."*"]
endpoint = ["http://10.0.0.1:5000"]
[plugins.cri.registry.configs."other.example:5000".tls]
ca_file = "/etc/ca.pem"
cert_file = "/etc/client.pem"
key_file = "/etc/client.key"
[plugins.cri.registry.configs."inner.example".tls]
insecure_skip_verify = true
[plugins.cri.registry.configs."inner.example".auth]
username = "me"
password = "hidden"
[plugins.cri.registry.mirrors."../../up"]
endpoint = ["https://up.example"]
)");
  EXPECT_THAT(migration.toml, HasSubstr("[images]\ncerts_dir = \"/etc/certs.d\"\n"));
  ASSERT_EQ(migration.registries.size(), 4u);
  EXPECT_EQ(HostsToml(migration.registries["docker.io"]),
            "# By `caisson migrate`.\n"
            "\n[host.\"https://mirror.example/v2/hub\"]\n  override_path = true\n"
            "\n[host.\"https://other.example:5000\"]\n  ca = [\"/etc/ca.pem\"]\n  client = [[\"/etc/client.pem\", \"/etc/client.key\"]]\n"
            "\n[host.\"https://registry-1.docker.io\"]\n");
  EXPECT_EQ(HostsToml(migration.registries["_default"]), "# By `caisson migrate`.\n\n[host.\"http://10.0.0.1:5000\"]\n");
  EXPECT_EQ(HostsToml(migration.registries["inner.example"]), "# By `caisson migrate`.\nskip_verify = true\n");
  EXPECT_THAT(migration.registries["other.example:5000"].tls.ca, ElementsAre("/etc/ca.pem"));
  EXPECT_THAT(migration.notes, UnorderedElementsAre(HasSubstr("../../up"), "credentials for 'inner.example': put them into images.docker_config, as `docker login` writes it"));
}

TEST(MigrateCrio, RegistriesConfIsHostsToml) {
  Migration migration = FromCrio("[crio.image]\ninsecure_registries = [\"lab.example\", \"10.0.0.0/8\"]\n", R"(
unqualified-search-registries = ["docker.io", "quay.io"]
[aliases]
"a" = "b.example/a"
[[registry]]
location = "docker.io"
[[registry.mirror]]
location = "mirror.example/hub"
pull-from-mirror = "digest-only"
[[registry.mirror]]
location = "10.0.0.1:5000"
insecure = true
[[registry]]
prefix = "old.example"
location = "new.example/was/old"
[[registry]]
prefix = "bad.example"
blocked = true
[[registry]]
prefix = "*.wild.example"
[[registry]]
prefix = "part.example/team"
location = "elsewhere.example"
)");
  ASSERT_EQ(migration.registries.size(), 4u);
  EXPECT_EQ(HostsToml(migration.registries["docker.io"]),
            "# By `caisson migrate`.\n"
            "\n[host.\"https://mirror.example/v2/hub\"]\n  override_path = true\n  capabilities = [\"pull\"]\n"
            "\n[host.\"https://10.0.0.1:5000\"]\n  skip_verify = true\n"
            "\n[host.\"http://10.0.0.1:5000\"]\n");
  EXPECT_EQ(HostsToml(migration.registries["old.example"]), "# By `caisson migrate`.\nserver = \"https://new.example/v2/was/old\"\noverride_path = true\n");
  EXPECT_EQ(HostsToml(migration.registries["bad.example"]), "# By `caisson migrate`.\ncapabilities = []  # blocked\n");
  EXPECT_THAT(HostsToml(migration.registries["lab.example"]), HasSubstr("[host.\"http://lab.example\"]"));
  for (const char* words : {"10.0.0.0/8", "unqualified-search-registries", "aliases", "'*.wild.example'", "'part.example/team'"}) {
    EXPECT_THAT(migration.notes, Contains(HasSubstr(words)));
  }
  EXPECT_EQ(migration.notes.size(), 5u);
}

TEST(MigrateCrio, RegistriesConfErrorsNameFileAndLine) {
  Registries registries;
  std::vector<std::string> notes;
  auto done = AddContainersRegistries("a = 1\nb =\n", "registries.conf", &registries, &notes);
  ASSERT_FALSE(done);
  EXPECT_THAT(done.error().message, StartsWith("registries.conf:2: "));
}

}  // namespace
}  // namespace caisson::cli
