// SPDX-License-Identifier: Apache-2.0
#include "net/cni.h"

#include <algorithm>
#include <csignal>
#include <cstring>
#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "base/json.h"
#include "net/cni_result.h"
#include "net/conf_dir.h"
#include "net/plugin.h"
#include "net/plugin_input.h"

namespace caisson::net {
namespace {

constexpr size_t kStderrInMessage = 1024;
// STATUS is asked for whenever somebody looks at the node, GC before the daemon serves: neither may hang for long.
// CHECK keeps its pod's other operations waiting.
constexpr int64_t kStatusMillis = 5'000, kGcMillis = 10'000, kCheckMillis = 5'000;

// Error codes of the spec (1.1, "Error").
enum CniCode {
  kIncompatibleVersion = 1,
  kUnknownContainer = 3,
  kInvalidConfig = 7,
  kTryAgain = 11,
  kNotAvailable = 50,
  kLimitedConnectivity = 51
};

Code CodeOf(int cni_code) {
  switch (cni_code) {
    case kTryAgain:
    case kNotAvailable:
    case kLimitedConnectivity:
      return Code::kUnavailable;
    case kIncompatibleVersion:
    case kInvalidConfig:
      return Code::kFailedPrecondition;
    default:
      return Code::kInternal;
  }
}

// Spec: `container unknown` of a DEL says that there is nothing to clean up.
bool MeansGone(std::string_view command, int cni_code) { return command == "DEL" && cni_code == kUnknownContainer; }

// The n-th network's interface: the first has the attachment's own name.
Attachment ForNetwork(const Attachment& attachment, size_t n) {
  Attachment own = attachment;
  if (n > 0) own.if_name = fmt::format("eth{}", n);
  return own;
}

// One JSON text for several: itself if it is one, else an array.
std::string PackTexts(const std::vector<std::string>& texts) {
  if (texts.size() == 1) return texts.front();
  std::string packed = "[";
  for (const std::string& text : texts) packed += (packed.size() > 1 ? "," : "") + text;
  return packed + "]";
}

Result<std::vector<std::string>> UnpackTexts(const std::string& packed) {
  std::vector<std::string> texts;
  if (packed.empty()) return texts;
  if (packed.front() != '[') return std::vector<std::string>{packed};
  Json list = TRY(ParseJson(packed));
  for (const Json& entry : list) texts.push_back(DumpJson(entry));
  return texts;
}

class PluginCni final : public Cni {
 public:
  explicit PluginCni(Options options)
      : options_(std::move(options)), conf_dir_(options_.conf_dir, options_.max_conf_files) {}

  Result<> Ready() override;
  std::string NetworkName() override;
  Result<NetworkResult> Add(const Attachment& attachment) override;
  Result<> Del(const Attachment& attachment, const NetworkResult& added) override;
  Result<> Check(const Attachment& attachment, const NetworkResult& added) override;
  Result<> Status() override;
  Result<> Gc(const std::vector<Attachment>& valid) override;

 private:
  // A network that was used for an attachment, and the result of its ADD if it is known.
  struct Used {
    Conflist list;
    std::string prev_result;
  };
  Result<std::vector<Used>> UsedNetworks(const NetworkResult& added);

  Result<std::string> Run(std::string_view command, const Conflist& list, const PluginConf& plugin,
                          const PluginInput& input, const Deadline& deadline);
  Result<CniResult> AddNetwork(const Conflist& list, const Attachment& attachment, const Deadline& deadline);
  Result<> DelNetwork(const Conflist& list, const Attachment& attachment, std::string_view prev_result,
                      const Deadline& deadline);

