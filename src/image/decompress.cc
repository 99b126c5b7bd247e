// SPDX-License-Identifier: Apache-2.0
#include "image/decompress.h"

#include <isa-l/igzip_lib.h>
#include <zstd.h>

namespace caisson::image {
namespace {
constexpr size_t kOutputBytes = 256 << 10;
enum class Kind { kUnknown, kPlain, kGzip, kZstd };
}  // namespace

struct Decompressor::State {
  Kind kind = Kind::kUnknown;
  std::string output;
  inflate_state inflate{};
  bool member_open = false;
  ZSTD_DStream* zstd = nullptr;
  bool frame_open = false;
  ~State() { ZSTD_freeDStream(zstd); }
};

Decompressor::Decompressor(Source source) : source_(std::move(source)), state_(std::make_unique<State>()) {}
Decompressor::~Decompressor() = default;

// More input, if there is any; false at the end.
Result<bool> Decompressor::Refill() {
  if (used_ < input_.size()) return true;
  if (input_ended_) return false;
  input_ = TRY(source_());
  used_ = 0;
  input_ended_ = input_.empty();
  return !input_ended_;
}

Result<> Decompressor::Begin() {
  while (input_.size() < 4 && !input_ended_) {
    std::string more = TRY(source_());
    input_ended_ = more.empty();
    input_ += more;
  }
  auto byte = [&](size_t i) { return i < input_.size() ? static_cast<unsigned char>(input_[i]) : 0u; };
  bool skippable = (byte(0) & 0xf0) == 0x50 && byte(1) == 0x2a && byte(2) == 0x4d && byte(3) == 0x18;
  if (byte(0) == 0x1f && byte(1) == 0x8b) {
    state_->kind = Kind::kGzip;
    state_->output.resize(kOutputBytes);
  } else if ((byte(0) == 0x28 && byte(1) == 0xb5 && byte(2) == 0x2f && byte(3) == 0xfd) || skippable) {
    state_->kind = Kind::kZstd;
    state_->output.resize(kOutputBytes);
    state_->zstd = ZSTD_createDStream();
    // A window larger than what the format's default decoders take would let a small file demand much memory.
    ZSTD_DCtx_setParameter(state_->zstd, ZSTD_d_windowLogMax, 27);
  } else {
    state_->kind = Kind::kPlain;
  }
  return {};
}

Result<std::string_view> Decompressor::NextGzip() {
  inflate_state& inflate = state_->inflate;
  for (;;) {
    if (!TRY(Refill())) {
      if (state_->member_open) return MakeError(Code::kDataLoss, "gzip data ends in the middle");
      return std::string_view();
    }
    if (!state_->member_open) {
      isal_inflate_init(&inflate);
      inflate.crc_flag = ISAL_GZIP;  // header and trailer, checksum verified
      state_->member_open = true;
    }
    inflate.next_in = reinterpret_cast<uint8_t*>(input_.data() + used_);
    inflate.avail_in = static_cast<uint32_t>(input_.size() - used_);
    inflate.next_out = reinterpret_cast<uint8_t*>(state_->output.data());
    inflate.avail_out = kOutputBytes;
    int result = isal_inflate(&inflate);
    used_ = input_.size() - inflate.avail_in;
    if (result != ISAL_DECOMP_OK && result != ISAL_END_INPUT) return MakeError(Code::kDataLoss, "gzip data is broken ({})", result);
    if (inflate.block_state == ISAL_BLOCK_FINISH) {
      state_->member_open = false;
      // Zero bytes after the last member are padding, as gzip(1) takes it.
      while (TRY(Refill()) && input_[used_] == '\0') ++used_;
    }
    size_t made = kOutputBytes - inflate.avail_out;
    if (made > 0) return std::string_view(state_->output.data(), made);
  }
}

Result<std::string_view> Decompressor::NextZstd() {
  for (;;) {
    bool more = TRY(Refill());
    ZSTD_inBuffer in{input_.data() + used_, more ? input_.size() - used_ : 0, 0};
    ZSTD_outBuffer out{state_->output.data(), kOutputBytes, 0};
    if (!more && !state_->frame_open) return std::string_view();
    size_t left = ZSTD_decompressStream(state_->zstd, &out, &in);
    if (ZSTD_isError(left)) return MakeError(Code::kDataLoss, "zstd data is broken: {}", ZSTD_getErrorName(left));
    used_ += in.pos;
    state_->frame_open = left != 0;
    if (out.pos > 0) return std::string_view(state_->output.data(), out.pos);
    if (!more) return MakeError(Code::kDataLoss, "zstd data ends in the middle");
  }
}

Result<std::string_view> Decompressor::Next() {
  if (state_->kind == Kind::kUnknown) TRY(Begin());
  switch (state_->kind) {
    case Kind::kGzip: return NextGzip();
    case Kind::kZstd: return NextZstd();
    default: break;
  }
  if (!TRY(Refill())) return std::string_view();
  std::string_view rest = std::string_view(input_).substr(used_);
  used_ = input_.size();
  return rest;
}

}  // namespace caisson::image
