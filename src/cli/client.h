// SPDX-License-Identifier: Apache-2.0
//
// The command's connection to caissond: CRI stubs and the control service on one socket. One thread.
#pragma once

#include <memory>
#include <string>

#include <grpcpp/grpcpp.h>

#include "base/result.h"
#include "caisson/control/v1/control.grpc.pb.h"
#include "cri/v1/api.grpc.pb.h"

namespace caisson::cli {

class Client {
 public:
  // Connects when first used. `socket`: a path, or unix:///path.
  explicit Client(const std::string& socket);

  runtime::v1::RuntimeService::Stub& runtime() { return *runtime_; }
  runtime::v1::ImageService::Stub& images() { return *images_; }
  control::v1::Control::Stub& control() { return *control_; }

  // One unary call: `method` is e.g. &RuntimeService::Stub::Version. The error says what to do when the daemon is away.
  template <class Stub, class Request, class Response>
  Result<Response> Call(Stub& stub, grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*),
                        const Request& request, int timeout_seconds = 120) {
    grpc::ClientContext context;
    SetDeadline(&context, timeout_seconds);
    Response response;
    grpc::Status status = (stub.*method)(&context, request, &response);
    if (!status.ok()) return ToError(status);
    return response;
  }

  static void SetDeadline(grpc::ClientContext* context, int timeout_seconds);
  Error ToError(const grpc::Status& status) const;
  const std::string& socket() const { return socket_; }

 private:
  std::string socket_;
  std::unique_ptr<runtime::v1::RuntimeService::Stub> runtime_;
  std::unique_ptr<runtime::v1::ImageService::Stub> images_;
  std::unique_ptr<control::v1::Control::Stub> control_;
};

}  // namespace caisson::cli
