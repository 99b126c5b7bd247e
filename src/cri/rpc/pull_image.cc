// SPDX-License-Identifier: Apache-2.0
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

}  // namespace

Result<image::Image> FetchImage(Context& context, const std::string& reference, image::PullOptions options) {
  TRY(image::ParseReference(reference));
  Steps steps(context, "pull_image");
  image::Image image;
  // Nothing to undo: what a failed pull has fetched is kept for the next one and is garbage otherwise.
  TRY(steps.Run("fetch", [&]() -> Result<> {
    image = TRY(context.images.Pull(reference, std::move(options)));
    return {};
  }));
  return image;
}

Result<v1::PullImageResponse> PullImage(Context& context, const v1::PullImageRequest& request) {
  image::PullOptions options;
  options.credentials = CredentialsOf(request.auth());
  v1::PullImageResponse response;
  response.set_image_ref(TRY(FetchImage(context, request.image().image(), std::move(options))).id);
  return response;
}

}  // namespace caisson::cri
