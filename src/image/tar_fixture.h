// SPDX-License-Identifier: Apache-2.0
//
// For tests only: tar streams, honest and hostile, written byte by byte so that nothing corrects them; gzip and zstd of
// them; folders that a test makes and that go with it.
#pragma once

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <optional>
#include <sstream>
#include <string>

#include <gtest/gtest.h>
#include <zlib.h>
#include <zstd.h>

namespace caisson::image {

class Scratch {
 public:
  Scratch() {
    char name[] = "/tmp/caisson-image-XXXXXX";
    if (mkdtemp(name) == nullptr) ADD_FAILURE() << "mkdtemp: " << strerror(errno);
    path_ = name;
  }
  ~Scratch() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  const std::string& path() const { return path_; }
  std::string Folder(const std::string& name) const {
    std::string folder = path_ + "/" + name;
    std::filesystem::create_directories(folder);
    return folder;
  }
  std::string Write(const std::string& name, const std::string& text) const {
    std::string file = path_ + "/" + name;
    std::filesystem::create_directories(std::filesystem::path(file).parent_path());
    std::ofstream(file, std::ios::binary) << text;
    return file;
  }

 private:
  std::string path_;
};

inline std::string ReadText(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

struct TarEntry {
  std::string name;
  char type = '0';  // as in the header: 0 file, 1 hard link, 2 symbolic link, 3 and 4 devices, 5 folder, 6 FIFO
  std::string data, link = "";
  unsigned mode = 0644, uid = 0, gid = 0, major = 0, minor = 0;
  int64_t mtime = 1'700'000'000;
  std::optional<uint64_t> size = std::nullopt;  // what the header says, if not the data's
  std::map<std::string, std::string> pax = {};
};

class TarBuilder {
 public:
  TarBuilder& Add(const TarEntry& entry) {
    auto pax = entry.pax;
    if (entry.name.size() > 99) pax.emplace("path", entry.name);
    if (entry.link.size() > 99) pax.emplace("linkpath", entry.link);
    if (!pax.empty()) {
      std::string records;
      for (const auto& [key, value] : pax) records += PaxRecord(key, value);
      TarEntry header{"pax", 'x', records};
      Header(header, records.size());
      Data(records);
    }
    Header(entry, entry.size.value_or(entry.data.size()));
    Data(entry.data);
    return *this;
  }
  TarBuilder& File(const std::string& name, const std::string& data, unsigned mode = 0644) { return Add({name, '0', data, "", mode}); }
  TarBuilder& Folder(const std::string& name, unsigned mode = 0755) { return Add({name, '5', "", "", mode}); }
  TarBuilder& Symlink(const std::string& name, const std::string& to) { return Add({name, '2', "", to, 0777}); }
  TarBuilder& Hardlink(const std::string& name, const std::string& to) { return Add({name, '1', "", to}); }

  std::string Bytes() const { return bytes_ + std::string(1024, '\0'); }
  const std::string& Unended() const { return bytes_; }

  static std::string PaxRecord(const std::string& key, const std::string& value) {
    size_t length = key.size() + value.size() + 3;
    size_t total = length + std::to_string(length).size();
    if (std::to_string(total).size() != std::to_string(length).size()) total = length + std::to_string(total).size();
    return std::to_string(total) + " " + key + "=" + value + "\n";
  }

 private:
  void Header(const TarEntry& entry, uint64_t size) {
    char block[512] = {};
    auto text = [&](size_t at, size_t room, const std::string& value) { std::memcpy(block + at, value.data(), std::min(room, value.size())); };
    auto octal = [&](size_t at, size_t room, uint64_t value) {
      char digits[32];
      std::snprintf(digits, sizeof digits, "%0*llo", static_cast<int>(room - 1), static_cast<unsigned long long>(value));
      text(at, room - 1, digits);
    };
    text(0, 99, entry.name);
    octal(100, 8, entry.mode);
    octal(108, 8, entry.uid);
    octal(116, 8, entry.gid);
    if (size < (uint64_t{1} << 33)) {
      octal(124, 12, size);
    } else {  // base 256 (GNU)
      block[124] = static_cast<char>(0x80);
      for (int i = 0; i < 8; ++i) block[135 - i] = static_cast<char>(size >> (8 * i));
    }
    octal(136, 12, static_cast<uint64_t>(entry.mtime));
    std::memset(block + 148, ' ', 8);
    block[156] = entry.type;
    text(157, 99, entry.link);
    std::memcpy(block + 257, "ustar\00000", 8);
    octal(329, 8, entry.major);
    octal(337, 8, entry.minor);
    unsigned sum = 0;
    for (unsigned char c : block) sum += c;
    std::snprintf(block + 148, 8, "%06o", sum);
    bytes_.append(block, sizeof block);
  }
  void Data(const std::string& data) {
    bytes_ += data;
    bytes_.append((512 - data.size() % 512) % 512, '\0');
  }

  std::string bytes_;
};

inline std::string Gzip(const std::string& text) {
  z_stream stream{};
  if (deflateInit2(&stream, 6, Z_DEFLATED, 31, 8, Z_DEFAULT_STRATEGY) != Z_OK) return "";
  std::string out(deflateBound(&stream, text.size()) + 64, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  deflate(&stream, Z_FINISH);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

inline std::string Zstd(const std::string& text) {
  std::string out(ZSTD_compressBound(text.size()), '\0');
  out.resize(ZSTD_compress(out.data(), out.size(), text.data(), text.size(), 1));
  return out;
}

}  // namespace caisson::image
