// SPDX-License-Identifier: Apache-2.0
#include "cri/image_message.h"

#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "base/json.h"
#include "base/strings.h"

namespace caisson::cri {
namespace {

// The CRI wants the image's user as a number or as a name, without the group; neither says that the image names none.
void SetUser(const std::string& written, runtime::v1::Image* message) {
  std::string user = written.substr(0, written.find(':'));
  if (user.empty()) return;
  if (auto uid = ParseInt64(user)) {
    message->mutable_uid()->set_value(*uid);
  } else {
    message->set_username(user);
  }
}

}  // namespace

runtime::v1::Image ImageMessage(const image::Image& image) {
  runtime::v1::Image message;
  message.set_id(image.id);
  for (const std::string& tag : image.repo_tags) message.add_repo_tags(tag);
  for (const std::string& digest : image.repo_digests) message.add_repo_digests(digest);
  message.set_size(image.size_bytes);
  message.set_pinned(image.pinned);
  SetUser(image.config.user, &message);
  message.mutable_spec()->set_image(!image.repo_tags.empty()      ? image.repo_tags.front()
                                    : !image.repo_digests.empty() ? image.repo_digests.front()
                                                                  : image.id);
  return message;
}

std::string ImageInfoJson(const image::Image& image) {
  const image::ImageConfig& config = image.config;
  // The keys of the OCI image config.
  Json container = {{"User", config.user},       {"Env", config.env},
                    {"Entrypoint", config.entrypoint}, {"Cmd", config.cmd},
                    {"WorkingDir", config.working_dir}, {"StopSignal", config.stop_signal},
                    {"Volumes", config.volumes}, {"Labels", config.labels}};
  return DumpJson({{"id", image.id},
                   {"artifactType", image.artifact_type},
                   {"os", config.os},
                   {"architecture", config.architecture},
                   {"variant", config.variant},
                   {"config", std::move(container)},
                   {"layers", image.diff_ids},
                   {"pulledAt", FormatRfc3339Nano(image.pulled_at_nanos)}});
}

}  // namespace caisson::cri
