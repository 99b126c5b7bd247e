// SPDX-License-Identifier: Apache-2.0
//
// Content digests as OCI writes them (image-spec descriptor.md, "Digests"): "sha256:<64 hex>" and "sha512:<128 hex>",
// lowercase only. Hasher computes one over a stream. A Hasher belongs to one thread at a time; the functions are pure.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "base/result.h"

struct evp_md_ctx_st;

namespace caisson::image {

// kInvalidArgument unless `digest` is exactly of one of the two forms. A valid digest is safe as a file name once its
// ':' is replaced or split: it holds nothing but hex after the algorithm.
Result<> CheckDigest(std::string_view digest);
// The parts of a digest that passed CheckDigest: "sha256" and the hex.
std::string_view DigestAlgorithm(std::string_view digest);
std::string_view DigestHex(std::string_view digest);

// "sha256:…" of `bytes`.
std::string Sha256Digest(std::string_view bytes);

class Hasher {
 public:
  // SHA-256.
  Hasher();
  // The algorithm of `digest` (which passed CheckDigest).
  explicit Hasher(std::string_view digest);
  Hasher(Hasher&&) noexcept;
  Hasher& operator=(Hasher&&) noexcept;
  ~Hasher();

  void Update(std::string_view bytes);
  // The digest of all that was given. The hasher starts again from nothing.
  std::string Finish();

 private:
  struct Free {
    void operator()(evp_md_ctx_st* context) const;
  };
  void Start();

  bool sha512_ = false;
  std::unique_ptr<evp_md_ctx_st, Free> context_;
};

// kDataLoss "<what>: digest is …, expected …" unless `bytes` have `digest`.
Result<> VerifyDigest(std::string_view bytes, std::string_view digest, std::string_view what);

}  // namespace caisson::image
