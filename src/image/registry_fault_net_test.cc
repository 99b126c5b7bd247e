// SPDX-License-Identifier: Apache-2.0
//
// The registry client against servers that break, lie, redirect, drip and fish for credentials.
#include <thread>

#include <gmock/gmock.h>

#include "image/net_fixture.h"
#include "image/registry.h"

namespace caisson::image {
namespace {

using testing::AllOf;
using testing::Contains;
using testing::HasSubstr;
using testing::Not;

const Platform kPlatform{"linux", "amd64", "", "", {}};

class RegistryFault : public testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(server_.up()) << "python3 " CAISSON_SOURCE_DIR "/test/fault/registry_fault.py does not start";
    RegistryOptions options;
    options.first_backoff_millis = 1;
    options.stall_timeout_millis = 600;
    client_ = std::move(Registry::Create(options).value());
    login_.username = "user", login_.password = "hunter2-secret";
  }
  Reference Ref(const std::string& repo) { return ParseReference(server_.domain() + "/" + repo).value(); }
  Result<Resolved> Resolve(const std::string& repo, const std::optional<Credentials>& credentials = {},
                           const CallControl& control = {}) {
    return client_->Resolve(Ref(repo), credentials, kPlatform, control);
  }
  std::string ResolveError(const std::string& repo, const std::optional<Credentials>& credentials = {}) {
    auto resolved = Resolve(repo, credentials);
    return resolved ? "no error" : resolved.error().message;
  }
  // The layer of a repository whose manifest is sound, with its digest verified.
  Result<std::string> Layer(const std::string& repo, const std::optional<Credentials>& credentials = {},
                            const CallControl& control = {}) {
    Resolved resolved = TRY(Resolve(repo, credentials));
    return client_->FetchSmallBlob(Ref(repo), resolved.parsed.layers.at(0), credentials, 2 << 20, control);
  }
  std::string LayerError(const std::string& repo, const std::optional<Credentials>& credentials = {}) {
    auto layer = Layer(repo, credentials);
    return layer ? "no error" : layer.error().message;
  }

  FaultRegistry server_;
  std::unique_ptr<Registry> client_;
  Credentials login_;
};

TEST_F(RegistryFault, TheServerItselfWorks) {
  EXPECT_TRUE(Layer("sound")) << LayerError("sound");
  EXPECT_TRUE(Resolve("indexed")) << ResolveError("indexed");
}

TEST_F(RegistryFault, LyingManifestsAreRefused) {
  EXPECT_THAT(ResolveError("lying-header"), HasSubstr("manifest: digest is sha256:"));
  auto sound = Resolve("sound");
  ASSERT_TRUE(sound);
  Reference pinned = Ref("other-bytes@" + sound->root.digest);
  auto other = client_->Resolve(pinned, {}, kPlatform, {});
  ASSERT_FALSE(other);
  EXPECT_EQ(other.error().code, Code::kDataLoss);
  EXPECT_THAT(ResolveError("confused"), HasSubstr("CVE-2021-41190"));
  EXPECT_THAT(ResolveError("mislabelled"), HasSubstr("CVE-2021-41190"));
  EXPECT_THAT(ResolveError("schema1"), HasSubstr("schema 1"));
  EXPECT_THAT(ResolveError("deep"), HasSubstr("nested deeper"));
  EXPECT_THAT(ResolveError("huge"), HasSubstr("larger than the limit"));
  EXPECT_THAT(ResolveError("headers"), HasSubstr("of headers"));
}

TEST_F(RegistryFault, BrokenTransfersAreResumed) {
  ASSERT_TRUE(Layer("broken")) << LayerError("broken");
  EXPECT_THAT(server_.Log(), Contains(HasSubstr("bytes=")));
  ASSERT_TRUE(Layer("broken-no-range")) << LayerError("broken-no-range");
  EXPECT_THAT(LayerError("wrong-range"), HasSubstr("another range"));
}

TEST_F(RegistryFault, WrongLengthsAreRefused) {
  EXPECT_THAT(LayerError("short"), HasSubstr("the blob has 1048575 bytes, the manifest says 1048576"));
  EXPECT_THAT(LayerError("long"), HasSubstr("more than the 1048576 bytes"));
}

TEST_F(RegistryFault, DripsAndSilenceEnd) {
  EXPECT_THAT(LayerError("drip"), HasSubstr("stalled"));
  EXPECT_THAT(ResolveError("silent"), HasSubstr("stalled"));
}

TEST_F(RegistryFault, CallsEndWhenTold) {
  std::stop_source source;
  CallControl control{source.get_token(), std::nullopt};
  std::jthread stopper([&] {
    // Cancelled while the server is silent, once it has the request.
    while (!testing::Value(server_.Log(), Contains(HasSubstr("silent")))) std::this_thread::yield();
    source.request_stop();
  });
  auto cancelled = Resolve("silent", {}, control);
  ASSERT_FALSE(cancelled);
  EXPECT_EQ(cancelled.error().code, Code::kCancelled);
  auto late = Resolve("silent", {}, {{}, Deadline::After(50)});
  ASSERT_FALSE(late);
  EXPECT_EQ(late.error().code, Code::kDeadlineExceeded);
}

