// SPDX-License-Identifier: Apache-2.0
#include "cri/pod_index.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>

namespace caisson::cri {

std::string PodName(const runtime::v1::PodSandboxMetadata& metadata) {
  return fmt::format("{}_{}_{}_{}", metadata.name(), metadata.namespace_(), metadata.uid(), metadata.attempt());
}

bool MatchesLabels(const google::protobuf::Map<std::string, std::string>& labels,
                   const google::protobuf::Map<std::string, std::string>& selector) {
  for (const auto& [key, value] : selector) {
    auto at = labels.find(key);
    if (at == labels.end() || at->second != value) return false;
  }
  return true;
}

bool Matches(const PodRecord& pod, const runtime::v1::PodSandboxFilter& filter) {
  // An id may be cut short (crictl shows 13 characters).
  if (!filter.id().empty() && !pod.id().starts_with(filter.id())) return false;
  if (filter.has_state() && pod.state() != filter.state().state()) return false;
  return MatchesLabels(pod.config().labels(), filter.label_selector());
}

bool HostNetwork(const PodRecord& pod) {
  return pod.config().linux().security_context().namespace_options().network() == runtime::v1::NODE;
}

std::string Fingerprint(const google::protobuf::Message& message) {
  std::string bytes;
  {
    google::protobuf::io::StringOutputStream stream(&bytes);
    google::protobuf::io::CodedOutputStream coded(&stream);
    // Maps in the order of their keys.
    coded.SetSerializationDeterministic(true);
    message.SerializeToCodedStream(&coded);
  }
  return bytes;
}

}  // namespace caisson::cri
