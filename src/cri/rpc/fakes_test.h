// SPDX-License-Identifier: Apache-2.0
//
// For tests of the life cycle: a Context whose index is real and whose companions, images and networks are made up and
// in process, so that each can be made to fail, hang or die at will. The companion speaks real ttRPC over a socketpair.
#pragma once

#include "cri/rpc/rpc.h"

#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "sys/event_loop.h"
#include "ttrpc/server.h"

namespace caisson::cri {

// What the made-up world does; shared by its parts, and read by tests.
struct World {
  std::mutex mutex;
  std::set<std::string> failing;      // "Service/Method" or "cni.Add", … that answers kInternal
  std::set<std::string> unanswered;   // methods that are never answered
  std::map<std::string, std::vector<pod::v1::ContainerStats>> figures;  // what the companion of a pod says, by pod
  bool deaf = false;                  // containers ignore every signal but SIGKILL
  std::vector<std::string> calls;     // methods in the order they came
  std::set<std::string> companions, attached, snapshots, tasks;

  bool Fails(const std::string& what);
  bool Hangs(const std::string& what);
  int Count(const std::string& what);
  // Nothing lives and nothing is held.
  bool Empty();
};

class FakeImages : public image::ImageStore {
 public:
  explicit FakeImages(World* world) : world_(world) {}
  Result<image::Image> Pull(const std::string& reference, image::PullOptions) override { return Find(reference); }
  Result<image::Image> Find(const std::string& name) override;
  std::vector<image::Image> List() override { return {}; }
  Result<> Remove(const std::string&) override { return {}; }
  Result<std::vector<image::Image>> Import(const std::string&, const std::string&) override {
    return std::vector<image::Image>();
  }
  Result<image::Snapshot> Prepare(const std::string& key, const std::string& image_id) override;
  Result<image::Snapshot> PrepareView(const std::string& key, const std::string& image_id) override { return Prepare(key, image_id); }
  Result<std::vector<std::string>> ErofsLayers(const std::string& key) override {
    return std::vector<std::string>{"/nowhere/" + TRY(FindSnapshot(key)).key + ".erofs"};
  }
  Result<image::Snapshot> FindSnapshot(const std::string& key) override;
  Result<> RemoveSnapshot(const std::string& key) override;
  Result<image::Usage> SnapshotUsage(const std::string&) override { return image::Usage(); }
  std::vector<std::string> ListSnapshots() override;
  Result<image::Usage> FilesystemUsage() override { return image::Usage(); }
  std::string FilesystemPath() const override { return "/"; }
  Result<uint64_t> CollectGarbage() override { return 0; }

 private:
  World* world_;
};

class FakeCni : public net::Cni {
 public:
  explicit FakeCni(World* world) : world_(world) {}
  Result<> Ready() override { return {}; }
  std::string NetworkName() override { return "fake"; }
  Result<net::NetworkResult> Add(const net::Attachment& attachment) override;
  Result<> Del(const net::Attachment& attachment, const net::NetworkResult& added) override;
  Result<> Check(const net::Attachment&, const net::NetworkResult&) override { return {}; }
  Result<> Status() override { return {}; }
  Result<> Gc(const std::vector<net::Attachment>&) override { return {}; }

 private:
  World* world_;
};

// Companions in this process. They outlive a FakeShims as real ones outlive a daemon: give the next one the same Fleet.
class Fleet;
std::shared_ptr<Fleet> MakeFleet(World* world);
// The companion dies as by SIGKILL.
void KillCompanion(Fleet& fleet, const std::string& pod_id);
// A container's process ends by itself.
void EndContainer(Fleet& fleet, const std::string& container_id, int exit_code, bool oom_killed = false);
std::unique_ptr<Shims> MakeFakeShims(std::shared_ptr<Fleet> fleet);

}  // namespace caisson::cri
