// SPDX-License-Identifier: Apache-2.0
#include "oci/plan.h"

#include <gmock/gmock.h>
#include <sched.h>

namespace caisson::oci {
namespace {

using ::testing::HasSubstr;

Spec PodContainer() {
  Spec spec;
  spec.process.args = {"/bin/sh"};
  spec.process.cwd = "/srv";
  spec.root_readonly = true;
  spec.hostname = "pod";
  spec.namespaces = {{CLONE_NEWNS, ""},
                     {CLONE_NEWPID, ""},
                     {CLONE_NEWCGROUP, ""},
                     {CLONE_NEWNET, "/proc/7/ns/net"},
                     {CLONE_NEWIPC, "/proc/7/ns/ipc"},
                     {CLONE_NEWUTS, "/proc/7/ns/uts"}};
  spec.mounts = {{"/proc", "proc", "proc", {"nosuid", "noexec", "nodev"}},
                 {"/dev", "tmpfs", "tmpfs", {"nosuid", "strictatime", "mode=755", "size=65536k"}},
                 {"/dev/shm", "caisson-shm", "shm", {"nosuid", "noexec", "nodev"}},
                 {"/sys/fs/cgroup", "cgroup", "cgroup", {"ro"}},
                 {"/data", "bind", "/var/data", {"rbind", "rslave", "rro"}},
                 {"/etc/hosts", "bind", "hosts", {"bind", "ro", "rw"}}};
  spec.devices = {{"/dev/null", 'c', 1, 3, 0600, 1, 1}, {"/dev/fuse", 'c', 10, 229, 0666, 0, 0}};
  spec.sysctl = {{"net.ipv4.ip_forward", "1"}, {"kernel.shmmni", "5"}};
  spec.masked_paths = {"/proc/kcore"};
  spec.readonly_paths = {"/proc/sys"};
  return spec;
}

TEST(Plan, GoldenPodContainer) {
  auto plan =
      MakePlan(PodContainer(), "/bundle", {{"overlay", "overlay", {"lowerdir=/l2:/l1", "upperdir=/u", "workdir=/w"}}});
  ASSERT_TRUE(plan) << plan.error().message;
  EXPECT_EQ(Describe(*plan),
            "new mount namespace\n"
            "new pid namespace\n"
            "new cgroup namespace\n"
            "join network namespace '/proc/7/ns/net'\n"
            "join ipc namespace '/proc/7/ns/ipc'\n"
            "join uts namespace '/proc/7/ns/uts'\n"
            "hostname 'pod'\n"
            "propagation rslave\n"
            "root: mount 'overlay' on '/bundle/rootfs' type overlay data lowerdir=/l2:/l1,upperdir=/u,workdir=/w\n"
            "mount proc 'proc' on '/proc' set nosuid,nodev,noexec\n"
            "mount 'tmpfs' on '/dev' type tmpfs set nosuid,strictatime data mode=755,size=65536k\n"
            "share shm 'shm' on '/dev/shm' set nosuid,nodev,noexec\n"
            "mount cgroups 'cgroup' on '/sys/fs/cgroup' set ro\n"
            "bind '/var/data' on '/data' recursive set-all ro propagation rslave\n"
            "bind '/bundle/hosts' on '/etc/hosts' clear ro\n"
            "device '/dev/zero' c 1:5 666 0:0\n"
            "device '/dev/full' c 1:7 666 0:0\n"
            "device '/dev/random' c 1:8 666 0:0\n"
            "device '/dev/urandom' c 1:9 666 0:0\n"
            "device '/dev/tty' c 5:0 666 0:0\n"
            "device '/dev/null' c 1:3 600 1:1\n"
            "device '/dev/fuse' c 10:229 666 0:0\n"
            "link '/dev/fd' to '/proc/self/fd'\n"
            "link '/dev/stdin' to '/proc/self/fd/0'\n"
            "link '/dev/stdout' to '/proc/self/fd/1'\n"
            "link '/dev/stderr' to '/proc/self/fd/2'\n"
            "link '/dev/ptmx' to 'pts/ptmx'\n"
            "link '/dev/core' to '/proc/kcore'\n"
            "write '5' to '/proc/sys/kernel/shmmni'\n"
            "write '1' to '/proc/sys/net/ipv4/ip_forward'\n"
            "working directory '/srv'\n"
            "read-only '/proc/sys'\n"
            "mask '/proc/kcore'\n"
            "read-only root\n"
            "pivot\n");
}

TEST(Plan, HostNamespacesAndSharedRoot) {
  Spec spec;
  spec.process.args = {"x"};
  spec.root_path = "/abs";
  spec.hostname = "box";
  spec.namespaces = {{CLONE_NEWNS, ""}, {CLONE_NEWUTS, ""}};
  spec.rootfs_propagation = "rshared";
  auto plan = MakePlan(spec, "/bundle", {});
  ASSERT_TRUE(plan) << plan.error().message;
  EXPECT_EQ(Describe(*plan),
            "new mount namespace\nnew uts namespace\nhostname 'box'\npropagation rshared\nroot: bind '/abs' on "
            "itself\nworking directory '/'\npivot\n"
            "propagation of the root rshared\n");
}

std::string ErrorOf(void (*change)(Spec*)) {
  Spec spec = PodContainer();
  change(&spec);
  auto plan = MakePlan(spec, "/bundle", {});
  return plan ? "" : plan.error().message;
}

TEST(Plan, RefusesWhatCannotBe) {
  EXPECT_THAT(ErrorOf([](Spec* s) { s->process.args.clear(); }), HasSubstr("process.args"));
  EXPECT_THAT(ErrorOf([](Spec* s) { s->namespaces.erase(s->namespaces.begin()); }), HasSubstr("no mount namespace"));
  EXPECT_THAT(ErrorOf([](Spec* s) { s->namespaces[0].path = "/x"; }), HasSubstr("joining a mount namespace"));
  EXPECT_THAT(ErrorOf([](Spec* s) { s->namespaces[3].path = "x"; }), HasSubstr("not absolute"));
  EXPECT_THAT(ErrorOf([](Spec* s) { s->namespaces.push_back({CLONE_NEWUSER, ""}); }), HasSubstr("uidMappings"));
  EXPECT_THAT(ErrorOf([](Spec* s) {
                s->namespaces.push_back({CLONE_NEWUSER, ""});
                s->id_maps.uids = s->id_maps.gids = {{0, 0xffffffff, 2}};
              }),
              HasSubstr("range"));
  EXPECT_THAT(ErrorOf([](Spec* s) { s->id_maps.uids = {{0, 1, 1}}; }), HasSubstr("no user namespace"));
  EXPECT_THAT(ErrorOf([](Spec* s) { s->devices[0].path = "/dev/../etc/x"; }), HasSubstr("device path"));
  EXPECT_THAT(ErrorOf([](Spec* s) { s->devices[0].path = "/dev/.."; }), HasSubstr("device path"));
  EXPECT_THAT(ErrorOf([](Spec* s) { s->masked_paths = {"x"}; }), HasSubstr("maskedPaths"));
  EXPECT_THAT(ErrorOf([](Spec* s) { s->rootfs_propagation = "everywhere"; }), HasSubstr("everywhere"));
  EXPECT_THAT(ErrorOf([](Spec* s) { s->mounts.push_back({"/x", "bind", "", {}}); }), HasSubstr("no source"));
  EXPECT_THAT(ErrorOf([](Spec* s) { s->mounts.push_back({"/x", "tmpfs", "tmpfs", {}, {{{0, 9, 1}}, {{0, 9, 1}}}}); }),
              HasSubstr("can be id-mapped"));
  // Its layers, mapped in their place, would be seen on the host.
  EXPECT_THAT(ErrorOf([](Spec* s) {
                s->rootfs_propagation = "rshared";
                s->mounts.push_back({"/x", "caisson-image", "i", {"lowerdir=/l"}, {{{0, 9, 1}}, {{0, 9, 1}}}});
              }),
              HasSubstr("cannot be shared"));
}

// CVE-2022-0811 and adversarial values.
TEST(Plan, Sysctls) {
  Spec spec = PodContainer();
  for (const char* good : {"net.core.somaxconn", "net/ipv4/conf/eth0.1/forwarding", "kernel.shm_rmid_forced",
                           "kernel.sem", "fs.mqueue.msg_max"}) {
    EXPECT_TRUE(PlanSysctl(spec, good, "32000 1024000000\t500 32000")) << good;
  }
  EXPECT_EQ(PlanSysctl(spec, "net/ipv4/conf/eth0.1/forwarding", "1")->path,
            "/proc/sys/net/ipv4/conf/eth0.1/forwarding");
  for (const char* bad :
       {"kernel.core_pattern", "vm.swappiness", "kernel.hostname", "kernel.domainname",
        "kernel.shmmax+kernel.core_pattern", "kernel.shmmax=1", "net", "", "net..x", "net/../kernel/core_pattern",
        "net.ipv4 x", "fs.mqueue", "kernel.semx", "/net/x", "net/./x"}) {
    EXPECT_FALSE(PlanSysctl(spec, bad, "1")) << bad;
  }
  EXPECT_FALSE(PlanSysctl(spec, "net.x", "1\n2"));
  EXPECT_FALSE(PlanSysctl(spec, "net.x", std::string("1\0", 2)));
  EXPECT_FALSE(PlanSysctl(spec, "net.x", std::string(2000, '1')));
  spec.namespaces.erase(spec.namespaces.begin() + 3);  // the host's network
  auto shared = PlanSysctl(spec, "net.core.somaxconn", "1");
  ASSERT_FALSE(shared);
  EXPECT_THAT(shared.error().message, HasSubstr("shares"));
}

// A policy that denies all still leaves the devices that every container has.
TEST(Plan, DefaultDevicesAreAllowed) {
  Spec spec = PodContainer();
  EXPECT_TRUE(MakePlan(spec, "/b", {})->resources.devices.empty());
  spec.resources.devices = {{false, 'a', std::nullopt, std::nullopt, "rwm"}};
  auto plan = MakePlan(spec, "/b", {});
  ASSERT_TRUE(plan);
  EXPECT_FALSE(plan->resources.devices[0].allow);
  auto null = std::find_if(plan->resources.devices.begin(), plan->resources.devices.end(),
                           [](const auto& rule) { return rule.allow && rule.major == 1 && rule.minor == 3; });
  EXPECT_NE(null, plan->resources.devices.end());
}

}  // namespace
}  // namespace caisson::oci