  const Options options_;
  ConfDir conf_dir_;
};

// Runs one plugin; the error names plugin, command and network and carries the plugin's own words.
Result<std::string> PluginCni::Run(std::string_view command, const Conflist& list, const PluginConf& plugin,
                                   const PluginInput& input, const Deadline& deadline) {
  auto what = [&] { return fmt::format("CNI plugin '{}' ({} of network '{}')", plugin.type, command, list.name); };
  auto within = [&](Error error) { return std::move(error).Within(what()); };
  auto path = FindPlugin(plugin.type, options_.bin_dirs);
  if (!path) return std::move(path.error());
  auto text = MakeInput(list, plugin, input);
  if (!text) return within(std::move(text.error()));
  auto environment = MakeEnvironment(command, options_.bin_dirs, input.attachment);
  if (!environment) return within(std::move(environment.error()));
  auto output = RunPlugin(*path, *environment, *text, deadline);
  if (!output) return within(std::move(output.error()));
  if (output->exit_code == 0 && output->signal == 0) return std::move(output->out);

  if (CniError error; ParseCniError(output->out, &error)) {
    if (MeansGone(command, error.code)) return std::string();
    return MakeError(CodeOf(error.code), "{}: {} (code {})", what(), error.message, error.code);
  }
  std::string said = Printable(output->err, kStderrInMessage);
  std::string end = output->signal ? fmt::format("killed by signal {} ({})", output->signal, strsignal(output->signal))
                                   : fmt::format("exit code {} without a CNI error", output->exit_code);
  return MakeError(Code::kInternal, "{}: {}{}{}", what(), end, said.empty() ? "" : ": ", said);
}

Result<CniResult> PluginCni::AddNetwork(const Conflist& list, const Attachment& attachment, const Deadline& deadline) {
  CniResult result;
  for (const PluginConf& plugin : list.plugins) {
    std::string out = TRY(Run("ADD", list, plugin, {&attachment, result.json, nullptr}, deadline));
    auto parsed = ParseCniResult(out, list.version, attachment.if_name);
    if (!parsed) {
      return std::move(parsed.error())
          .Within(fmt::format("result of CNI plugin '{}' (ADD of network '{}')", plugin.type, list.name));
    }
    result = std::move(*parsed);
  }
  return result;
}

Result<> PluginCni::DelNetwork(const Conflist& list, const Attachment& attachment, std::string_view prev_result,
                               const Deadline& deadline) {
  // Spec 0.4.0 gave DEL its prevResult.
  if (!VersionAtLeast(list.version, "0.4.0")) prev_result = {};
  Result<> first;
  for (size_t left = list.plugins.size(); left > 0; --left) {
    // A plugin that hangs uses up its share only, so that those after it still release what they hold.
    Deadline share = Deadline::After(deadline.RemainingMillis() / static_cast<int64_t>(left));
    auto out = Run("DEL", list, list.plugins[left - 1], {&attachment, prev_result, nullptr}, share);
    if (!out && first) first = std::move(out.error());
  }
  return first;
}

Result<std::vector<PluginCni::Used>> PluginCni::UsedNetworks(const NetworkResult& added) {
  std::vector<Used> networks;
  auto results = TRY(UnpackTexts(added.raw_json));
  if (added.config_json.empty()) {
    ConfDir::Conflists lists = TRY(conf_dir_.Load());
    for (const Conflist& list : *lists) networks.push_back({list, ""});
  } else {
    std::vector<std::string> texts = TRY(UnpackTexts(added.config_json));
    for (const std::string& text : texts) {
      auto list = ParseConflist(text, ConfForm::kList);
      if (!list) return std::move(list.error()).Within("recorded network configuration");
      networks.push_back({std::move(*list), ""});
    }
  }
  for (size_t i = 0; i < networks.size() && i < results.size(); ++i) networks[i].prev_result = std::move(results[i]);
  return networks;
}

Result<> PluginCni::Ready() {
  ConfDir::Conflists lists = TRY(conf_dir_.Load());
  for (const Conflist& list : *lists) {
    for (const PluginConf& plugin : list.plugins) TRY(FindPlugin(plugin.type, options_.bin_dirs));
  }
  return {};
}

std::string PluginCni::NetworkName() {
  auto lists = conf_dir_.Load();
  return lists ? (*lists)->front().name : std::string();
}

Result<NetworkResult> PluginCni::Add(const Attachment& attachment) {
  auto lists = TRY(conf_dir_.Load());
  Deadline deadline = Deadline::After(options_.add_deadline_millis);
  std::vector<std::string> results, configs;
  NetworkResult all;
  for (size_t i = 0; i < lists->size(); ++i) {
    auto result = AddNetwork((*lists)[i], ForNetwork(attachment, i), deadline);
    if (!result) {
      Deadline undo = Deadline::After(options_.del_deadline_millis);
      for (size_t j = i + 1; j > 0; --j) {
        std::string_view prev = j - 1 < results.size() ? std::string_view(results[j - 1]) : std::string_view();
        auto undone = DelNetwork((*lists)[j - 1], ForNetwork(attachment, j - 1), prev, undo);
        if (!undone) result.error().message += "; its DEL failed too: " + undone.error().message;
      }
      return std::move(result.error());
    }
    if (i == 0) {
      all.ips = std::move(result->ips);
      all.mac = std::move(result->mac);
    }
    results.push_back(std::move(result->json));
    configs.push_back((*lists)[i].json);
  }
  all.raw_json = PackTexts(results);
  all.config_json = PackTexts(configs);
  return all;
}

Result<> PluginCni::Del(const Attachment& attachment, const NetworkResult& added) {
  auto networks = TRY(UsedNetworks(added));
  Deadline deadline = Deadline::After(options_.del_deadline_millis);
  Result<> first;
  for (size_t i = networks.size(); i > 0; --i) {
    const Used& used = networks[i - 1];
    auto done = DelNetwork(used.list, ForNetwork(attachment, i - 1), used.prev_result, deadline);
    if (!done && first) first = std::move(done);
  }
  return first;
}

Result<> PluginCni::Check(const Attachment& attachment, const NetworkResult& added) {
  auto networks = TRY(UsedNetworks(added));
  Deadline deadline = Deadline::After(std::min(options_.add_deadline_millis, kCheckMillis));
  for (size_t i = 0; i < networks.size(); ++i) {
    const auto& [list, prev_result] = networks[i];
    if (!VersionAtLeast(list.version, "0.4.0")) {
      return MakeError(Code::kUnimplemented, "network '{}' is of CNI {}, which has no CHECK", list.name, list.version);
    }
    if (list.disable_check) continue;
    if (prev_result.empty()) {
      return MakeError(Code::kFailedPrecondition, "no result of ADD is known of network '{}'", list.name);
    }
    Attachment own = ForNetwork(attachment, i);
    for (const PluginConf& plugin : list.plugins) {
      // Without limits it has made nothing that could be missing, and containernetworking-plugins 1.1 panics.
      if (plugin.type == "bandwidth" && !attachment.bandwidth_json) continue;
      TRY(Run("CHECK", list, plugin, {&own, prev_result, nullptr}, deadline));
    }
  }
  return {};
}

Result<> PluginCni::Status() {
  TRY(Ready());
  Deadline deadline = Deadline::After(std::min(options_.add_deadline_millis, kStatusMillis));
  ConfDir::Conflists lists = TRY(conf_dir_.Load());
  for (const Conflist& list : *lists) {
    if (!VersionAtLeast(list.version, "1.1.0")) continue;
    for (const PluginConf& plugin : list.plugins) TRY(Run("STATUS", list, plugin, {}, deadline));
  }
  return {};
}

Result<> PluginCni::Gc(const std::vector<Attachment>& valid) {
  Deadline deadline = Deadline::After(std::min(options_.del_deadline_millis, kGcMillis));
  auto lists = TRY(conf_dir_.Load());
  Result<> first;
  for (size_t i = 0; i < lists->size(); ++i) {
    const Conflist& list = (*lists)[i];
    if (!VersionAtLeast(list.version, "1.1.0") || list.disable_gc) continue;
    std::vector<Attachment> own;
    for (const Attachment& attachment : valid) own.push_back(ForNetwork(attachment, i));
    for (const PluginConf& plugin : list.plugins) {
      auto out = Run("GC", list, plugin, {nullptr, {}, &own}, deadline);
      if (!out && first) first = std::move(out.error());
    }
  }
  return first;
}

}  // namespace

Result<std::unique_ptr<Cni>> Cni::Create(Options options) {
  if (options.max_conf_files < 1 || options.bin_dirs.empty() || options.conf_dir.empty()) {
    return MakeError(Code::kInvalidArgument,
                     "CNI needs a configuration folder, a plugin folder and at least one network");
  }
  return std::unique_ptr<Cni>(std::make_unique<PluginCni>(std::move(options)));
}

}  // namespace caisson::net
