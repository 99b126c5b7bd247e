// SPDX-License-Identifier: Apache-2.0
// The streaming server alone, for clients that are other programs. Each line of its input asks for a URL:
//   exec|attach CONTAINER FLAGS ARG...   flags of t, i, o, e; "-" for none
//   forward POD PORT...
// and is answered by one. "running" is answered by the number of processes that were not ended, "connections" likewise.
// "resized" by the last terminal size.
#include <iostream>
#include <sstream>

#include "local_backend.h"

int main(int argc, char** argv) {
  using namespace caisson::stream;
  testing::LocalBackend backend;
  ServerOptions options;
  if (argc == 3) {
    options.tls_certificate = argv[1];
    options.tls_key = argv[2];
  }
  auto server = Server::Start(options, backend);
  if (!server) {
    std::cerr << server.error().message << "\n";
    return 1;
  }
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream words(line);
    std::string verb, id, word;
    words >> verb >> id;
    if (verb == "running") {
      std::cout << backend.running << std::endl;
    } else if (verb == "connections") {
      std::cout << (*server)->connections() << std::endl;
    } else if (verb == "resized") {
      std::cout << backend.width << "x" << backend.height << std::endl;
    } else if (verb == "forward") {
      PortForwardTarget target{id, {}};
      for (int port; words >> port;) target.ports.push_back(static_cast<uint16_t>(port));
      auto url = (*server)->PortForwardUrl(target);
      std::cout << (url ? *url : url.error().message) << std::endl;
    } else {
      ExecTarget target;
      target.container_id = id;
      words >> word;
      for (char flag : word) {
        target.tty |= flag == 't';
        target.in |= flag == 'i';
        target.out |= flag == 'o';
        target.err |= flag == 'e';
      }
      while (words >> word) target.args.push_back(word);
      auto url = verb == "exec" ? (*server)->ExecUrl(target) : (*server)->AttachUrl(target);
      std::cout << (url ? *url : url.error().message) << std::endl;
    }
  }
}
