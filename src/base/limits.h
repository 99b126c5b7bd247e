// SPDX-License-Identifier: Apache-2.0
//
// Every bound on foreign input, in one table; docs/limits.md lists them for users and a test compares the two.
#pragma once

#include <cstddef>
#include <cstdint>

namespace caisson::limits {

inline constexpr size_t kLogLineBytes = 16 << 10;           // one line of the daemon's own log
inline constexpr size_t kJsonBytes = 8 << 20;               // any JSON document
inline constexpr int kJsonDepth = 64;                       // nesting of any JSON document
inline constexpr size_t kTtrpcMessageBytes = 4 << 20;       // a ttRPC frame's payload (protocol limit)
inline constexpr size_t kManifestBytes = 4 << 20;           // an image manifest or index
inline constexpr size_t kImageConfigBytes = 8 << 20;        // an image config
inline constexpr int kImageLayers = 500;                    // layers of one image
inline constexpr int kIndexEntries = 1000;                  // entries of one image index
inline constexpr int kIndexDepth = 4;                       // indexes that name indexes
inline constexpr int kImageConfigEntries = 10'000;          // entries of one list or map of an image config
inline constexpr size_t kImageConfigEntryBytes = 1 << 20;   // one environment entry, argument or label of it
inline constexpr size_t kHttpHeaderBytes = 64 << 10;        // all headers of a registry's answer
inline constexpr size_t kHttpErrorBytes = 64 << 10;         // body of a registry's answer that is an error
inline constexpr size_t kTokenBytes = 64 << 10;             // a token of a registry's token server
inline constexpr int kRedirects = 5;                        // redirects of one request to a registry
inline constexpr int64_t kLayerBytes = int64_t{64} << 30;   // one layer, unpacked
inline constexpr int64_t kLayerEntries = 4'000'000;         // tar entries of one layer
inline constexpr size_t kLayerNameBytes = 64 << 20;          // names of one layer's folders and of its links to lower layers
inline constexpr int64_t kErofsMillis = 600'000;              // until a layer's EROFS image is made
inline constexpr size_t kPathBytes = 4096;                  // a path anywhere (PATH_MAX)
inline constexpr size_t kXattrBytes = 64 << 10;             // one extended attribute from a layer
inline constexpr size_t kCdiFileBytes = 4 << 20;             // a CDI specification
inline constexpr int kCdiFiles = 1000;                       // CDI specifications in one folder
inline constexpr size_t kCdiEdits = 10'000;                  // entries of one list of a CDI specification
inline constexpr int kCdiDevices = 1000;                     // CDI devices of one container
inline constexpr size_t kUserFileBytes = 4 << 20;           // /etc/passwd, /etc/group of an image
inline constexpr size_t kUserGroups = 1024;                  // supplementary groups of a process
inline constexpr size_t kCniOutputBytes = 1 << 20;          // stdout of a CNI plugin
inline constexpr size_t kExecSyncBytes = 16 << 20;          // stdout and stderr of ExecSync, each (what the CRI demands)
inline constexpr size_t kExecSyncChunkBytes = 1 << 20;      // of these, what the companion holds of both at once
inline constexpr size_t kKeptOutputBytes = 1 << 20;         // output of one stream that is kept until it is asked for
inline constexpr size_t kGuestStreams = 1024;                // connections to ports in one VM pod at once
inline constexpr size_t kGuestNotices = 4096;                // ends of processes that a guest's messenger has not heard yet
inline constexpr size_t kLaunchMessageBytes = 20 << 20;      // one message between a guest's messenger and a launcher
inline constexpr size_t kVolumeCopyBytes = 3 << 20;         // a volume that is copied into a VM (a Secret has at most 1 MiB)
inline constexpr size_t kBringBackBytes = 64 << 10;          // a file that a container in a VM has written, of which more is not kept
inline constexpr size_t kVolumeCopyEntries = 4096;           // files and folders of it
inline constexpr size_t kSharedIoBytes = 512 << 10;          // one read or write in a folder that a VM shares with the host
inline constexpr size_t kSharedMessageBytes = 640 << 10;     // one request of a VM's in such a folder, or the answer to it
inline constexpr size_t kSharedInodes = 1 << 20;             // files and folders of these that a VM knows of at once
inline constexpr size_t kAttachBacklogBytes = 1 << 20;      // output that an attached client has not taken; then it is dropped
inline constexpr size_t kAttachClients = 64;                // attached to one container at once
inline constexpr size_t kConfigFileBytes = 1 << 20;         // config.toml, hosts.toml, a CNI conflist
inline constexpr size_t kLogChunkBytes = 16 << 10;          // longest CRI log line before it is split into P parts
inline constexpr size_t kMountInfoBytes = 16 << 20;         // /proc/<pid>/mountinfo
inline constexpr size_t kCgroupFileBytes = 1 << 20;         // one file of a cgroup, /proc/<pid>/cgroup
inline constexpr int kCgroupDepth = 64;                     // cgroups nested below a container's own
inline constexpr int kCgroupPids = 4'194'304;               // processes listed of one cgroup (the kernel's PID_MAX_LIMIT)
inline constexpr int kSeccompSyscalls = 4096;               // rules, and names in one rule, of a seccomp profile
inline constexpr size_t kStreamConnections = 1024;          // clients of the streaming server at once
inline constexpr size_t kStreamNewConnections = 128;        // of these without a valid token yet; the oldest gives way
inline constexpr size_t kStreamPodSessions = 256;           // execs and attachments of one pod at once
inline constexpr int64_t kForwardConnectMillis = 10'000;    // until a port of a pod has accepted
inline constexpr size_t kLocalForwards = 256;               // connections to localhost of a VM pod's network namespace that are forwarded at once
inline constexpr size_t kEvents = 1000;                     // container events that wait for a client, or for the next one
inline constexpr size_t kEventClients = 16;                 // clients of GetContainerEvents at once
inline constexpr size_t kStreamTokens = 1000;               // streaming URLs given out and not used yet
inline constexpr int64_t kStreamTokenMillis = 60'000;       // how long such a URL is good
inline constexpr int64_t kStreamHandshakeMillis = 10'000;   // TLS handshake and HTTP request of a streaming client, together
inline constexpr int64_t kStreamCreationMillis = 30'000;    // until all streams of an exec, attach or forward are there
inline constexpr size_t kStreamRequestBytes = 16 << 10;     // HTTP request of a streaming client
inline constexpr size_t kStreamBacklogBytes = 1 << 20;      // data of one client's stream that its reader has not taken
inline constexpr size_t kStreamQueueBytes = 256 << 10;      // data that a client has not taken; then its producer waits
inline constexpr size_t kStreamResizeBytes = 1024;          // one terminal size message
inline constexpr size_t kWebSocketMessageBytes = 1 << 20;   // one message of a WebSocket client
inline constexpr size_t kSpdyControlBytes = 64 << 10;       // one SPDY control frame
inline constexpr size_t kSpdyHeaderBytes = 32 << 10;        // its header block when inflated
inline constexpr uint32_t kSpdyHeaders = 64;                // headers of one block
inline constexpr size_t kSpdyStreams = 1024;                // open streams of one SPDY connection
inline constexpr int64_t kCheckpointMillis = 300'000;      // criu's dump or restore of one container, unless asked otherwise
inline constexpr size_t kCriuLogBytes = 64 << 10;           // of the end of criu's log, what is searched for its last words
inline constexpr size_t kCriuMessageBytes = 16 << 10;       // one message of criu's
inline constexpr size_t kCriuImageBytes = 16 << 20;         // an image of criu's that is looked into
inline constexpr int kCniPlugins = 64;                      // plugins of one CNI configuration
inline constexpr int kCniAddresses = 64;                    // addresses in a CNI plugin's result
inline constexpr int kCniInterfaces = 256;                  // interfaces in a CNI plugin's result
inline constexpr size_t kNetnsInterfaces = 256;             // interfaces of one pod's network namespace
inline constexpr size_t kNetnsRoutes = 4096;                // its addresses, its routes and its neighbours, each
inline constexpr size_t kQmpMessageBytes = 256 << 10;       // one message of QEMU's monitor
inline constexpr size_t kQmpBacklogBytes = 8 << 20;         // what QEMU's monitor says before it answers a command
inline constexpr size_t kQmpEvents = 64;                    // events of QEMU's monitor that nobody has asked about yet
inline constexpr size_t kVmConsoleBytes = 32 << 10;         // the end of a guest's console that is kept
inline constexpr size_t kVmmMessageBytes = 4 << 10;         // the end of a VMM's own messages that is kept
inline constexpr int64_t kVmConsoleMillis = 100;            // between two looks at a guest's console
inline constexpr size_t kVmDisks = 250;                     // disks attached to one VM

}  // namespace caisson::limits
