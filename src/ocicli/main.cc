// SPDX-License-Identifier: Apache-2.0
//
// caisson-oci: an OCI runtime's command line. containerd, Docker, CRI-O and podman run it several times for each container,
// so it is small and static; `caisson oci` executes it.
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "ocicli/command.h"
#include "sys/sealed_program.h"

int main(int argc, char** argv) {
  // Of commands that make one, a container's process is a copy of this one for a moment (sys/sealed_program.h). Without privileges there is no sealed
  // mount, and no file of the host's that the container's root could write to and its user could not.
  bool makes_processes = std::any_of(argv + 1, argv + argc, [](const char* word) {
    return std::strcmp(word, "create") == 0 || std::strcmp(word, "run") == 0 || std::strcmp(word, "exec") == 0;
  });
  caisson::Result<> sealed;
  if (makes_processes) sealed = caisson::sys::RunSealed(argv);
  if (!sealed && geteuid() == 0 && sealed.error().code != caisson::Code::kPermissionDenied) {
    caisson::ocicli::Report().Error(sealed.error().message);
    return 1;
  }
  signal(SIGPIPE, SIG_IGN);
  prctl(PR_SET_NAME, "caisson-oci", 0, 0, 0);
  return caisson::ocicli::Main(std::vector<std::string>(argv + 1, argv + argc));
}
