// SPDX-License-Identifier: Apache-2.0
//
// The program of every benchmark container and of the peers' sandbox image. Waits for SIGTERM and exits with 0; its
// arguments are only there to be found in /proc. Otherwise, by its name or first argument:
//   true              exits at once
//   zeros BYTES       writes BYTES to stdout
//   sink              reads stdin to its end, then writes one byte
//   streams PORT      writes to stdout what it reads from stdin; and serves TCP: of each connection it reads one byte, 'h'
//                     is answered with one byte, 'z' with BULK bytes, 's' with one byte when the client has sent BULK more
#include <arpa/inet.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define BULK (256L << 20)  // kBulk of cri_bench.cc

static char buffer[64 << 10];

static int WriteAll(int fd, const char* data, long size) {
  while (size > 0) {
    long put = write(fd, data, (size_t)size);
    if (put <= 0) return -1;
    data += put;
    size -= put;
  }
  return 0;
}

static int Zeros(int fd, long bytes) {
  while (bytes > 0) {
    long size = bytes < (long)sizeof buffer ? bytes : (long)sizeof buffer;
    if (WriteAll(fd, buffer, size) != 0) return 1;
    bytes -= size;
  }
  return 0;
}

// Reads to the end, but no more than `most`.
static int Sink(int in, int out, long most) {
  long got = 0;
  while (most > 0 && (got = read(in, buffer, sizeof buffer)) > 0) most -= got;
  return WriteAll(out, "e", 1) != 0;
}

static void Serve(int port) {
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port)};
  int listener = socket(AF_INET, SOCK_STREAM, 0);
  if (bind(listener, (struct sockaddr*)&address, sizeof address) != 0 || listen(listener, 16) != 0) _exit(1);
  for (;;) {
    int fd = accept(listener, 0, 0);
    char what = 0;
    if (fd >= 0 && read(fd, &what, 1) == 1) {
      if (what == 'h') WriteAll(fd, "h", 1);
      if (what == 'z') Zeros(fd, BULK);
      if (what == 's') Sink(fd, fd, BULK);
    }
    if (fd >= 0) close(fd);
  }
}

static int Streams(int port) {
  signal(SIGPIPE, SIG_IGN);
  if (fork() == 0) Serve(port);
  for (;;) {
    long got = read(0, buffer, sizeof buffer);
    if (got > 0) {
      WriteAll(1, buffer, got);
    } else {
      pause();
    }
  }
}

int main(int argc, char** argv) {
  const char* name = strrchr(argv[0], '/');
  if (strcmp(name ? name + 1 : argv[0], "true") == 0) return 0;
  if (argc == 3 && strcmp(argv[1], "zeros") == 0) return Zeros(1, atol(argv[2]));
  if (argc == 2 && strcmp(argv[1], "sink") == 0) return Sink(0, 1, 1L << 62);
  if (argc == 3 && strcmp(argv[1], "streams") == 0) return Streams(atoi(argv[2]));
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  sigprocmask(SIG_BLOCK, &set, 0);
  int signal_number = 0;
  sigwait(&set, &signal_number);
  return 0;
}
