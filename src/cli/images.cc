// SPDX-License-Identifier: Apache-2.0
#include "cli/command.h"

namespace caisson::cli {

using runtime::v1::ImageService;

void AddImages(CLI::App& app, Command& command) {
  CLI::App* sub = app.add_subcommand("images", "List images");
  command.AddOutput(sub);
  sub->callback([&command] {
    command.Run([&]() -> Result<> {
      Client& client = command.client();
      auto list = TRY(client.Call(client.images(), &ImageService::Stub::ListImages, runtime::v1::ListImagesRequest()));
      if (command.json()) {
        Print(ToJson(list));
        return {};
      }
      std::vector<std::vector<std::string>> rows = {{"IMAGE", "ID", "SIZE"}};
      for (const auto& image : list.images()) {
        std::vector<std::string> names(image.repo_tags().begin(), image.repo_tags().end());
        if (names.empty()) names.assign(image.repo_digests().begin(), image.repo_digests().end());
        if (names.empty()) names.emplace_back("<none>");
        for (const auto& name : names) rows.push_back({name, ShortId(image.id()), FormatBytes(image.size())});
      }
      Print(FormatTable(rows));
      return {};
    });
  });
}

}  // namespace caisson::cli
