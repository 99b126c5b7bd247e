// SPDX-License-Identifier: Apache-2.0
#include "cri/control.h"

#include <grpcpp/grpcpp.h>

#include "caisson/control/v1/control.grpc.pb.h"

#include <chrono>
#include <condition_variable>
#include <map>
#include <mutex>
#include <optional>

#include "cri/grpc_status.h"
#include "cri/rpc/rpc.h"

namespace caisson::cri {
namespace {

namespace control = caisson::control::v1;

constexpr auto kProgressPeriod = std::chrono::milliseconds(100);

// A pull under way, and what of it its client has not been told yet. Shared with the pull, which goes on for others
// when the client has gone.
class PullState {
 public:
  void Tell(const image::Progress& progress) {
    std::lock_guard lock(mutex_);
    untold_[progress.digest] = progress;
  }
  // The first word is the last.
  void End(Result<image::Image> outcome) {
    std::lock_guard lock(mutex_);
    if (outcome_) return;
    outcome_ = std::move(outcome);
    ended_.notify_all();
  }

  // Waits for the end, one period at most; true if it has come. `update` gets what is new.
  bool Next(control::PullResponse* update) {
    std::unique_lock lock(mutex_);
    bool ended = ended_.wait_for(lock, kProgressPeriod, [this] { return outcome_.has_value(); });
    for (const auto& [digest, progress] : untold_) {
      control::BlobProgress& blob = *update->add_blobs();
      blob.set_digest(digest);
      blob.set_done_bytes(progress.done_bytes);
      blob.set_total_bytes(progress.total_bytes);
      blob.set_unpacked(progress.unpacked);
    }
    untold_.clear();
    return ended;
  }
  // After the end.
  const Result<image::Image>& outcome() const { return *outcome_; }

 private:
  std::mutex mutex_;
  std::condition_variable ended_;
  std::map<std::string, image::Progress> untold_;
  std::optional<Result<image::Image>> outcome_;
};

class ControlService final : public control::Control::Service {
 public:
  explicit ControlService(Context& context) : context_(context) {}

  grpc::Status Pull(grpc::ServerContext* call, const control::PullRequest* request,
                    grpc::ServerWriter<control::PullResponse>* writer) override {
    auto state = std::make_shared<PullState>();
    // Held by the pull: should it not be started (the daemon ends), its client must not wait for it.
    std::shared_ptr<void> unstarted(nullptr, [state](void*) {
      state->End(MakeError(Code::kUnavailable, "caissond is ending"));
    });
    context_.background.Start([&context = context_, state, unstarted = std::move(unstarted), name = request->image()] {
      image::PullOptions options;
      options.on_progress = [state](const image::Progress& progress) { state->Tell(progress); };
      state->End(FetchImage(context, name, std::move(options), "the control service"));
    });
    for (;;) {
      control::PullResponse update;
      bool ended = state->Next(&update);
      if (ended && !state->outcome()) return ToStatus("Pull", state->outcome().error());
      if (ended) update.set_image_ref(state->outcome()->id);
      bool written = (update.blobs().empty() && !ended) || writer->Write(update);
      if (ended) return grpc::Status::OK;
      if (!written || call->IsCancelled()) return {grpc::StatusCode::CANCELLED, "the client has gone"};
    }
  }

  grpc::Status Import(grpc::ServerContext*, const control::ImportRequest* request,
                      control::ImportResponse* response) override {
    if (!request->path().starts_with('/')) {
      return ToStatus("Import", MakeError(Code::kInvalidArgument, "'{}' is not an absolute path", request->path()));
    }
    auto images = context_.images.Import(request->path(), request->name());
    if (!images) return ToStatus("Import", images.error());
    for (const image::Image& image : *images) {
      control::ImportedImage& imported = *response->add_images();
      imported.set_id(image.id);
      for (const std::string& tag : image.repo_tags) imported.add_tags(tag);
    }
    return grpc::Status::OK;
  }

  grpc::Status Config(grpc::ServerContext*, const control::ConfigRequest*, control::ConfigResponse* response) override {
    response->set_toml(FormatConfig(context_.config));
    return grpc::Status::OK;
  }

 private:
  Context& context_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeControlService(Context& context) {
  return std::make_unique<ControlService>(context);
}

}  // namespace caisson::cri
