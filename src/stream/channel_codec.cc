// SPDX-License-Identifier: Apache-2.0
#include "stream/channel_codec.h"

#include <array>

namespace caisson::stream {
namespace {

constexpr std::string_view kAlphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

constexpr std::array<int8_t, 256> MakeReverse() {
  std::array<int8_t, 256> reverse{};
  for (int8_t& value : reverse) value = -1;
  for (size_t i = 0; i < kAlphabet.size(); ++i)
    reverse[static_cast<unsigned char>(kAlphabet[i])] = static_cast<int8_t>(i);
  return reverse;
}
constexpr std::array<int8_t, 256> kReverse = MakeReverse();

std::string EncodeBase64(std::string_view data) {
  std::string text;
  text.reserve((data.size() + 2) / 3 * 4);
  for (size_t i = 0; i < data.size(); i += 3) {
    size_t left = std::min<size_t>(3, data.size() - i);
    uint32_t bits = 0;
    for (size_t j = 0; j < 3; ++j) bits = bits << 8 | (j < left ? static_cast<unsigned char>(data[i + j]) : 0);
    for (size_t j = 0; j < 4; ++j) text += j <= left ? kAlphabet[bits >> (18 - 6 * j) & 63] : '=';
  }
  return text;
}

// RFC 4648, section 4: padded, no line ends.
std::optional<std::string> DecodeBase64(std::string_view text) {
  if (text.size() % 4 != 0) return std::nullopt;
  size_t padding = text.ends_with("==") ? 2 : text.ends_with("=") ? 1 : 0;
  std::string data;
  data.reserve(text.size() / 4 * 3);
  for (size_t i = 0; i < text.size(); i += 4) {
    size_t letters = i + 4 == text.size() ? 4 - padding : 4;
    uint32_t bits = 0;
    for (size_t j = 0; j < 4; ++j) {
      int8_t value = j < letters ? kReverse[static_cast<unsigned char>(text[i + j])] : int8_t{0};
      if (value < 0) return std::nullopt;
      bits = bits << 6 | static_cast<uint32_t>(value);
    }
    for (size_t j = 0; j + 1 < letters; ++j) data += static_cast<char>(bits >> (16 - 8 * j) & 0xff);
  }
  return data;
}

}  // namespace

std::optional<ChannelMessage> DecodeChannelMessage(std::string_view message, bool base64) {
  if (message.empty()) return std::nullopt;
  auto first = static_cast<unsigned char>(message[0]);
  if (!base64) return ChannelMessage{first, std::string(message.substr(1))};
  if (first < '0') return std::nullopt;
  auto data = DecodeBase64(message.substr(1));
  if (!data) return std::nullopt;
  return ChannelMessage{static_cast<uint8_t>(first - '0'), std::move(*data)};
}

std::string EncodeChannelMessage(uint8_t channel, std::string_view data, bool base64) {
  std::string message;
  message.reserve(1 + data.size());
  message += static_cast<char>(base64 ? '0' + channel : channel);
  if (base64) return message + EncodeBase64(data);
  return message.append(data);
}

}  // namespace caisson::stream
