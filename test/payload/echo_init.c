// SPDX-License-Identifier: Apache-2.0
//
// PID 1 of the guest in which the VMM drivers' contract test runs: loads /modules/list and serves the agent's port. One
// line is one command, answered by one line:
//   echo WORDS     the same words
//   uptime         milliseconds since the kernel began, and how many modules took how many of them
//   disks          the serial number of each SCSI disk, in order, or "none"
//   read SERIAL    the first 16 bytes of that disk
//   write SERIAL   tries to write to it: "written" or the error
//   nics           MAC address of each interface but lo
//   memory         MemTotal in KiB
//   load NAME      the module of that name in /modules/later
//   start N        processor N, which stands still; "stop N" the other way round; answered by those that run, as "0-1"
//   say WORDS      to the console
//   count          how often this was asked; part of a saved state
//   flood          writes to the console for ever
//   panic          the kernel's, by sysrq
//   exit           PID 1 ends, which is a panic too
#include "guest_init.h"

#include <stdarg.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>

static char answer[4096];
static int modules;
static long module_millis;

static long Millis(void) {
  struct timespec now;
  clock_gettime(CLOCK_BOOTTIME, &now);
  return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void Append(const char* format, ...) {
  size_t used = strlen(answer);
  va_list list;
  va_start(list, format);
  vsnprintf(answer + used, sizeof answer - used, format, list);
  va_end(list);
}

// The name of the n-th disk with a serial number, which the unit serial number page holds after 4 bytes (SPC-4, 7.7.20). The
// page is there before the disk can be opened.
static int Disk(int n, char* name, char* serial) {
  for (char letter = 'a'; letter <= 'z'; ++letter) {
    char path[64], page[256] = {0};
    snprintf(path, sizeof path, "/sys/block/sd%c/device/vpd_pg80", letter);
    ssize_t got = ReadFile(path, page, sizeof page);
    snprintf(name, 16, "/dev/sd%c", letter);
    int fd = got <= 4 ? -1 : open(name, O_RDONLY | O_CLOEXEC);
    if (fd < 0) continue;
    close(fd);
    if (n-- > 0) continue;
    snprintf(serial, 64, "%.60s", page + 4);
    return 1;
  }
  return 0;
}

static void OnDisk(const char* wanted, int writes) {
  char name[16], serial[64];
  for (int n = 0; Disk(n, name, serial); ++n) {
    if (strcmp(serial, wanted) != 0) continue;
    static char block[4096] __attribute__((aligned(4096)));
    int fd = open(name, (writes ? O_RDWR | O_DIRECT : O_RDONLY) | O_CLOEXEC);
    ssize_t done = fd < 0 ? -1 : writes ? (memcpy(block, "written by guest", 16), write(fd, block, sizeof block)) : read(fd, block, 16);
    if (done < 0) Append("%s", strerror(errno));
    else Append("%.16s", writes ? "written" : block);
    close(fd);
    return;
  }
  Append("no disk %s", wanted);
}

static void Nics(void) {
  DIR* dir = opendir("/sys/class/net");
  for (struct dirent* entry; dir != NULL && (entry = readdir(dir)) != NULL;) {
    char path[512], mac[64];
    if (entry->d_name[0] == '.' || strcmp(entry->d_name, "lo") == 0) continue;
    snprintf(path, sizeof path, "/sys/class/net/%s/address", entry->d_name);
    if (ReadFile(path, mac, sizeof mac) > 0) Append("%.17s ", mac);
  }
  closedir(dir);
}

static void Memory(void) {
  char text[256];
  ReadFile("/proc/meminfo", text, sizeof text);
  Append("%ld", strtol(text + strlen("MemTotal:"), NULL, 10));
}

static void Load(const char* name) {
  FILE* list = fopen("/modules/later", "re");
  char path[256], wanted[64];
  snprintf(wanted, sizeof wanted, "/%.50s.ko\n", name);
  while (list != NULL && fgets(path, sizeof path, list) != NULL) {
    if (strlen(path) < strlen(wanted) || strcmp(path + strlen(path) - strlen(wanted), wanted) != 0) continue;
    path[strcspn(path, "\n")] = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    Append("%s", fd < 0 || syscall(SYS_finit_module, fd, "", 0) != 0 ? strerror(errno) : "loaded");
    close(fd);
  }
  if (list != NULL) fclose(list);
  if (answer[0] == 0) Append("no module %s", name);
}

static void Processor(const char* number, const char* online) {
  char path[128], running[64] = {0};
  snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%.8s/online", number);
  int fd = open(path, O_WRONLY | O_CLOEXEC);
  if (fd < 0 || write(fd, online, 1) != 1) Append("%s ", strerror(errno));
  close(fd);
  ReadFile("/sys/devices/system/cpu/online", running, sizeof running);
  Append("%.*s", (int)strcspn(running, "\n"), running);
}

static void Sysrq(char key) {
  int fd = open("/proc/sysrq-trigger", O_WRONLY | O_CLOEXEC);
  if (write(fd, &key, 1) != 1) Append("%s", strerror(errno));
  close(fd);
}

static void Answer(char* line) {
  static int count;
  char* rest = strchr(line, ' ');
  rest = rest == NULL ? line + strlen(line) : (*rest = 0, rest + 1);
  answer[0] = 0;
  if (strcmp(line, "echo") == 0) Append("%s", rest);
  else if (strcmp(line, "uptime") == 0) Append("%ld %d %ld", Millis(), modules, module_millis);
  else if (strcmp(line, "disks") == 0) {
    char name[16], serial[64];
    for (int n = 0; Disk(n, name, serial); ++n) Append("%s ", serial);
    if (answer[0] == 0) Append("none");
  } else if (strcmp(line, "read") == 0) OnDisk(rest, 0);
  else if (strcmp(line, "write") == 0) OnDisk(rest, 1);
  else if (strcmp(line, "nics") == 0) Nics();
  else if (strcmp(line, "memory") == 0) Memory();
  else if (strcmp(line, "load") == 0) Load(rest);
  else if (strcmp(line, "start") == 0) Processor(rest, "1");
  else if (strcmp(line, "stop") == 0) Processor(rest, "0");
  else if (strcmp(line, "say") == 0) printf("%s\n", rest);
  else if (strcmp(line, "count") == 0) Append("%d", ++count);
  else if (strcmp(line, "panic") == 0) Sysrq('c');
  else if (strcmp(line, "exit") == 0) exit(3);
  else if (strcmp(line, "flood") == 0) for (;;) printf("a line that says nothing, again and again and again and again\n");
  else Append("unknown command");
  Append("\n");
}

int main(void) {
  MountAll();
  long begin = Millis();
  modules = LoadModules();
  module_millis = Millis() - begin;
  int port = OpenPort();
  static char line[4096];
  size_t used = 0;
  printf("the guest is ready\n");
  for (;;) {
    ssize_t got = read(port, line + used, 1);
    if (got <= 0) {  // nobody at the other end
      poll(NULL, 0, 1);
      continue;
    }
    if (line[used] != '\n' && ++used < sizeof line - 1) continue;
    line[used] = 0;
    used = 0;
    Answer(line);
    for (const char* left = answer; *left != 0;) {
      ssize_t put = write(port, left, strlen(left));
      if (put > 0) left += put;
    }
  }
}
