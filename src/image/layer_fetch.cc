// SPDX-License-Identifier: Apache-2.0
#include "image/layer_fetch.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <thread>

#include "base/limits.h"
#include "base/strings.h"
#include "base/unique_fd.h"
#include "image/chunk_channel.h"
#include "image/decompress.h"
#include "image/digest.h"
#include "sys/path.h"

namespace caisson::image {
namespace {

namespace fs = std::filesystem;

Result<> WriteAll(int fd, std::string_view bytes, const std::string& path) {
  while (!bytes.empty()) {
    ssize_t written = write(fd, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) return ErrnoError("write '{}'", path);
    bytes.remove_prefix(static_cast<size_t>(written));
  }
  return {};
}

// Reads a file into the channel, if there is one, hashing.
Result<uint64_t> FeedFile(int fd, Hasher* hasher, ChunkChannel* channel, const std::string& path) {
  std::string buffer(256 << 10, '\0');
  uint64_t total = 0;
  for (;;) {
    ssize_t got = read(fd, buffer.data(), buffer.size());
    if (got < 0) return ErrnoError("read '{}'", path);
    if (got == 0) return total;
    std::string_view bytes(buffer.data(), static_cast<size_t>(got));
    hasher->Update(bytes);
    total += bytes.size();
    if (channel != nullptr && !channel->Write(bytes)) return MakeError(Code::kCancelled, "unpacking has stopped");
  }
}

// The first thread: bytes into the ingest file, the hash and the channel; at the end the blob is in its place.
Result<> Download(const BlobFolder& blobs, const BlobSource& source, const LayerRequest& request, ChunkChannel* channel) {
  const std::string& digest = request.blob.digest;
  Hasher hasher(digest);
  if (blobs.Has(digest)) {
    UniqueFd kept(open(blobs.BlobPath(digest).c_str(), O_RDONLY | O_CLOEXEC));
    if (!kept) return ErrnoError("open blob '{}'", digest);
    TRY(FeedFile(kept.get(), &hasher, channel, blobs.BlobPath(digest)));
    if (hasher.Finish() == digest) return {};
    unlink(blobs.BlobPath(digest).c_str());
    return MakeError(Code::kDataLoss, "blob '{}' on disk is damaged; it was removed, try again", digest);
  }
  std::string path = blobs.IngestPath(digest);
  UniqueFd file(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!file) return ErrnoError("create '{}'", path);
  uint64_t offset = TRY(FeedFile(file.get(), &hasher, channel, path));
  if (offset > static_cast<uint64_t>(request.blob.size)) {
    unlink(path.c_str());
    return MakeError(Code::kDataLoss, "the unfinished blob '{}' was longer than the blob; it was removed, try again", digest);
  }
  uint64_t done = offset;
  auto streamed = source(request.blob, offset, [&](std::string_view bytes) -> Result<> {
    TRY(WriteAll(file.get(), bytes, path));
    hasher.Update(bytes);
    done += bytes.size();
    if (request.on_bytes) request.on_bytes(done);
    if (channel != nullptr && !channel->Write(bytes)) return MakeError(Code::kCancelled, "unpacking has stopped");
    return {};
  });
  // A full disk needs the room more than the next attempt needs the bytes.
  if (!streamed && streamed.error().code == Code::kResourceExhausted) unlink(path.c_str());
  TRY(std::move(streamed));
  std::string found = hasher.Finish();
  if (found != digest) {
    unlink(path.c_str());
    return MakeError(Code::kDataLoss, "layer '{}': its bytes have digest {}", digest, found);
  }
  if (rename(path.c_str(), blobs.BlobPath(digest).c_str()) != 0) return ErrnoError("keep blob '{}'", digest);
  return {};
}

// The second: decompressed, hashed, unpacked.
Result<Unpacked> Unpack(const LayerRequest& request, ChunkChannel* channel) {
  UniqueFd root(open(request.folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW));
  if (!root) return ErrnoError("open '{}'", request.folder);
  Decompressor decompressor([&] { return channel->Read(); });
  Hasher hasher(request.diff_id);
  Unpacked unpacked = TRY(UnpackTar(root.get(), [&]() -> Result<std::string_view> {
    if (request.cancel.stop_requested()) return MakeError(Code::kCancelled, "the pull was cancelled");
    std::string_view bytes = TRY(decompressor.Next());
    hasher.Update(bytes);
    return bytes;
  }));
  std::string found = hasher.Finish();
  if (found != request.diff_id) {
    return MakeError(Code::kDataLoss, "layer '{}': its content has digest {}, the image config says diff_id {}", request.blob.digest, found, request.diff_id);
  }
  return unpacked;
}

}  // namespace

Result<> BlobFolder::Prepare() {
  for (const char* name : {"/blobs/sha256", "/blobs/sha512", "/ingest"}) {
    std::error_code failed;
    fs::create_directories(root_ + name, failed);
    if (failed) return SysError(failed.value(), "make folder '" + root_ + name + "'");
  }
  return {};
}

std::string BlobFolder::BlobPath(const std::string& digest) const {
  return fmt::format("{}/blobs/{}/{}", root_, DigestAlgorithm(digest), DigestHex(digest));
}
std::string BlobFolder::IngestPath(const std::string& digest) const { return fmt::format("{}/ingest/{}", root_, DigestHex(digest)); }
bool BlobFolder::Has(const std::string& digest) const { return access(BlobPath(digest).c_str(), F_OK) == 0; }

Result<> BlobFolder::Put(const std::string& digest, const std::string& bytes) {
  if (Has(digest)) return {};
  std::string path = IngestPath(digest) + ".small";
  UniqueFd file(open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!file) return ErrnoError("create '{}'", path);
  TRY(WriteAll(file.get(), bytes, path));
  if (rename(path.c_str(), BlobPath(digest).c_str()) != 0) return ErrnoError("keep blob '{}'", digest);
  return {};
}

Result<std::string> BlobFolder::Get(const std::string& digest, size_t max_bytes) const { return sys::ReadFile(BlobPath(digest), max_bytes); }

Result<Unpacked> FetchFile(const BlobFolder& blobs, const BlobSource& source, const LayerRequest& request, const std::string& name) {
  auto bad = [&] { return MakeError(Code::kInvalidArgument, "'{}' is no name of a file in an artifact", name.substr(0, 256)); };
  if (name.empty() || name.size() >= limits::kPathBytes || name.find('\0') != std::string::npos) return bad();
  for (std::string_view part : Split(name, '/')) {
    if (part.empty() || part == "." || part == "..") return bad();
  }
  UniqueFd root(open(request.folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW));
  if (!root) return ErrnoError("open '{}'", request.folder);
  TRY(Download(blobs, source, request, nullptr));
  auto [folder, leaf] = sys::SplitPath("/" + name);
  UniqueFd parent = TRY(sys::MakeDirInRoot(root.get(), folder, 0755));
  std::string blob = blobs.BlobPath(request.blob.digest);
  // Any user of a container may read it; nobody may write it, and the blob's folder stays closed.
  if (chmod(blob.c_str(), 0644) != 0) return ErrnoError("open '{}' to readers", blob);
  if (linkat(AT_FDCWD, blob.c_str(), parent.get(), leaf.c_str(), 0) == 0) return Unpacked{0, 1, {}, {}};
  if (errno == EEXIST) return MakeError(Code::kInvalidArgument, "two files of the artifact are named '{}'", name.substr(0, 256));
  return ErrnoError("make '{}'", name.substr(0, 256));
}

Result<Unpacked> FetchLayer(const BlobFolder& blobs, const BlobSource& source, const LayerRequest& request) {
  ChunkChannel channel;
  Result<> downloaded;
  std::thread download([&] {
    downloaded = Download(blobs, source, request, &channel);
    channel.Finish(downloaded ? std::nullopt : std::optional<Error>(downloaded.error()));
  });
  auto unpacked = Unpack(request, &channel);
  channel.Stop();
  download.join();
  // When the download failed, unpacking failed with it; when unpacking failed, the download was cancelled.
  if (!downloaded && downloaded.error().code != Code::kCancelled) return std::move(downloaded.error());
  if (!unpacked) return unpacked;
  TRY(std::move(downloaded));
  return unpacked;
}

}  // namespace caisson::image
