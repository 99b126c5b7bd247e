// SPDX-License-Identifier: Apache-2.0
//
// Messages of Kubernetes' WebSocket subprotocols: a channel number and its data, raw or as text in base64. Pure.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace caisson::stream {

struct ChannelMessage {
  uint8_t channel = 0;
  std::string data;
};

// Of text, "<digit><base64>", or of bytes, "<channel><data>". Nothing: empty or malformed.
std::optional<ChannelMessage> DecodeChannelMessage(std::string_view message, bool base64);
std::string EncodeChannelMessage(uint8_t channel, std::string_view data, bool base64);

}  // namespace caisson::stream
