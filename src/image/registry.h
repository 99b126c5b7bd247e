// SPDX-License-Identifier: Apache-2.0
//
// Registry: the client side of the OCI distribution-spec. Resolves references and streams blobs, through the mirrors
// that hosts.toml names, with authentication, retries, resumption and bounds on everything.
//
// One object serves the whole daemon. Thread-safe: each call works on its caller's thread and blocks it; parallel
// downloads are parallel calls. Connections are kept and reused between calls. hosts.toml and the docker config are
// read at each call, so a change needs no restart.
//
// Credentials go only to the host that they are for, and to the token server that this host names by HTTPS. They are
// never in an error. Registry writes no file and never follows anything but http and https.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <string_view>

#include "base/clock.h"
#include "base/result.h"
#include "image/image_store.h"
#include "image/manifest.h"
#include "image/reference.h"

namespace caisson::image {

struct RegistryOptions {
  std::string certs_dir;      // containerd's certs.d tree; empty: none
  std::string docker_config;  // path of a docker config.json; empty or absent file: none
  std::string user_agent = "caisson";
  int64_t stall_timeout_millis = 60'000;   // a transfer slower than 1 KiB/s for so long is broken off (and resumed)
  int64_t connect_timeout_millis = 30'000;
  int max_attempts = 5;                    // of one request at one host; attempts that got far do not count
  int64_t first_backoff_millis = 200;      // doubles, with jitter
  int64_t max_retry_after_millis = 60'000; // a server that demands more is taken to be unavailable
  bool proxy_from_environment = true;      // HTTP_PROXY, HTTPS_PROXY, NO_PROXY, read once
};

// How a call may be ended from outside.
struct CallControl {
  std::stop_token cancel;            // kCancelled, at once
  std::optional<Deadline> deadline;  // kDeadlineExceeded
};

struct Resolved {
  // What the reference names: a manifest or an index. Its digest is the one for repo digests.
  Descriptor root;
  std::string root_bytes;
  // The manifest for this platform: the same as root if that is a manifest.
  Descriptor manifest;
  std::string manifest_bytes;
  Manifest parsed;
};

// Takes the next bytes of a blob. An error ends the transfer and is returned as it is, not retried.
using BlobSink = std::function<Result<>(std::string_view chunk)>;

class Registry {
 public:
  static Result<std::unique_ptr<Registry>> Create(RegistryOptions options);
  virtual ~Registry() = default;

  // Fetches the manifest that `reference` names, through indexes, for `platform`. All bytes are verified against their
  // digests (and against the reference's, if it has one). kNotFound, kUnauthenticated, kPermissionDenied,
  // kUnavailable, kInvalidArgument: each names image, host, reason.
  virtual Result<Resolved> Resolve(const Reference& reference, const std::optional<Credentials>& credentials,
                                   const Platform& platform, const CallControl& control) = 0;

  // The digest that `reference` has at its registry now, by HEAD where the registry can do that: cheap, and not
  // counted as a pull by those who count.
  virtual Result<std::string> ResolveDigest(const Reference& reference, const std::optional<Credentials>& credentials,
                                            const CallControl& control) = 0;

  // Streams bytes [offset, blob.size) of `blob` into `sink`, on this thread, each byte once and in order, whatever
  // happens on the way (broken transfers are resumed, perhaps at another mirror). Success means that exactly blob.size
  // bytes have been passed; their digest is the caller's to verify. Chunks are at most 16 KiB and are valid during the
  // call only. Backpressure: a slow sink slows the transfer and does not count as a stall.
  virtual Result<> FetchBlob(const Reference& reference, const Descriptor& blob,
                             const std::optional<Credentials>& credentials, uint64_t offset, const BlobSink& sink,
                             const CallControl& control) = 0;

  // A small blob (an image config) as a whole, its digest verified. kInvalidArgument if it is larger than max_bytes.
  virtual Result<std::string> FetchSmallBlob(const Reference& reference, const Descriptor& blob,
                                             const std::optional<Credentials>& credentials, size_t max_bytes,
                                             const CallControl& control) = 0;

  // Closes connections that no call uses. Frees their memory; for when no pull is under way.
  virtual void CloseIdleConnections() = 0;
};

}  // namespace caisson::image
