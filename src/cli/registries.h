// SPDX-License-Identifier: Apache-2.0
//
// Registries as other runtimes configure them, as the tree of <registry>/hosts.toml that caissond reads (images.certs_dir), for
// `caisson migrate`. Pure but for the Read functions.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "cli/settings.h"

namespace caisson::cli {

struct RegistryTls {
  bool skip_verify = false;
  std::vector<std::string> ca;  // paths of files, as all others here
  std::vector<std::pair<std::string, std::string>> client;  // certificate, key
};

struct RegistryEndpoint {
  std::string url;             // "https://mirror.example", or with the whole path of the API: "https://mirror.example/v2/project"
  bool digests_only = false;   // it is not asked what a tag means
  RegistryTls tls;
};

struct Registry {
  std::string server;          // a URL as of an endpoint; empty: as the registry's name says
  RegistryTls tls;             // the server's
  bool blocked = false;        // nothing may come from it
  std::vector<RegistryEndpoint> mirrors;
};

// By name ("docker.io", "localhost:5000"; "_default": all others).
using Registries = std::map<std::string, Registry>;

std::string HostsToml(const Registry& registry);

// containerd's registry.mirrors and registry.configs (docs/cri/registry.md of its releases 1.x), given without the CRI's table in their
// paths. What has no counterpart is added to `notes`; credentials are named there, not shown.
Registries ContainerdRegistries(const std::vector<Setting>& settings, std::vector<std::string>* notes);

// Of containers-registries.conf(5), version 2, and of CRI-O's list of insecure registries. Later ones replace earlier ones of a name.
// kInvalidArgument: `text` is no TOML; it names `origin` and the line.
Result<> AddContainersRegistries(std::string_view text, const std::string& origin, Registries* registries, std::vector<std::string>* notes);
void AddInsecureRegistries(const std::vector<std::string>& names, Registries* registries, std::vector<std::string>* notes);

// `path` (registries.conf) and the files of `<path>.d`; none need be there.
Result<Registries> ReadContainersRegistries(const std::string& path, std::vector<std::string>* notes);
// Certificates as containers-certs.d(5) has them: <folder>/<registry>/*.crt, *.cert with *.key. They are added where a registry or a mirror
// has none. The folder need not be there.
void AddCertificates(const std::string& folder, Registries* registries);

}  // namespace caisson::cli
