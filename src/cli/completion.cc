// SPDX-License-Identifier: Apache-2.0
#include <memory>

#include "cli/command.h"

namespace caisson::cli {
namespace {

std::vector<const CLI::App*> Subcommands(const CLI::App& app) {
  return app.get_subcommands([](const CLI::App* sub) { return !sub->get_name().empty(); });
}

std::string Words(const CLI::App& app) {
  std::string words;
  for (const CLI::App* sub : Subcommands(app)) words += (words.empty() ? "" : " ") + sub->get_name();
  return words;
}

std::string Options(const CLI::App& app) {
  std::string words;
  for (const CLI::Option* option : app.get_options()) {
    for (const auto& name : option->get_lnames()) words += (words.empty() ? "--" : " --") + name;
    for (const auto& name : option->get_snames()) words += (words.empty() ? "-" : " -") + name;
  }
  return words;
}

std::string Bash(const CLI::App& app) {
  std::string text = "_caisson() {\n  local word=${COMP_WORDS[COMP_CWORD]} words\n  case ${COMP_WORDS[1]} in\n";
  for (const CLI::App* sub : Subcommands(app)) {
    text += fmt::format("    {}) words='{}' ;;\n", sub->get_name(), Options(*sub));
  }
  text += fmt::format("    *) words='{}' ;;\n  esac\n", Words(app));
  text += "  COMPREPLY=($(compgen -W \"$words\" -- \"$word\"))\n}\ncomplete -o default -F _caisson caisson\n";
  return text;
}

std::string Zsh(const CLI::App& app) { return "autoload -U +X bashcompinit && bashcompinit\n" + Bash(app); }

std::string Fish(const CLI::App& app) {
  std::string text;
  for (const CLI::App* sub : Subcommands(app)) {
    text += fmt::format("complete -c caisson -n __fish_use_subcommand -a {} -d '{}'\n", sub->get_name(), sub->get_description());
    for (const CLI::Option* option : sub->get_options()) {
      for (const auto& name : option->get_lnames()) {
        text += fmt::format("complete -c caisson -n '__fish_seen_subcommand_from {}' -l {}\n", sub->get_name(), name);
      }
    }
  }
  return text;
}

}  // namespace

void AddCompletion(CLI::App& app, Command&) {
  CLI::App* sub = app.add_subcommand("completion", "Print a completion script: source <(caisson completion bash)");
  auto shell = std::make_shared<std::string>();
  sub->add_option("SHELL", *shell, "bash, zsh or fish")->required()->check(CLI::IsMember({"bash", "zsh", "fish"}));
  sub->callback([&app, shell] { Print(*shell == "bash" ? Bash(app) : *shell == "zsh" ? Zsh(app) : Fish(app)); });
}

}  // namespace caisson::cli
