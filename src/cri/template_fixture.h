// SPDX-License-Identifier: Apache-2.0
// A handler of VMs with files of its own in a new folder, and companions in this process: what Templates and WarmPool are tested with.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "base/clock.h"
#include "cri/rpc/fakes_test.h"
#include "cri/templates.h"

namespace caisson::cri {

class TemplateFixture : public testing::Test {
 protected:
  void SetUp() override {
    char folder[] = "/tmp/caisson-templates-XXXXXX";
    ASSERT_NE(mkdtemp(folder), nullptr);
    folder_ = folder;
    config_.state = folder_;
    config_.shim_path = "/bin/true";
    std::filesystem::create_directory(config_.TemplateDir());
    for (const char* name : {"kernel", "initrd"}) std::ofstream(folder_ + "/" + name) << name;
    auto& handler = config_.handlers.at(kVmHandler);
    handler.kernel = folder_ + "/kernel";
    handler.initrd = folder_ + "/initrd";
    fleet_ = MakeFleet(&world_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  keeper::v1::MakeRequest Shape(uint32_t vcpus = 1, int64_t limit = 0) {
    PodRecord record;
    record.set_id("pod");
    record.set_resolved_handler(kVmHandler);
    record.mutable_vm()->set_accelerator("tcg");
    record.mutable_vm()->set_vcpus(vcpus);
    record.mutable_vm()->set_memory_bytes(512 << 20);
    record.mutable_vm()->set_vmm_id(1'900'000'007);
    record.mutable_config()->mutable_linux()->mutable_resources()->set_memory_limit_in_bytes(limit);
    return TemplateFor(config_, record);
  }
  // The folder of the template of this shape, which is made.
  std::string Make(const keeper::v1::MakeRequest& shape) {
    templates_->Want(shape);
    EXPECT_TRUE(Becomes([&] { return !templates_->FolderFor(shape).empty(); }));
    return templates_->FolderFor(shape);
  }
  static bool Becomes(const std::function<bool()>& condition) {
    Deadline deadline = Deadline::After(20'000);
    while (!condition()) {
      if (deadline.Passed()) return false;
      std::this_thread::yield();
    }
    return true;
  }

  std::string folder_;
  Config config_;
  World world_;
  FaultPoints faults_;
  std::shared_ptr<Fleet> fleet_;
  std::unique_ptr<Background> background_;
  std::unique_ptr<Shims> shims_;
  std::unique_ptr<Templates> templates_;
};

}  // namespace caisson::cri
