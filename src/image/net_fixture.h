// SPDX-License-Identifier: Apache-2.0
//
// For tests only: servers on loopback that a test starts and that end with it: Debian's docker-registry, and the one
// that misbehaves (test/fault/registry_fault.py).
#pragma once

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <curl/curl.h>
#include <gtest/gtest.h>

#include "base/clock.h"
#include "base/strings.h"
#include "base/unique_fd.h"
#include "image/digest.h"
#include "image/manifest.h"
#include "image/registry.h"

namespace caisson::image {

class TempFolder {
 public:
  TempFolder() {
    char name[] = "/tmp/caisson-image-net-XXXXXX";
    if (mkdtemp(name) == nullptr) ADD_FAILURE() << "mkdtemp: " << strerror(errno);
    path_ = name;
  }
  ~TempFolder() { std::filesystem::remove_all(path_); }
  const std::string& path() const { return path_; }
  std::string Write(const std::string& name, const std::string& text) const {
    std::string file = path_ + "/" + name;
    std::filesystem::create_directories(std::filesystem::path(file).parent_path());
    std::ofstream(file) << text;
    return file;
  }

 private:
  std::string path_;
};

// A program with pipes at its stdin and (stdout and stderr); killed and reaped by the destructor.
class Program {
 public:
  explicit Program(const std::vector<std::string>& command) {
    int in[2], out[2];
    if (pipe2(in, O_CLOEXEC) != 0 || pipe2(out, O_CLOEXEC) != 0) return;
    stdin_.Reset(in[1]);
    output_.Reset(out[0]);
    UniqueFd child_in(in[0]), child_out(out[1]);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, child_in.get(), 0);
    posix_spawn_file_actions_adddup2(&actions, child_out.get(), 1);
    posix_spawn_file_actions_adddup2(&actions, child_out.get(), 2);
    std::vector<char*> argv;
    for (const std::string& word : command) argv.push_back(const_cast<char*>(word.c_str()));
    argv.push_back(nullptr);
    if (posix_spawnp(&pid_, argv[0], &actions, nullptr, argv.data(), environ) != 0) pid_ = -1;
    posix_spawn_file_actions_destroy(&actions);
  }
  ~Program() {
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  // Reads until a line holds `mark`; the line, or "" when the program ended or 20 s have passed.
  std::string WaitForLine(const std::string& mark) {
    Deadline deadline = Deadline::After(20'000);
    for (;;) {
      size_t end;
      while ((end = text_.find('\n')) != std::string::npos) {
        std::string line = text_.substr(0, end);
        text_.erase(0, end + 1);
        if (line.find(mark) != std::string::npos) return line;
      }
      pollfd ready{output_.get(), POLLIN, 0};
      if (poll(&ready, 1, deadline.RemainingMillis()) <= 0) return "";
      char buffer[4096];
      ssize_t n = read(output_.get(), buffer, sizeof buffer);
      if (n <= 0) return "";
      text_.append(buffer, static_cast<size_t>(n));
    }
  }

 private:
  pid_t pid_ = -1;
  UniqueFd stdin_, output_;
  std::string text_;
};

inline bool RunToEnd(const std::vector<std::string>& command) {
  std::vector<char*> argv;
  for (const std::string& word : command) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  pid_t pid = -1;
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0);
  int failed = posix_spawnp(&pid, argv[0], &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  int status = -1;
  return failed == 0 && waitpid(pid, &status, 0) == pid && status == 0;
}

// One HTTP request by the test itself, around everything that is tested. -1 if there was no answer.
struct PlainAnswer {
  long status = -1;
  std::string body, location;
};
inline PlainAnswer PlainHttp(const std::string& method, const std::string& url, const std::string& body = "",
                             const std::string& type = "", const std::string& login = "", const std::string& ca = "") {
  PlainAnswer answer;
  std::unique_ptr<CURL, decltype(&curl_easy_cleanup)> easy(curl_easy_init(), &curl_easy_cleanup);
  auto append = +[](char* data, size_t, size_t size, void* out) -> size_t {
    static_cast<std::string*>(out)->append(data, size);
    return size;
  };
  curl_slist* headers = curl_slist_append(nullptr, ("Content-Type: " + type).c_str());
  curl_easy_setopt(easy.get(), CURLOPT_URL, url.c_str());
  curl_easy_setopt(easy.get(), CURLOPT_CUSTOMREQUEST, method.c_str());
  curl_easy_setopt(easy.get(), CURLOPT_PROXY, "");
  curl_easy_setopt(easy.get(), CURLOPT_HTTPHEADER, headers);
  if (method != "GET") {
    curl_easy_setopt(easy.get(), CURLOPT_POSTFIELDSIZE_LARGE, static_cast<curl_off_t>(body.size()));
    curl_easy_setopt(easy.get(), CURLOPT_POSTFIELDS, body.data());
  }
  if (!login.empty()) curl_easy_setopt(easy.get(), CURLOPT_USERPWD, login.c_str());
  if (!ca.empty()) curl_easy_setopt(easy.get(), CURLOPT_CAINFO, ca.c_str());
  curl_easy_setopt(easy.get(), CURLOPT_WRITEFUNCTION, append);
  curl_easy_setopt(easy.get(), CURLOPT_WRITEDATA, &answer.body);
  if (curl_easy_perform(easy.get()) == CURLE_OK) {
    curl_easy_getinfo(easy.get(), CURLINFO_RESPONSE_CODE, &answer.status);
    curl_header* location = nullptr;
    if (curl_easy_header(easy.get(), "Location", 0, CURLH_HEADER, -1, &location) == CURLHE_OK) {
      answer.location = location->value;
    }
  }
  curl_slist_free_all(headers);
  return answer;
}

inline std::string DescriptorOf(const std::string& bytes, std::string_view type, std::string_view more = "") {
  return fmt::format(R"({{"mediaType":"{}","digest":"{}","size":{}{}}})", type, Sha256Digest(bytes), bytes.size(),
                     more);
}

// Debian's docker-registry on a free port of 127.0.0.1.
class RealRegistry {
 public:
  struct Setup {
    std::string login;          // "user:password" for basic auth, or empty
    std::string certificate, key;  // for TLS, or empty
  };
  RealRegistry() : RealRegistry(Setup{}) {}
  explicit RealRegistry(const Setup& setup) : setup_(setup) {
    std::string config = "version: 0.1\nlog: {level: info}\nstorage: {filesystem: {rootdirectory: " + folder_.path() +
                         "/data}}\nhttp:\n  addr: 127.0.0.1:0\n";
    if (!setup.certificate.empty()) {
      config += "  tls: {certificate: " + setup.certificate + ", key: " + setup.key + "}\n";
    }
    if (!setup.login.empty()) {
      std::string file = folder_.path() + "/htpasswd";
      size_t colon = setup.login.find(':');
      EXPECT_TRUE(RunToEnd({"htpasswd", "-Bbc", "-C", "4", file, setup.login.substr(0, colon),
                            setup.login.substr(colon + 1)}));
      config += "auth: {htpasswd: {realm: test, path: " + file + "}}\n";
    }
    program_.emplace(std::vector<std::string>{"docker-registry", "serve", folder_.Write("config.yml", config)});
    std::string line = program_->WaitForLine("listening on ");
    size_t colon = line.rfind("127.0.0.1:");
    if (colon == std::string::npos) return;
    port_ = line.substr(colon + 10, line.find_first_not_of("0123456789", colon + 10) - colon - 10);
  }

  static bool Installed() { return access("/usr/bin/docker-registry", X_OK) == 0; }
  bool up() const { return !port_.empty(); }
  std::string domain() const { return "127.0.0.1:" + port_; }
  std::string url() const { return (setup_.certificate.empty() ? "http://" : "https://") + domain(); }

  void PushBlob(const std::string& repo, const std::string& bytes, const std::string& ca = "") {
    PlainAnswer begun = PlainHttp("POST", url() + "/v2/" + repo + "/blobs/uploads/", "", "", setup_.login, ca);
    ASSERT_EQ(begun.status, 202) << begun.body;
    std::string location = begun.location + (begun.location.find('?') == std::string::npos ? "?" : "&");
    PlainAnswer put = PlainHttp("PUT", location + "digest=" + Sha256Digest(bytes), bytes, "application/octet-stream",
                                setup_.login, ca);
    ASSERT_EQ(put.status, 201) << put.body;
  }
  void PushManifest(const std::string& repo, const std::string& name, const std::string& bytes, std::string_view type,
                    const std::string& ca = "") {
    PlainAnswer put = PlainHttp("PUT", url() + "/v2/" + repo + "/manifests/" + name, bytes, std::string(type),
                                setup_.login, ca);
    ASSERT_EQ(put.status, 201) << put.body;
  }
  // An image of one layer; returns the manifest's bytes.
  std::string PushImage(const std::string& repo, const std::string& tag, const std::string& layer,
                        const std::string& ca = "") {
    std::string config = R"({"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":[")" +
                         Sha256Digest(layer) + R"("]}})";
    std::string manifest =
        fmt::format(R"({{"schemaVersion":2,"mediaType":"{}","config":{},"layers":[{}]}})", kOciManifest,
                    DescriptorOf(config, kOciConfig), DescriptorOf(layer, "application/vnd.oci.image.layer.v1.tar"));
    PushBlob(repo, config, ca);
    PushBlob(repo, layer, ca);
    PushManifest(repo, tag, manifest, kOciManifest, ca);
    return manifest;
  }

 private:
  Setup setup_;
  TempFolder folder_;
  std::string port_;
  std::optional<Program> program_;
};

class FaultRegistry {
 public:
  FaultRegistry() : program_({"python3", CAISSON_SOURCE_DIR "/test/fault/registry_fault.py"}) {
    port_ = std::string(Trim(program_.WaitForLine("")));
  }
  bool up() const { return ParseUint64(port_).has_value(); }
  const std::string& port() const { return port_; }
  std::string domain() const { return "127.0.0.1:" + port_; }
  // What was asked so far: one JSON object a line.
  std::vector<std::string> Log() const {
    std::vector<std::string> lines;
    const std::string body = PlainHttp("GET", "http://" + domain() + "/log").body;
    for (std::string_view line : Split(body, '\n')) {
      if (!line.empty()) lines.emplace_back(line);
    }
    return lines;
  }

 private:
  Program program_;
  std::string port_;
};

}  // namespace caisson::image
