// SPDX-License-Identifier: Apache-2.0
#include "cri/control.h"

#include <grpcpp/grpcpp.h>

#include "caisson/control/v1/control.grpc.pb.h"
#include "caisson/pod/v1/pod.pb.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <map>
#include <mutex>
#include <optional>

#include "cri/grpc_status.h"
#include "cri/rpc/rpc.h"
#include "stream/server.h"

namespace caisson::cri {
namespace {

namespace control = caisson::control::v1;

constexpr int64_t kConsoleMillis = 5'000;  // the companion has it at hand
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

  grpc::Status ListTemplates(grpc::ServerContext*, const control::ListTemplatesRequest*, control::ListTemplatesResponse* response) override {
    for (const TemplateInfo& info : context_.templates.List()) Describe(info, response->add_templates());
    response->set_warm(static_cast<uint32_t>(context_.warm_pool.Count()));
    return grpc::Status::OK;
  }

  grpc::Status RemoveTemplates(grpc::ServerContext*, const control::RemoveTemplatesRequest* request,
                               control::RemoveTemplatesResponse* response) override {
    auto ids = ChosenTemplates(*request);
    if (!ids) return ToStatus("RemoveTemplates", ids.error());
    if (!ids->empty()) context_.warm_pool.Clear();
    for (const std::string& id : *ids) {
      auto removed = context_.templates.Remove(id);
      // Gone by itself meanwhile is as good.
      if (!removed && removed.error().code != Code::kNotFound) return ToStatus("RemoveTemplates", removed.error());
      response->add_ids(id);
    }
    return grpc::Status::OK;
  }

  grpc::Status Console(grpc::ServerContext*, const control::ConsoleRequest* request, control::ConsoleResponse* response) override {
    auto part = ReadConsole(*request);
    if (!part) return ToStatus("Console", part.error());
    response->set_text(std::move(*part->mutable_text()));
    response->set_end(part->end());
    return grpc::Status::OK;
  }

  grpc::Status ExecGuest(grpc::ServerContext*, const control::ExecGuestRequest* request, control::ExecGuestResponse* response) override {
    auto url = GuestUrl(*request);
    if (!url) return ToStatus("ExecGuest", url.error());
    response->set_url(std::move(*url));
    return grpc::Status::OK;
  }

 private:
  Result<PodPtr> FindVm(const std::string& pod_id) {
    PodPtr pod = TRY(context_.pods.Find(pod_id));
    if (!pod->Get()->has_vm()) return MakeError(Code::kFailedPrecondition, "pod sandbox '{}' is no virtual machine", pod_id);
    return pod;
  }

  Result<pod::v1::ConsoleResponse> ReadConsole(const control::ConsoleRequest& request) {
    PodPtr pod = TRY(FindVm(request.pod_id()));
    auto shim = pod->shim();
    if (!shim) return MakeError(Code::kFailedPrecondition, "the virtual machine of pod sandbox '{}' has ended", request.pod_id());
    pod::v1::ConsoleRequest ask;
    ask.set_from(request.from());
    auto answer = shim->Call<pod::v1::ConsoleResponse>(service::kPod, "Console", ask, kConsoleMillis);
    if (answer || answer.error().code != Code::kUnavailable) return answer;
    return MakeError(Code::kFailedPrecondition, "the virtual machine of pod sandbox '{}' ends: {}", request.pod_id(), answer.error().message);
  }

  Result<std::string> GuestUrl(const control::ExecGuestRequest& request) {
    PodPtr pod = TRY(FindVm(request.pod_id()));
    auto record = pod->Get();
    if (!record->vm().debug()) {
      return MakeError(Code::kFailedPrecondition, "pod sandbox '{}' was made while 'handlers.{}.debug' was false: no process may be run in its guest",
                       request.pod_id(), record->resolved_handler());
    }
    if (record->state() != runtime::v1::SANDBOX_READY) return MakeError(Code::kFailedPrecondition, "pod sandbox '{}' is not ready", request.pod_id());
    if (request.cmd().empty() || request.cmd(0).empty()) return MakeError(Code::kInvalidArgument, "the command to execute is empty");
    stream::ExecTarget target;
    target.pod_id = request.pod_id();
    target.args.assign(request.cmd().begin(), request.cmd().end());
    target.tty = request.tty();
    target.in = request.stdin();
    target.out = true;
    target.err = !request.tty();
    return context_.streams->ExecUrl(std::move(target));
  }

  static void Describe(const TemplateInfo& info, control::VmTemplate* to) {
    to->set_id(info.id);
    to->set_handler(info.made.handler());
    to->set_state(info.state);
    to->set_vcpus(info.made.vm().vcpus());
    to->set_memory_bytes(info.made.vm().memory_bytes());
    to->set_accelerator(info.made.vm().accelerator());
    to->set_shares_memory(info.made.share_memory());
    to->set_bytes(info.bytes);
    to->set_since_nanos(info.since_nanos);
    to->set_used_at_nanos(info.used_at_nanos);
    to->set_uses(info.uses);
    to->set_error(info.error);
    to->set_kernel(info.made.vm().kernel());
  }

  Result<std::vector<std::string>> ChosenTemplates(const control::RemoveTemplatesRequest& request) {
    std::vector<std::string> all, chosen;
    for (const TemplateInfo& info : context_.templates.List()) all.push_back(info.id);
    if (request.all()) return all;
    for (const std::string& id : request.ids()) {
      auto begins = [&](const std::string& one) { return !id.empty() && one.starts_with(id); };
      auto count = std::count_if(all.begin(), all.end(), begins);
      if (count > 1) return MakeError(Code::kInvalidArgument, "'{}' is the beginning of {} templates' ids", id.substr(0, 128), count);
      if (count == 0) return MakeError(Code::kNotFound, "no template '{}'", id.substr(0, 128));
      chosen.push_back(*std::find_if(all.begin(), all.end(), begins));
    }
    return chosen;
  }

  Context& context_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeControlService(Context& context) {
  return std::make_unique<ControlService>(context);
}

}  // namespace caisson::cri