TEST_F(RegistryFault, BusyServersAreAskedAgain) {
  EXPECT_TRUE(Layer("busy")) << LayerError("busy");
  EXPECT_TRUE(Layer("failing")) << LayerError("failing");
  auto hours = Resolve("busy-for-hours");
  ASSERT_FALSE(hours);
  EXPECT_EQ(hours.error().code, Code::kResourceExhausted);
  EXPECT_THAT(ResolveError("down"), HasSubstr("the registry fails"));
  size_t asked = 0;
  for (const std::string& line : server_.Log()) asked += line.find("/v2/down/") != std::string::npos;
  EXPECT_EQ(asked, 5u);
}

TEST_F(RegistryFault, RedirectsAreBoundedAndGoNowhereElse) {
  EXPECT_THAT(ResolveError("loop"), HasSubstr("more than 5 redirects"));
  EXPECT_THAT(ResolveError("to-file"), HasSubstr("scheme 'file' is refused"));
  EXPECT_THAT(ResolveError("to-metadata"), HasSubstr("loopback or link-local"));
}

TEST_F(RegistryFault, ARedirectTakesNoCredentialsAlong) {
  ASSERT_TRUE(Layer("moved", login_)) << LayerError("moved", login_);
  size_t elsewhere = 0;
  for (const std::string& line : server_.Log()) {
    if (line.find("127.0.0.2") == std::string::npos) continue;
    ++elsewhere;
    EXPECT_THAT(line, HasSubstr(R"("auth": "")"));
  }
  EXPECT_GT(elsewhere, 0u);
  // Nor does it get any by asking (CVE-2020-15157).
  EXPECT_THAT(ResolveError("moved-asks", login_), HasSubstr("unauthorized"));
  for (const std::string& line : server_.Log()) {
    if (line.find("moved-asks") == std::string::npos) continue;
    EXPECT_THAT(line, HasSubstr(R"("auth": "")"));
  }
}

TEST_F(RegistryFault, TokensAreFetchedOnceAndUsed) {
  ASSERT_TRUE(Layer("token", login_)) << LayerError("token", login_);
  size_t fetched = 0;
  for (const std::string& line : server_.Log()) fetched += line.find("/token?") != std::string::npos;
  EXPECT_EQ(fetched, 1u);
  EXPECT_THAT(server_.Log(), Contains(AllOf(HasSubstr("/token?"), HasSubstr("scope=repository%3Atoken%3Apull"),
                                            HasSubstr(R"("auth": "Basic )"))));
  EXPECT_THAT(server_.Log(), Contains(AllOf(HasSubstr("/blobs/"), HasSubstr("Bearer the-token"))));
  EXPECT_TRUE(Layer("token-busy")) << LayerError("token-busy");
  // An identity token is a refresh token of OAuth 2.
  Credentials identity;
  identity.identity_token = "refresh-me";
  EXPECT_TRUE(Layer("token", identity)) << LayerError("token", identity);
  EXPECT_THAT(server_.Log(), Contains(HasSubstr("grant_type=refresh_token&refresh_token=refresh-me")));
  // A registry token is the bearer token itself.
  Credentials registry;
  registry.registry_token = "the-token";
  EXPECT_TRUE(Layer("token", registry));
}

TEST_F(RegistryFault, HostileTokenServersGetNothing) {
  EXPECT_THAT(ResolveError("token-elsewhere", login_), HasSubstr("token server on another host"));
  EXPECT_THAT(ResolveError("token-file", login_), HasSubstr("scheme 'file' is refused"));
  EXPECT_THAT(ResolveError("token-metadata"), HasSubstr("link-local"));
  EXPECT_THAT(ResolveError("token-garbage"), HasSubstr("bad JSON"));
  std::string refused = ResolveError("token-refused", login_);
  EXPECT_THAT(refused, HasSubstr("incorrect username or password"));
  EXPECT_THAT(refused, Not(HasSubstr("dXNlcjpodW50ZXIyLXNlY3JldA")));  // base64 of the login
  for (const std::string& line : server_.Log()) {
    if (line.find("127.0.0.2") == std::string::npos) continue;
    EXPECT_THAT(line, HasSubstr(R"("auth": "")"));
  }
}

TEST_F(RegistryFault, SecretsAreInNoError) {
  std::string echoed = ResolveError("forbidden", login_);
  EXPECT_THAT(echoed, AllOf(HasSubstr("forbidden: denied"), HasSubstr("***")));
  EXPECT_THAT(echoed, Not(HasSubstr("dXNlcjpodW50ZXIyLXNlY3JldA")));
}

TEST_F(RegistryFault, TheSinksErrorIsPassedOnAsItIs) {
  auto resolved = Resolve("sound");
  ASSERT_TRUE(resolved);
  int calls = 0;
  auto full = client_->FetchBlob(
      Ref("sound"), resolved->parsed.layers[0], {}, 0,
      [&](std::string_view) -> Result<> {
        ++calls;
        return SysError(ENOSPC, "write 'blob'");
      },
      {});
  ASSERT_FALSE(full);
  EXPECT_EQ(full.error().sys_errno, ENOSPC);
  EXPECT_EQ(full.error().message, "write 'blob': No space left on device");
  EXPECT_EQ(calls, 1);
}

TEST_F(RegistryFault, ForeignBlobsAreNotFetched) {
  Descriptor blob;
  blob.digest = Sha256Digest("x");
  blob.size = 1;
  blob.urls = {"http://127.0.0.2:" + server_.port() + "/blob"};
  auto fetched = client_->FetchSmallBlob(Ref("sound"), blob, login_, 10, {});
  ASSERT_FALSE(fetched);
  EXPECT_EQ(fetched.error().code, Code::kUnimplemented);
  EXPECT_TRUE(server_.Log().empty());
}

}  // namespace
}  // namespace caisson::image
