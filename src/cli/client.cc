// SPDX-License-Identifier: Apache-2.0
#include "cli/client.h"

#include <chrono>

namespace caisson::cli {
namespace {
constexpr int kMaxMessageBytes = 64 << 20;
}

Client::Client(const std::string& socket) : socket_(socket.starts_with("unix://") ? socket.substr(7) : socket) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
  // A proxy from the environment is not for a unix socket.
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  auto channel = grpc::CreateCustomChannel("unix:" + socket_, grpc::InsecureChannelCredentials(), arguments);
  runtime_ = runtime::v1::RuntimeService::NewStub(channel);
  images_ = runtime::v1::ImageService::NewStub(channel);
  control_ = control::v1::Control::NewStub(channel);
}

void Client::SetDeadline(grpc::ClientContext* context, int timeout_seconds) {
  if (timeout_seconds > 0) context->set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(timeout_seconds));
}

Error Client::ToError(const grpc::Status& status) const {
  if (status.error_code() == grpc::StatusCode::UNAVAILABLE) {
    return MakeError(Code::kUnavailable,
                     "no answer from caissond at {}: {}. Is it running (systemctl status caissond)? Is the socket another "
                     "one (--socket, CAISSON_SOCKET)? May you open it (root)?",
                     socket_, status.error_message());
  }
  return MakeError(static_cast<Code>(status.error_code()), "{}", status.error_message());
}

}  // namespace caisson::cli
