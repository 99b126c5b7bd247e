// SPDX-License-Identifier: Apache-2.0
//
// In a container: "watching", then the name of each file that is moved into the folder of its argument, a line each, as inotify(7) tells of them.
#include <stdio.h>
#include <sys/inotify.h>
#include <unistd.h>

int main(int argc, char** argv) {
  setvbuf(stdout, NULL, _IOLBF, 0);
  int fd = inotify_init1(IN_CLOEXEC);
  if (argc != 2 || fd < 0 || inotify_add_watch(fd, argv[1], IN_MOVED_TO) < 0) {
    perror("watch");
    return 1;
  }
  puts("watching");
  for (;;) {
    _Alignas(struct inotify_event) char buffer[16 << 10];
    ssize_t got = read(fd, buffer, sizeof buffer);
    for (char* at = buffer; at < buffer + got;) {
      struct inotify_event* event = (struct inotify_event*)at;
      if (event->len > 0) puts(event->name);
      at += sizeof *event + event->len;
    }
  }
}
