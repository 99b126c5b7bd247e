// SPDX-License-Identifier: Apache-2.0
#include "cri/cdi.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>

#include <nlohmann/json.hpp>

#include "base/limits.h"
#include "cri/yaml.h"

namespace caisson::cri {
namespace {

using nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;

std::string Wrong(const std::string& text, CdiFormat format = CdiFormat::kJson) {
  auto spec = ParseCdiSpec(text, format);
  return spec ? "" : spec.error().message;
}

// A specification of one device with these members in its containerEdits.
std::string With(const std::string& edits, const std::string& version = "1.1.0") {
  return fmt::format(R"({{"cdiVersion":"{}","kind":"v.example/c","devices":[{{"name":"d","containerEdits":{{{}}}}}]}})", version, edits);
}

TEST(CdiSpec, EveryMemberIsRead) {
  auto spec = ParseCdiSpec(R"({"cdiVersion":"v1.0.0","kind":"vendor.com/net.x","annotations":{"a":"b"},
    "devices":[{"name":"0:1","annotations":{},"containerEdits":{
      "env":["A=1"],
      "deviceNodes":[{"path":"/dev/x","hostPath":"/dev/null","type":"c","major":1,"minor":3,"fileMode":420,"permissions":"rw","uid":5,"gid":6},
                     {"path":"/dev/y","permissions":"none"}],
      "mounts":[{"hostPath":"/lib","containerPath":"/l","type":"none","options":["ro","bind"]}],
      "hooks":[{"hookName":"createContainer","path":"/bin/h","args":["h","x"],"env":["B=2"],"timeout":7}],
      "additionalGids":[0,44]}}],
    "containerEdits":{"env":["C=3"]}})", CdiFormat::kJson);
  ASSERT_TRUE(spec) << spec.error().message;
  EXPECT_EQ(spec->kind, "vendor.com/net.x");
  EXPECT_THAT(spec->edits.env, ElementsAre("C=3"));
  const CdiDevice* device = spec->Find("0:1");
  ASSERT_NE(device, nullptr);
  const CdiDeviceNode& node = device->edits.device_nodes[0];
  EXPECT_EQ(node.host_path, "/dev/null");
  EXPECT_EQ(node.major, 1);
  EXPECT_EQ(node.minor, 3);
  EXPECT_EQ(node.file_mode, 0644u);
  EXPECT_EQ(node.permissions, "rw");
  EXPECT_EQ(node.uid, 5u);
  EXPECT_EQ(node.gid, 6u);
  EXPECT_EQ(device->edits.device_nodes[1].host_path, "/dev/y");
  EXPECT_EQ(device->edits.device_nodes[1].permissions, "");
  EXPECT_THAT(device->edits.mounts[0].options, ElementsAre("ro", "bind"));
  EXPECT_EQ(device->edits.hooks[0].timeout_seconds, 7);
  EXPECT_THAT(device->edits.additional_gids, ElementsAre(44u));
}

TEST(CdiSpec, WhatIsWrongIsNamed) {
  EXPECT_EQ(Wrong(With("")), "");
  EXPECT_THAT(Wrong("[]"), HasSubstr("document is not an object"));
  EXPECT_THAT(Wrong(With("", "2.0.0")), HasSubstr("cdiVersion '2.0.0' is not known"));
  EXPECT_THAT(Wrong(R"({"kind":"a/b"})"), HasSubstr("cdiVersion ''"));
  for (const char* kind : {"", "a", "a/", "/b", "a/b/c", "1a/b", "a/-b", "a/b.", "a b/c", "../a"}) {
    EXPECT_THAT(Wrong(fmt::format(R"({{"cdiVersion":"0.6.0","kind":"{}"}})", kind)), HasSubstr("kind '")) << kind;
  }
  EXPECT_THAT(Wrong(R"({"cdiVersion":"0.6.0","kind":"a/b","devices":[]})"), HasSubstr("devices is empty"));
  EXPECT_THAT(Wrong(R"({"cdiVersion":"0.6.0","kind":"a/b","devices":[{"name":"a/b"}]})"), HasSubstr("devices[0].name 'a/b'"));
  EXPECT_THAT(Wrong(R"({"cdiVersion":"0.6.0","kind":"a/b","devices":[{"name":"a"},{"name":"a"}]})"), HasSubstr("there twice"));
  EXPECT_THAT(Wrong(With(R"("enviroment":[])")), HasSubstr("containerEdits has a member 'enviroment'"));
  for (const char* env : {"A", "=1", "A B=1", "A\\u0000=1", "A\\n=1"}) {
    EXPECT_THAT(Wrong(With(fmt::format(R"("env":["{}"])", env))), HasSubstr("env holds")) << env;
  }
  EXPECT_THAT(Wrong(With(R"("env":[1])")), HasSubstr("not a text"));
  EXPECT_THAT(Wrong(With(R"("deviceNodes":[{"path":"dev/x"}])")), HasSubstr("deviceNodes[0].path is not an absolute path"));
  EXPECT_THAT(Wrong(With(R"("deviceNodes":[{"path":"/x","type":"cb"}])")), HasSubstr("type is not"));
  EXPECT_THAT(Wrong(With(R"("deviceNodes":[{"path":"/x","permissions":"rx"}])")), HasSubstr("permissions"));
  EXPECT_THAT(Wrong(With(R"("deviceNodes":[{"path":"/x","major":-1}])")), HasSubstr("major is not a whole number"));
  EXPECT_THAT(Wrong(With(R"("deviceNodes":[{"path":"/x","uid":18446744073709551615}])")), HasSubstr("uid is not a whole number"));
  EXPECT_THAT(Wrong(With(R"("mounts":[{"containerPath":"/x"}])")), HasSubstr("hostPath is missing"));
  EXPECT_THAT(Wrong(With(R"("hooks":[{"hookName":"before","path":"/x"}])")), HasSubstr("hookName 'before'"));
  EXPECT_THAT(Wrong(With(R"("hooks":[{"hookName":"poststop","path":"x"}])")), HasSubstr("path is not an absolute path"));
  EXPECT_THAT(Wrong(With(R"("hooks":[{"hookName":"poststop","path":"/x","timeout":0}])")), HasSubstr("timeout"));
  EXPECT_THAT(Wrong(With(R"("additionalGids":[-1])")), HasSubstr("group id"));
}

TEST(CdiSpec, MembersNeedTheirVersion) {
  EXPECT_THAT(Wrong(With(R"("mounts":[{"hostPath":"/a","containerPath":"/b","type":"bind"}])", "0.3.0")), HasSubstr("came with 0.4.0"));
  EXPECT_THAT(Wrong(With(R"("deviceNodes":[{"path":"/a","hostPath":"/b"}])", "0.4.0")), HasSubstr("came with 0.5.0"));
  EXPECT_THAT(Wrong(With(R"("additionalGids":[1])", "0.6.0")), HasSubstr("came with 0.7.0"));
  EXPECT_THAT(Wrong(With(R"("netDevices":[])", "1.0.0")), HasSubstr("came with 1.1.0"));
  EXPECT_THAT(Wrong(R"({"cdiVersion":"0.5.0","kind":"a/b.c","devices":[{"name":"d"}]})"), HasSubstr("came with 0.6.0"));
  EXPECT_THAT(Wrong(R"({"cdiVersion":"0.4.0","kind":"a/b","devices":[{"name":"0"}]})"), HasSubstr("came with 0.5.0"));
}

TEST(CdiSpec, YamlAsToolsWriteIt) {
  auto spec = ParseCdiSpec(R"(---
cdiVersion: 0.5.0
kind: nvidia.com/gpu
devices:
- name: "0"
  containerEdits:
    deviceNodes:
    - path: /dev/nvidia0
      fileMode: 0644
    hooks:
    - hookName: createContainer
      path: /usr/bin/nvidia-cdi-hook
      args: [nvidia-cdi-hook, create-symlinks]
containerEdits:
  env:
  - NVIDIA_VISIBLE_DEVICES=void
  mounts: []
)", CdiFormat::kYaml);
  ASSERT_TRUE(spec) << spec.error().message;
  EXPECT_EQ(spec->kind, "nvidia.com/gpu");
  EXPECT_EQ(spec->devices[0].edits.device_nodes[0].file_mode, 0644u);
  EXPECT_THAT(spec->devices[0].edits.hooks[0].args, ElementsAre("nvidia-cdi-hook", "create-symlinks"));
}

TEST(Yaml, ScalarsAreWhatTheCoreSchemaSays) {
  auto parsed = ParseYaml("[~, null, '', true, False, 12, -3, 0x1f, 0o17, 017, 1.5, yes, \"1\", '~', 99999999999999999999, -, 08]", 1000);
  ASSERT_TRUE(parsed) << parsed.error().message;
  EXPECT_EQ(*parsed, json::parse(R"([null,null,"",true,false,12,-3,31,15,15,"1.5","yes","1","~","99999999999999999999","-",8])"));
}

TEST(Yaml, WhatIsRefused) {
  auto wrong = [](const std::string& text) {
    auto parsed = ParseYaml(text, 100'000);
    return parsed ? "" : parsed.error().message;
  };
  EXPECT_THAT(wrong("a: &x 1\nb: *x"), HasSubstr("line 1: anchors"));
  EXPECT_THAT(wrong("b: *x"), HasSubstr("aliases"));
  EXPECT_THAT(wrong("a: !!binary aGk="), HasSubstr("tags"));
  EXPECT_THAT(wrong("a: 1\na: 2"), HasSubstr("line 2: a key is there twice"));
  EXPECT_THAT(wrong("? [a]\n: 1"), HasSubstr("key is no text"));
  EXPECT_THAT(wrong("a: 1\n---\nb: 2"), HasSubstr("after the document"));
  EXPECT_THAT(wrong(""), HasSubstr("expected a document"));
  EXPECT_THAT(wrong("a: [1"), HasSubstr("line"));
  EXPECT_THAT(wrong(std::string(limits::kJsonDepth + 1, '[')), HasSubstr("nested deeper"));
  EXPECT_THAT(wrong(std::string(50'000, '[')), testing::Not(testing::IsEmpty()));
  EXPECT_THAT(wrong(std::string(100'001, 'a')), HasSubstr("larger than"));
}

TEST(CdiName, Parts) {
  auto name = ParseCdiName("vendor.com/class=gpu0:1");
  ASSERT_TRUE(name);
  EXPECT_EQ(name->kind, "vendor.com/class");
  EXPECT_EQ(name->device, "gpu0:1");
  for (const char* bad : {"", "gpu0", "vendor.com/class", "vendor.com/class=", "/class=x", "vendor.com/a/b=x", "vendor.com/class=../x",
                          "vendor.com/class=a/b", "../../etc/x=y", "vendor.com/class=a=b", "/dev/null"}) {
    EXPECT_FALSE(ParseCdiName(bad)) << bad;
  }
}

class CdiFolders : public testing::Test {
 protected:
  CdiFolders() {
    char name[] = "/tmp/caisson-cdi-XXXXXX";
    root_ = mkdtemp(name);
    dirs_ = {root_ + "/etc", root_ + "/run"};
    for (const auto& dir : dirs_) std::filesystem::create_directory(dir);
  }
  ~CdiFolders() override { std::filesystem::remove_all(root_); }

  void Write(const std::string& name, const std::string& text) { std::ofstream(root_ + "/" + name) << text; }
  static std::string Env(const std::string& value) { return With(fmt::format(R"("env":["FROM={}"])", value)); }
  std::string Fails(const std::vector<std::string>& names) {
    auto edits = FindCdiDevices(dirs_, names);
    return edits ? "" : edits.error().message;
  }

  std::string root_;
  std::vector<std::string> dirs_;
};

TEST_F(CdiFolders, TheLaterFolderCounts) {
  Write("etc/a.json", Env("etc"));
  Write("run/b.json", Env("run"));
  EXPECT_THAT(FindCdiDevices(dirs_, {"v.example/c=d"})->env, ElementsAre("FROM=run"));
  // Also when those before it do not agree.
  Write("etc/c.json", Env("other"));
  EXPECT_THAT(FindCdiDevices(dirs_, {"v.example/c=d"})->env, ElementsAre("FROM=run"));
}

TEST_F(CdiFolders, TwoFilesOfOneFolderAreAConflict) {
  Write("etc/a.json", Env("a"));
  Write("etc/b.json", Env("b"));
  auto edits = FindCdiDevices(dirs_, {"v.example/c=d"});
  ASSERT_FALSE(edits);
  EXPECT_EQ(edits.error().code, Code::kFailedPrecondition);
  EXPECT_THAT(edits.error().message, testing::AllOf(HasSubstr("etc/a.json"), HasSubstr("etc/b.json")));
}

TEST_F(CdiFolders, AnUnknownDeviceIsNamedWithTheFilesThatAreBroken) {
  Write("etc/a.json", Env("a"));
  Write("etc/broken.json", "{");
  Write("etc/ignored.txt", "{");
  Write("run/open.json", Env("a"));
  chmod((root_ + "/run/open.json").c_str(), 0666);
  std::filesystem::create_directory(root_ + "/run/folder.yaml");
  EXPECT_EQ(Fails({"v.example/c=d"}), "");
  std::string text = Fails({"v.example/c=d", "v.example/c=e"});
  EXPECT_THAT(text, testing::AllOf(HasSubstr("'v.example/c=e'"), HasSubstr("broken.json"), HasSubstr("anybody may write"), HasSubstr("not a regular file")));
  EXPECT_THAT(text, testing::Not(HasSubstr("ignored")));
  dirs_.push_back(root_ + "/missing");
  EXPECT_EQ(Fails({"v.example/c=d"}), "");
}

TEST_F(CdiFolders, AFilesOwnEditsComeOnceAndFirst) {
  Write("etc/a.json", R"({"cdiVersion":"0.6.0","kind":"v/c","containerEdits":{"env":["ALL=1"]},"devices":[
    {"name":"a","containerEdits":{"env":["A=1"]}},{"name":"b","containerEdits":{"env":["B=1"]}}]})");
  EXPECT_THAT(FindCdiDevices(dirs_, {"v/c=b", "v/c=a", "v/c=b"})->env, ElementsAre("ALL=1", "B=1", "A=1"));
}

TEST_F(CdiFolders, WhatIsNotSupportedIsSaid) {
  Write("etc/a.json", With(R"("intelRdt":{"closID":"x"})"));
  EXPECT_THAT(Fails({"v.example/c=d"}), HasSubstr("intelRdt is not supported"));
  Write("etc/a.json", With(R"("netDevices":[{"hostInterfaceName":"a","name":"b"}])"));
  EXPECT_THAT(Fails({"v.example/c=d"}), HasSubstr("netDevices are not supported"));
}

json ContainerJson() {
  return json::parse(R"({"process":{"env":["A=old","PATH=/bin"],"user":{"uid":7,"gid":8,"additionalGids":[9]}},"mounts":[{"destination":"/proc"},{"destination":"/a/b"}],
    "linux":{"devices":[{"path":"/dev/x"}],"resources":{"devices":[]}}})");
}

TEST(ApplyCdi, ChangesTheConfiguration) {
  CdiEdits edits;
  edits.env = {"A=new", "B=1"};
  edits.device_nodes = {{"/dev/x", "/dev/null", "", 0, 0, {}, {}, {}, "rw"}, {"/dev/full", "/no/such", "c", 1, 7, {}, 0, 0, ""}};
  edits.mounts = {{"/lib", "/a/b", "", {"ro"}}, {"tmp", "/a", "tmpfs", {}}};
  edits.hooks = {{"createContainer", "/h", {"h"}, {}, 3}, {"createContainer", "/i", {}, {"X=1"}, 0}};
  edits.additional_gids = {9, 44};
  json spec = ContainerJson();
  auto applied = ApplyCdi(edits, &spec);
  ASSERT_TRUE(applied) << applied.error().message;
  EXPECT_EQ(spec["process"]["env"], json({"A=new", "PATH=/bin", "B=1"}));
  EXPECT_EQ(spec["process"]["user"]["additionalGids"], json({9, 44}));
  EXPECT_EQ(spec["linux"]["devices"], json::parse(R"([{"path":"/dev/x","type":"c","major":1,"minor":3,"fileMode":438,"uid":7,"gid":8},
    {"path":"/dev/full","type":"c","major":1,"minor":7,"fileMode":438,"uid":0,"gid":0}])"));
  EXPECT_EQ(spec["linux"]["resources"]["devices"], json::parse(R"([{"allow":true,"type":"c","major":1,"minor":3,"access":"rw"}])"));
  EXPECT_EQ(spec["mounts"], json::parse(R"([{"destination":"/proc"},{"destination":"/a","source":"tmp","type":"tmpfs","options":[]},
    {"destination":"/a/b","source":"/lib","type":"bind","options":["ro"]}])"));
  EXPECT_EQ(spec["hooks"], json::parse(R"({"createContainer":[{"path":"/h","args":["h"],"timeout":3},{"path":"/i","env":["X=1"]}]})"));
}

TEST(ApplyCdi, InAUserNamespaceTheHostsNodeIsShown) {
  CdiEdits edits;
  edits.device_nodes = {{"/dev/y", "/dev/null", "", 0, 0, {}, {}, {}, "rw"}, {"/dev/full", "/dev/full", "", 0, 0, {}, {}, {}, ""}};
  json spec = ContainerJson();
  spec["linux"]["namespaces"] = json::parse(R"([{"type":"pid"},{"type":"user","path":"/x"}])");
  auto applied = ApplyCdi(edits, &spec);
  ASSERT_TRUE(applied) << applied.error().message;
  EXPECT_EQ(spec["linux"]["devices"], json::parse(R"([{"path":"/dev/x"}])"));
  EXPECT_EQ(spec["linux"]["resources"]["devices"].size(), 1u);
  EXPECT_EQ(spec["mounts"][2], json::parse(R"({"destination":"/dev/y","source":"/dev/null","type":"bind","options":["bind","rprivate","nosuid","noexec"]})"));
  EXPECT_EQ(spec["mounts"][3]["source"], "/dev/full");
}

TEST(ApplyCdi, NodesThatCannotBe) {
  auto fails = [](const CdiDeviceNode& node) {
    CdiEdits edits;
    edits.device_nodes = {node};
    json spec = ContainerJson();
    auto applied = ApplyCdi(edits, &spec);
    return applied ? "" : applied.error().message;
  };
  EXPECT_THAT(fails({"/dev/x", "/no/such", "", 0, 0, {}, {}, {}, "rw"}), HasSubstr("'/no/such': No such file"));
  EXPECT_THAT(fails({"/dev/x", "/etc/passwd", "", 0, 0, {}, {}, {}, "rw"}), HasSubstr("no device"));
  EXPECT_THAT(fails({"/dev/x", "/dev/null", "b", 0, 0, {}, {}, {}, "rw"}), HasSubstr("of type 'c'"));
  EXPECT_EQ(fails({"/dev/x", "/dev/null", "u", 0, 0, {}, {}, {}, "rw"}), "");
}

}  // namespace
}  // namespace caisson::cri
