// SPDX-License-Identifier: Apache-2.0
//
// The registry client against Debian's docker-registry: plain HTTP, basic auth, TLS, mirrors.
#include "image/registry.h"

#include <atomic>
#include <thread>

#include <gmock/gmock.h>

#include "image/docker_config.h"
#include "image/image_config.h"
#include "image/net_fixture.h"

namespace caisson::image {
namespace {

using testing::HasSubstr;
using testing::Not;

const Platform kAmd64{"linux", "amd64", "", "", {}};

std::string Bytes(size_t size) {
  std::string out;
  for (uint32_t x = 1; out.size() < size; x = x * 1664525 + 1013904223) out.push_back(static_cast<char>(x >> 24));
  return out;
}

class RegistryTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!RealRegistry::Installed()) GTEST_SKIP() << "docker-registry is not installed";
  }
  std::unique_ptr<Registry> Client(RegistryOptions options = {}) {
    options.first_backoff_millis = 1;
    return std::move(Registry::Create(std::move(options)).value());
  }
  static Reference Ref(const std::string& text) { return ParseReference(text).value(); }
  Result<std::string> Blob(Registry& client, const Reference& reference, const Descriptor& blob, uint64_t offset = 0,
                           const std::optional<Credentials>& credentials = {}) {
    std::string got;
    auto done = client.FetchBlob(
        reference, blob, credentials, offset,
        [&](std::string_view chunk) -> Result<> {
          got += chunk;
          return {};
        },
        {});
    if (!done) return std::move(done.error());
    return got;
  }
  TempFolder folder_;
};

TEST_F(RegistryTest, ResolvesAndFetches) {
  RealRegistry registry;
  ASSERT_TRUE(registry.up());
  std::string layer = Bytes(3 << 20);
  std::string manifest = registry.PushImage("library/app", "v1", layer);
  auto client = Client();
  Reference reference = Ref(registry.domain() + "/library/app:v1");
  auto resolved = client->Resolve(reference, {}, kAmd64, {});
  ASSERT_TRUE(resolved) << resolved.error().message;
  EXPECT_EQ(resolved->root_bytes, manifest);
  EXPECT_EQ(resolved->root.digest, Sha256Digest(manifest));
  EXPECT_EQ(resolved->manifest.digest, resolved->root.digest);
  EXPECT_EQ(client->ResolveDigest(reference, {}, {}).value(), resolved->root.digest);
  ASSERT_EQ(resolved->parsed.layers.size(), 1u);
  EXPECT_EQ(Blob(*client, reference, resolved->parsed.layers[0]).value(), layer);
  EXPECT_EQ(Blob(*client, reference, resolved->parsed.layers[0], 1 << 20).value(), layer.substr(1 << 20));
  EXPECT_EQ(Blob(*client, reference, resolved->parsed.layers[0], layer.size()).value(), "");
  auto config = client->FetchSmallBlob(reference, resolved->parsed.config, {}, 1 << 20, {});
  ASSERT_TRUE(config);
  EXPECT_TRUE(ParseImageConfig(*config));
  // By digest, whatever the tag says.
  Reference by_digest = Ref(registry.domain() + "/library/app:gone@" + resolved->root.digest);
  EXPECT_TRUE(client->Resolve(by_digest, {}, kAmd64, {}));
}

TEST_F(RegistryTest, GoesOnAfterAHostWhereNobodyAnswers) {
  RealRegistry registry;
  ASSERT_TRUE(registry.up());
  std::string layer = Bytes(1 << 20);
  registry.PushImage("library/app", "v1", layer);
  auto client = Client();
  Reference reference = Ref(registry.domain() + "/library/app:v1");
  // What served the failed transfer serves the next ones. The second name never resolves (RFC 6761).
  for (const char* host : {"127.0.0.1:1", "nosuchhost.invalid"}) {
    auto refused = client->Resolve(Ref(std::string(host) + "/x:v1"), {}, kAmd64, {});
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, Code::kUnavailable) << refused.error().message;
    auto resolved = client->Resolve(reference, {}, kAmd64, {});
    ASSERT_TRUE(resolved) << resolved.error().message;
    EXPECT_EQ(Blob(*client, reference, resolved->parsed.layers[0]).value(), layer);
  }
}

