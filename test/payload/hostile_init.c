// SPDX-License-Identifier: Apache-2.0
//
// PID 1 of a guest that turns against its host: it speaks the greeting (ttrpc/greeting.h), answers each call with an empty message, as if all
// had been done (Hello with its version), and when a container is to be made does what the pod's hostname says:
//   mode-garbage   writes what is no ttRPC
//   mode-request   sends a call where only answers may come
//   mode-endless   begins a frame longer than any may be, and goes on for ever
//   mode-closed    closes its port
//   mode-silent    says nothing more, and reads nothing more
#include "guest_init.h"

#include <stdint.h>

enum { kHeader = 10, kMost = 4 << 20 };

// Found by the test in this program's file, and changed there: what the agent says to be.
char said_version[32] = "VERSION=" CAISSON_VERSION;

static unsigned char frame[kMost];
static char mode[32];

static void Put(int port, const void* bytes, size_t size) {
  for (const char* at = bytes; size > 0;) {
    ssize_t put = write(port, at, size);
    if (put <= 0) {
      poll(NULL, 0, 1);
      continue;
    }
    at += put;
    size -= (size_t)put;
  }
}

static void Get(int port, void* bytes, size_t size) {
  for (char* at = bytes; size > 0;) {
    ssize_t got = read(port, at, size);
    if (got <= 0) {  // nobody at the other end
      poll(NULL, 0, 1);
      continue;
    }
    at += got;
    size -= (size_t)got;
  }
}

static void Greet(int port) {
  char line[128];
  for (size_t used = 0;;) {
    Get(port, line + used, 1);
    if (line[used] != '\n') {
      used = used + 1 < sizeof line - 1 ? used + 1 : used;
      continue;
    }
    line[used] = 0;
    used = 0;
    char answer[160];
    int begins = strncmp(line, "CAISSON GO ", 11) == 0;
    if (begins || strncmp(line, "CAISSON HELLO ", 14) == 0) {
      Put(port, answer, (size_t)snprintf(answer, sizeof answer, "CAISSON %s %s\n", begins ? "BEGIN" : "READY", line + (begins ? 11 : 14)));
    }
    if (begins) return;
  }
}

// A frame of a ttRPC Response with a HelloResponse whose field 1 is the version.
static void AnswerHello(int port, const unsigned char* header) {
  const char* version = said_version + strlen("VERSION=");
  unsigned char length = (unsigned char)strlen(version);
  unsigned char answer[kHeader + 4] = {0, 0, 0, length + 4, header[4], header[5], header[6], header[7], 2, 0, 0x12, length + 2, 0x0a, length};
  Put(port, answer, sizeof answer);
  Put(port, version, length);
}

static void Turn(int port) {
  printf("the guest turns: %s\n", mode);
  static unsigned char bytes[64 << 10];
  if (strcmp(mode, "garbage") == 0) {
    memset(bytes, 0xa5, sizeof bytes);
    Put(port, bytes, sizeof bytes);
  } else if (strcmp(mode, "request") == 0) {
    const unsigned char call[kHeader] = {0, 0, 0, 0, 0, 0, 0, 2, 1, 0};
    Put(port, call, sizeof call);
  } else if (strcmp(mode, "endless") == 0) {
    memset(bytes, 0xff, sizeof bytes);
    for (;;) Put(port, bytes, sizeof bytes);
  } else if (strcmp(mode, "closed") == 0) {
    close(port);
  }
  for (;;) pause();
}

int main(void) {
  MountAll();
  LoadModules();
  int port = OpenPort();
  Greet(port);
  for (;;) {
    Get(port, frame, kHeader);
    const unsigned char answer[kHeader] = {0, 0, 0, 0, frame[4], frame[5], frame[6], frame[7], 2, 0};
    uint32_t size = (uint32_t)frame[0] << 24 | (uint32_t)frame[1] << 16 | (uint32_t)frame[2] << 8 | frame[3];
    Get(port, frame, size < kMost ? size : kMost);
    char* word = memmem(frame, size, "mode-", 5);
    if (mode[0] == 0 && word != NULL) snprintf(mode, sizeof mode, "%.*s", (int)strspn(word + 5, "abcdefghijklmnopqrstuvwxyz"), word + 5);
    if (memmem(frame, size, "PrepareContainer", 16) != NULL) Turn(port);
    memmem(frame, size, "Hello", 5) != NULL ? AnswerHello(port, answer) : Put(port, answer, sizeof answer);
  }
}
