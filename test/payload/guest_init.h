// SPDX-License-Identifier: Apache-2.0
//
// What the first process of a test's guest begins with: modules, and the port to the host.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

static ssize_t ReadFile(const char* path, char* out, size_t room) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return -1;
  ssize_t got = read(fd, out, room - 1);
  close(fd);
  out[got < 0 ? 0 : got] = 0;
  return got;
}

// How many there are.
static int LoadModules(void) {
  int modules = 0;
  FILE* list = fopen("/modules/list", "re");
  char path[256];
  while (list != NULL && fgets(path, sizeof path, list) != NULL) {
    path[strcspn(path, "\n")] = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || syscall(SYS_finit_module, fd, "", 0) != 0) printf("module %s: %s\n", path, strerror(errno));
    close(fd);
    ++modules;
  }
  return modules;
}

// The port's device by its name; udev would make a link (Documentation/driver-api, virtio-console).
static int OpenPort(void) {
  for (;;) {
    DIR* dir = opendir("/sys/class/virtio-ports");
    for (struct dirent* entry; dir != NULL && (entry = readdir(dir)) != NULL;) {
      char path[512], name[64];
      snprintf(path, sizeof path, "/sys/class/virtio-ports/%s/name", entry->d_name);
      if (ReadFile(path, name, sizeof name) <= 0 || strncmp(name, "caisson.agent.0", 15) != 0) continue;
      snprintf(path, sizeof path, "/dev/%s", entry->d_name);
      closedir(dir);
      return open(path, O_RDWR | O_CLOEXEC);
    }
    if (dir != NULL) closedir(dir);
    poll(NULL, 0, 1);
  }
}

static void MountAll(void) {
  setvbuf(stdout, NULL, _IOLBF, 0);
  mount("dev", "/dev", "devtmpfs", 0, "");
  mount("proc", "/proc", "proc", 0, "");
  mount("sys", "/sys", "sysfs", 0, "");
}