TEST_F(RegistryTest, FollowsAnIndexToThePlatform) {
  RealRegistry registry;
  ASSERT_TRUE(registry.up());
  std::string amd = registry.PushImage("multi", "amd", Bytes(1000));
  std::string arm = registry.PushImage("multi", "arm", Bytes(2000));
  std::string index = fmt::format(
      R"({{"schemaVersion":2,"mediaType":"{}","manifests":[{},{}]}})", kOciIndex,
      DescriptorOf(arm, kOciManifest, R"(,"platform":{"os":"linux","architecture":"arm64"})"),
      DescriptorOf(amd, kOciManifest, R"(,"platform":{"os":"linux","architecture":"amd64"})"));
  registry.PushManifest("multi", "latest", index, kOciIndex);
  auto client = Client();
  auto resolved = client->Resolve(Ref(registry.domain() + "/multi"), {}, kAmd64, {});
  ASSERT_TRUE(resolved) << resolved.error().message;
  EXPECT_EQ(resolved->root.digest, Sha256Digest(index));
  EXPECT_EQ(resolved->root_bytes, index);
  EXPECT_EQ(resolved->manifest_bytes, amd);
  auto none = client->Resolve(Ref(registry.domain() + "/multi"), {}, {"linux", "s390x", "", "", {}}, {});
  ASSERT_FALSE(none);
  EXPECT_EQ(none.error().code, Code::kNotFound);
  EXPECT_THAT(none.error().message, HasSubstr("no variant for linux/s390x; it has: linux/amd64, linux/arm64"));
}

TEST_F(RegistryTest, ErrorsNameImageHostAndReason) {
  RealRegistry registry;
  ASSERT_TRUE(registry.up());
  auto client = Client();
  auto missing = client->Resolve(Ref(registry.domain() + "/nothing:here"), {}, kAmd64, {});
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().code, Code::kNotFound);
  EXPECT_THAT(missing.error().message, HasSubstr("image '" + registry.domain() + "/nothing:here'"));
  EXPECT_THAT(missing.error().message, HasSubstr("not found: manifest unknown"));
  auto digest = client->ResolveDigest(Ref(registry.domain() + "/nothing:here"), {}, {});
  ASSERT_FALSE(digest);
  EXPECT_EQ(digest.error().code, Code::kNotFound);
  Descriptor blob;
  blob.digest = Sha256Digest("nowhere");
  blob.size = 7;
  auto no_blob = Blob(*client, Ref(registry.domain() + "/nothing:here"), blob);
  ASSERT_FALSE(no_blob);
  EXPECT_EQ(no_blob.error().code, Code::kNotFound);
  EXPECT_THAT(no_blob.error().message, HasSubstr(blob.digest));
  auto refused = client->Resolve(Ref("127.0.0.1:1/app"), {}, kAmd64, {});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Code::kUnavailable);
  EXPECT_THAT(refused.error().message, HasSubstr("http://127.0.0.1:1: connect: Connection refused"));
}

