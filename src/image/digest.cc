// SPDX-License-Identifier: Apache-2.0
#include "image/digest.h"

#include <openssl/evp.h>

#include <algorithm>

#include "base/check.h"
#include "base/strings.h"

namespace caisson::image {
namespace {

constexpr std::string_view kSha256 = "sha256";
constexpr std::string_view kSha512 = "sha512";

bool IsLowerHex(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

}  // namespace

std::string_view DigestAlgorithm(std::string_view digest) { return digest.substr(0, digest.find(':')); }

std::string_view DigestHex(std::string_view digest) {
  size_t colon = digest.find(':');
  return colon == std::string_view::npos ? std::string_view() : digest.substr(colon + 1);
}

Result<> CheckDigest(std::string_view digest) {
  std::string_view algorithm = DigestAlgorithm(digest);
  std::string_view hex = DigestHex(digest);
  if (algorithm != kSha256 && algorithm != kSha512) {
    return MakeError(Code::kInvalidArgument, "digest '{}': the algorithm must be sha256 or sha512",
                     digest.substr(0, 160));
  }
  size_t want = algorithm == kSha256 ? 64 : 128;
  if (hex.size() != want || !IsLowerHex(hex)) {
    return MakeError(Code::kInvalidArgument, "digest '{}': '{}:' must be followed by {} lowercase hex digits",
                     digest.substr(0, 160), algorithm, want);
  }
  return {};
}

std::string Sha256Digest(std::string_view bytes) {
  Hasher hasher;
  hasher.Update(bytes);
  return hasher.Finish();
}

void Hasher::Free::operator()(evp_md_ctx_st* context) const { EVP_MD_CTX_free(context); }

Hasher::Hasher() : context_(EVP_MD_CTX_new()) { Start(); }
Hasher::Hasher(std::string_view digest) : sha512_(DigestAlgorithm(digest) == kSha512), context_(EVP_MD_CTX_new()) {
  Start();
}
Hasher::Hasher(Hasher&&) noexcept = default;
Hasher& Hasher::operator=(Hasher&&) noexcept = default;
Hasher::~Hasher() = default;

void Hasher::Start() {
  CHECK(context_ != nullptr);
  CHECK(EVP_DigestInit_ex(context_.get(), sha512_ ? EVP_sha512() : EVP_sha256(), nullptr) == 1);
}

void Hasher::Update(std::string_view bytes) {
  CHECK(EVP_DigestUpdate(context_.get(), bytes.data(), bytes.size()) == 1);
}

std::string Hasher::Finish() {
  unsigned char out[EVP_MAX_MD_SIZE];
  unsigned size = 0;
  CHECK(EVP_DigestFinal_ex(context_.get(), out, &size) == 1);
  std::string digest(sha512_ ? "sha512:" : "sha256:");
  digest += HexEncode({reinterpret_cast<const char*>(out), size});
  Start();
  return digest;
}

Result<> VerifyDigest(std::string_view bytes, std::string_view digest, std::string_view what) {
  TRY(CheckDigest(digest));
  Hasher hasher(digest);
  hasher.Update(bytes);
  std::string got = hasher.Finish();
  if (got != digest) return MakeError(Code::kDataLoss, "{}: digest is {}, expected {}", what, got, digest);
  return {};
}

}  // namespace caisson::image
