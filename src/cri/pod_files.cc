// SPDX-License-Identifier: Apache-2.0
#include "cri/pod_files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "base/limits.h"
#include "base/unique_fd.h"
#include "cri/user_namespace.h"
#include "sys/path.h"

namespace caisson::cri {
namespace {

// `owner`: on the host, of the pod's root.
Result<> WriteFile(const std::string& path, const std::string& text, const HostIds& owner) {
  // Containers read them, whatever user they run as.
  UniqueFd fd(open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0644));
  if (!fd || fchmod(fd.get(), 0644) != 0 || fchown(fd.get(), owner.uid, owner.gid) != 0) return ErrnoError("create '{}'", path);
  if (write(fd.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size())) return ErrnoError("write '{}'", path);
  return {};
}

Result<> AppendEntry(const std::string& entry, std::string* line) {
  for (char c : entry) {
    if (static_cast<unsigned char>(c) <= ' ' || c == 0x7f) return MakeError(Code::kInvalidArgument, "DNS entry '{}' has white space or control characters", entry.substr(0, 64));
  }
  *line += " " + entry;
  return {};
}

std::string HostFile(const char* path) {
  auto text = sys::ReadFile(path, limits::kConfigFileBytes);
  return text ? *text : "";
}

}  // namespace

Result<std::string> FormatResolvConf(const runtime::v1::DNSConfig& dns) {
  std::string text;
  if (dns.searches_size() > 0) {
    text += "search";
    for (const auto& search : dns.searches()) TRY(AppendEntry(search, &text));
    text += "\n";
  }
  for (const auto& server : dns.servers()) {
    text += "nameserver";
    TRY(AppendEntry(server, &text));
    text += "\n";
  }
  if (dns.options_size() > 0) {
    text += "options";
    for (const auto& option : dns.options()) TRY(AppendEntry(option, &text));
    text += "\n";
  }
  return text;
}

Result<> WritePodFiles(const std::string& dir, const runtime::v1::PodSandboxConfig& pod) {
  std::string resolv = TRY(FormatResolvConf(pod.dns_config()));
  if (resolv.empty()) resolv = HostFile("/etc/resolv.conf");
  HostIds root = HostIdsOf(pod, 0, 0);
  TRY(WriteFile(dir + "/resolv.conf", resolv, root));
  std::string hostname = pod.hostname();
  if (hostname.empty()) {
    utsname name{};
    uname(&name);
    hostname = name.nodename;
  }
  TRY(WriteFile(dir + "/hostname", hostname + "\n", root));
  return WriteFile(dir + "/hosts", HostFile("/etc/hosts"), root);
}

}  // namespace caisson::cri