TEST_F(RegistryTest, BasicAuthFromTheCriAndFromDockersConfig) {
  RealRegistry registry({.login = "user:s3cr3t-pass", .certificate = {}, .key = {}});
  ASSERT_TRUE(registry.up());
  registry.PushImage("private", "latest", Bytes(100'000));
  Reference reference = Ref(registry.domain() + "/private");
  auto client = Client();
  auto anonymous = client->Resolve(reference, {}, kAmd64, {});
  ASSERT_FALSE(anonymous);
  EXPECT_EQ(anonymous.error().code, Code::kUnauthenticated);
  EXPECT_THAT(anonymous.error().message, HasSubstr("there are no credentials for it"));
  Credentials wrong;
  wrong.username = "user", wrong.password = "wr0ng-pass";
  auto refused = client->Resolve(reference, wrong, kAmd64, {});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, Code::kUnauthenticated);
  EXPECT_THAT(refused.error().message, HasSubstr("the credentials are refused"));
  EXPECT_THAT(refused.error().message, Not(HasSubstr("wr0ng-pass")));
  Credentials right;
  right.auth = Base64("user:s3cr3t-pass");
  auto resolved = client->Resolve(reference, right, kAmd64, {});
  ASSERT_TRUE(resolved) << resolved.error().message;
  EXPECT_TRUE(Blob(*client, reference, resolved->parsed.layers[0], 0, right));
  // One caller's login is not another's, in the same process.
  EXPECT_FALSE(client->Resolve(reference, {}, kAmd64, {}));
  EXPECT_FALSE(client->Resolve(reference, wrong, kAmd64, {}));
  right.server_address = "https://elsewhere.example.com";
  auto elsewhere = client->Resolve(reference, right, kAmd64, {});
  ASSERT_FALSE(elsewhere);
  EXPECT_THAT(elsewhere.error().message, HasSubstr("are for 'elsewhere.example.com'"));

  RegistryOptions options;
  options.docker_config = folder_.Write("config.json", fmt::format(R"({{"auths":{{"{}":{{"auth":"{}"}}}}}})",
                                                                   registry.domain(), Base64("user:s3cr3t-pass")));
  EXPECT_TRUE(Client(options)->Resolve(reference, {}, kAmd64, {}));
}

TEST_F(RegistryTest, TlsOnlyWithTheRightCa) {
  std::string ca = folder_.path() + "/ca.pem", key = folder_.path() + "/key.pem";
  ASSERT_TRUE(RunToEnd({"openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
                        "-nodes", "-keyout", key, "-out", ca, "-days", "2", "-subj", "/CN=caisson test", "-addext",
                        "subjectAltName=IP:127.0.0.1"}));
  RealRegistry registry({.login = {}, .certificate = ca, .key = key});
  ASSERT_TRUE(registry.up());
  registry.PushImage("app", "latest", Bytes(100'000), ca);
  Reference reference = Ref(registry.domain() + "/app");
  RegistryOptions options;
  options.certs_dir = folder_.path() + "/certs.d";
  std::string hosts = "certs.d/" + registry.domain() + "/hosts.toml";
  // An unknown CA.
  folder_.Write(hosts, "server = \"" + registry.url() + "\"\n");
  auto untrusted = Client(options)->Resolve(reference, {}, kAmd64, {});
  ASSERT_FALSE(untrusted);
  EXPECT_EQ(untrusted.error().code, Code::kFailedPrecondition);
  EXPECT_THAT(untrusted.error().message, HasSubstr("certificate"));
  EXPECT_THAT(untrusted.error().message, HasSubstr("hosts.toml"));
  // The CA in hosts.toml; verification off; the certificate alone.
  folder_.Write(hosts, "server = \"" + registry.url() + "\"\nca = \"" + ca + "\"\n");
  auto trusted = Client(options)->Resolve(reference, {}, kAmd64, {});
  ASSERT_TRUE(trusted) << trusted.error().message;
  folder_.Write(hosts, "server = \"" + registry.url() + "\"\nskip_verify = true\n");
  EXPECT_TRUE(Client(options)->Resolve(reference, {}, kAmd64, {}));
  std::filesystem::remove(folder_.path() + "/" + hosts);
  std::filesystem::copy(ca, folder_.path() + "/certs.d/" + registry.domain() + "/ca.crt");
  EXPECT_TRUE(Client(options)->Resolve(reference, {}, kAmd64, {}));
  // Plain HTTP to a port that speaks TLS.
  auto plain = Client()->Resolve(reference, {}, kAmd64, {});
  ASSERT_FALSE(plain);
  EXPECT_THAT(plain.error().message, HasSubstr("it speaks TLS"));
}

TEST_F(RegistryTest, MirrorsComeFirstAndMayFail) {
  RealRegistry upstream, mirror;
  ASSERT_TRUE(upstream.up() && mirror.up());
  std::string layer = Bytes(50'000);
  upstream.PushImage("app", "latest", layer);
  RegistryOptions options;
  options.certs_dir = folder_.path();
  std::string hosts = upstream.domain() + "/hosts.toml";
  Reference reference = Ref(upstream.domain() + "/app");
  // The first is down, the second does not have it, the third is the registry.
  folder_.Write(hosts, "[host.\"http://127.0.0.1:1\"]\n[host.\"" + mirror.url() + "\"]\n");
  auto client = Client(options);
  auto resolved = client->Resolve(reference, {}, kAmd64, {});
  ASSERT_TRUE(resolved) << resolved.error().message;
  EXPECT_EQ(Blob(*client, reference, resolved->parsed.layers[0]).value(), layer);
  // What only the mirror has comes from there; hosts.toml is read anew without a restart.
  std::string other = mirror.PushImage("app", "other", Bytes(60'000));
  auto from_mirror = client->Resolve(Ref(upstream.domain() + "/app:other"), {}, kAmd64, {});
  ASSERT_TRUE(from_mirror) << from_mirror.error().message;
  EXPECT_EQ(from_mirror->root_bytes, other);
  auto nowhere = client->Resolve(Ref(upstream.domain() + "/app:nowhere"), {}, kAmd64, {});
  ASSERT_FALSE(nowhere);
  EXPECT_EQ(nowhere.error().code, Code::kNotFound);
  EXPECT_THAT(nowhere.error().message, HasSubstr("before that: http://127.0.0.1:1: connect"));
  folder_.Write(hosts, "capabilities = [\"pull\"]\n");
  auto cannot = client->Resolve(reference, {}, kAmd64, {});
  ASSERT_FALSE(cannot);
  EXPECT_EQ(cannot.error().code, Code::kFailedPrecondition);
  folder_.Write(hosts, "oops");
  EXPECT_THAT(client->Resolve(reference, {}, kAmd64, {}).error().message, HasSubstr("hosts.toml:1"));
}

TEST_F(RegistryTest, ParallelDownloads) {
  RealRegistry registry;
  ASSERT_TRUE(registry.up());
  std::string layer = Bytes(2 << 20);
  registry.PushImage("app", "latest", layer);
  auto client = Client();
  Reference reference = Ref(registry.domain() + "/app");
  auto resolved = client->Resolve(reference, {}, kAmd64, {});
  ASSERT_TRUE(resolved);
  std::atomic<int> good = 0;
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < 8; ++i) {
      threads.emplace_back([&] {
        for (int round = 0; round < 4; ++round) {
          auto bytes = Blob(*client, reference, resolved->parsed.layers[0]);
          if (bytes && *bytes == layer) ++good;
        }
      });
    }
  }
  EXPECT_EQ(good, 32);
  client->CloseIdleConnections();
  EXPECT_TRUE(Blob(*client, reference, resolved->parsed.layers[0]));
}

}  // namespace
}  // namespace caisson::image
