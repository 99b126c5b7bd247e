// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "base/log.h"
#include "cri/rpc/rpc.h"
#include "cri/steps.h"
#include "image/reference.h"

namespace caisson::cri {
namespace {

// A client without credentials sends no AuthConfig or an empty one; the daemon's own are used then.
std::optional<image::Credentials> CredentialsOf(const v1::AuthConfig& auth) {
  image::Credentials credentials = {.username = auth.username(),
                                    .password = auth.password(),
                                    .auth = auth.auth(),
                                    .server_address = auth.server_address(),
                                    .identity_token = auth.identity_token(),
                                    .registry_token = auth.registry_token()};
  bool empty = credentials.username.empty() && credentials.password.empty() && credentials.auth.empty() &&
               credentials.identity_token.empty() && credentials.registry_token.empty();
  return empty ? std::nullopt : std::optional(std::move(credentials));
}

// What the reference stands for in its registry now; the image may have names of other repositories too.
std::string ManifestDigest(const image::Image& image, const image::Reference& reference) {
  if (!reference.digest.empty()) return reference.digest;
  const std::string prefix = reference.Digested("");
  // The newest is the last.
  auto found = std::find_if(image.repo_digests.rbegin(), image.repo_digests.rend(),
                            [&](const std::string& name) { return name.starts_with(prefix); });
  return found == image.repo_digests.rend() ? image.id : found->substr(prefix.size());
}

}  // namespace

Result<image::Image> FetchImage(Context& context, const std::string& reference, image::PullOptions options, const char* door) {
  const image::Reference parsed = TRY(image::ParseReference(reference));
  const int64_t begin = MonotonicNanos();
  Steps steps(context, "pull_image");
  image::Image image;
  // Nothing to undo: what a failed pull has fetched is kept for the next one and is garbage otherwise.
  TRY(steps.Run("fetch", [&]() -> Result<> {
    image = TRY(context.images.Pull(reference, std::move(options)));
    return {};
  }));
  // For the audit. Of who asked only the door is known: behind a unix socket that root alone may open there is no name.
  log::Info("pull of image {} for {}: {}, {} bytes, {} ms", parsed.ToString(), door, ManifestDigest(image, parsed), image.size_bytes,
            (MonotonicNanos() - begin) / 1'000'000);
  return image;
}

Result<v1::PullImageResponse> PullImage(Context& context, const v1::PullImageRequest& request) {
  image::PullOptions options;
  options.credentials = CredentialsOf(request.auth());
  v1::PullImageResponse response;
  response.set_image_ref(TRY(FetchImage(context, request.image().image(), std::move(options), "the CRI")).id);
  return response;
}

}  // namespace caisson::cri
