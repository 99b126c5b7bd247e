// SPDX-License-Identifier: Apache-2.0
//
// What the subcommands share: global options, and finding pods and containers by what a user types. Each subcommand is
// one file with one function that adds it to the parser.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "base/result.h"
#include "cli/client.h"
#include "cli/output.h"

namespace caisson::cli {

struct Command {
  std::string socket;
  std::string output = "table";  // or "json"
  int exit_code = 0;

  bool json() const { return output == "json"; }
  Client& client() {
    if (!client_) client_ = std::make_unique<Client>(socket);
    return *client_;
  }
  // Runs `work` (a function returning Result<>) and turns its error into a line on stderr and an exit status of 1.
  template <class Work>
  void Run(Work work) {
    Result<> result = work();
    if (!result) Fail(result.error());
  }
  void Fail(const Error& error);
  // Adds -o/--output to a subcommand.
  void AddOutput(CLI::App* app);

 private:
  std::unique_ptr<Client> client_;
};

// A pod by id, unambiguous prefix of one, or name ("name" or "namespace/name").
Result<runtime::v1::PodSandbox> FindPod(Client& client, const std::string& what);
// A container by id, unambiguous prefix of one, or name ("name", "pod/name"), the newest if several attempts share it;
// or, if nothing of that kind fits, the only container of the pod that `what` names.
Result<runtime::v1::Container> FindContainer(Client& client, const std::string& what);

void AddRun(CLI::App& app, Command& command);
void AddPods(CLI::App& app, Command& command);
void AddPs(CLI::App& app, Command& command);
void AddLogs(CLI::App& app, Command& command);
void AddExec(CLI::App& app, Command& command);
void AddConsole(CLI::App& app, Command& command);
void AddAttach(CLI::App& app, Command& command);
void AddPortForward(CLI::App& app, Command& command);
void AddStop(CLI::App& app, Command& command);
void AddRm(CLI::App& app, Command& command);
void AddPull(CLI::App& app, Command& command);
void AddImages(CLI::App& app, Command& command);
void AddRmi(CLI::App& app, Command& command);
void AddImport(CLI::App& app, Command& command);
void AddInspect(CLI::App& app, Command& command);
void AddStats(CLI::App& app, Command& command);
void AddTemplate(CLI::App& app, Command& command);
void AddExplain(CLI::App& app, Command& command);
void AddDoctor(CLI::App& app, Command& command);
void AddConfig(CLI::App& app, Command& command);
void AddMigrate(CLI::App& app, Command& command);
void AddVersion(CLI::App& app, Command& command);
void AddCompletion(CLI::App& app, Command& command);
void AddOci(CLI::App& app, Command& command);

// Shared by `pull` and `run`: pulls with progress on stderr and returns the image's id.
Result<std::string> PullWithProgress(Client& client, const std::string& image, bool quiet);

}  // namespace caisson::cli
