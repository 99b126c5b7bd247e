// SPDX-License-Identifier: Apache-2.0
#include "stream/server.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/socket.h>

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/ip/address.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <csignal>
#include <mutex>
#include <thread>

#include "base/log.h"
#include "stream/connection.h"

namespace caisson::stream {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using boost::system::error_code;

constexpr auto kAcceptPause = std::chrono::milliseconds(100);  // after a failure: out of descriptors, say

Error AsioError(const error_code& error, std::string what) {
  Error result = MakeError(Code::kUnavailable, "{}: {}", what, error.message());
  if (error.category() == boost::system::system_category()) result.sys_errno = error.value();
  return result;
}

Result<std::shared_ptr<asio::ssl::context>> LoadTls(const ServerOptions& options) {
  auto tls = std::make_shared<asio::ssl::context>(asio::ssl::context::tls_server);
  error_code error;
  tls->set_options(asio::ssl::context::default_workarounds | asio::ssl::context::no_sslv2 |
                       asio::ssl::context::no_sslv3 | asio::ssl::context::no_tlsv1 | asio::ssl::context::no_tlsv1_1,
                   error);
  if (!error) tls->use_certificate_chain_file(options.tls_certificate, error);
  if (error) return AsioError(error, fmt::format("load the certificate '{}'", options.tls_certificate));
  tls->use_private_key_file(options.tls_key, asio::ssl::context::pem, error);
  if (error) return AsioError(error, fmt::format("load the key '{}'", options.tls_key));
  return tls;
}

class AsioServer final : public Server {
 public:
  AsioServer(ServerOptions options, Backend& backend)
      : options_(std::move(options)),
        context_(std::make_shared<asio::io_context>(1)),
        tokens_(options_.token_millis),
        loop_{context_, backend, options_},
        acceptor_(*context_),
        accept_pause_(*context_),
        work_(asio::make_work_guard(*context_)) {}
  ~AsioServer() override;

  Result<> Listen();
  Result<> Run();

  Result<std::string> ExecUrl(ExecTarget target) override { return UrlFor(ExecGrant{std::move(target)}); }
  Result<std::string> AttachUrl(ExecTarget target) override { return UrlFor(AttachGrant{std::move(target)}); }
  Result<std::string> PortForwardUrl(PortForwardTarget target) override { return UrlFor(std::move(target)); }
  uint16_t port() const override { return port_; }
  size_t connections() const override { return list_.Size(); }
  Result<> ReloadTls() override;

 private:
  bool UsesTls() const { return !options_.tls_certificate.empty(); }
  Result<std::string> UrlFor(Grant grant);
  void Accept();
  void Loop();
  std::shared_ptr<asio::ssl::context> Tls() {
    std::lock_guard lock(tls_mutex_);
    return tls_;
  }

  const ServerOptions options_;
  std::shared_ptr<asio::io_context> context_;
  Tokens tokens_;
  ConnectionList list_;
  stream::Loop loop_;
  tcp::acceptor acceptor_;
  asio::steady_timer accept_pause_;
  asio::executor_work_guard<asio::io_context::executor_type> work_;
  std::mutex tls_mutex_;
  std::shared_ptr<asio::ssl::context> tls_;
  std::string base_url_;
  uint16_t port_ = 0;
  std::thread thread_;
};

Result<> AsioServer::Listen() {
  if (options_.tls_certificate.empty() != options_.tls_key.empty()) {
    return MakeError(Code::kInvalidArgument, "streaming needs both a certificate and a key, or neither");
  }
  if (UsesTls()) TRY(ReloadTls());
  error_code error;
  auto address = asio::ip::make_address(options_.address, error);
  if (error) return MakeError(Code::kInvalidArgument, "streaming address '{}' is not an IP address", options_.address);
  tcp::endpoint endpoint(address, options_.port);
  auto what = [&] { return fmt::format("listen for streaming on {} port {}", options_.address, options_.port); };
  // Unlike asio's own, this socket is O_CLOEXEC from birth.
  int fd = socket(endpoint.protocol().family(), SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return ErrnoError("{}", what());
  acceptor_.assign(endpoint.protocol(), fd, error);
  if (!error) acceptor_.set_option(tcp::acceptor::reuse_address(true), error);
  if (!error) acceptor_.bind(endpoint, error);
  if (!error) acceptor_.listen(asio::socket_base::max_listen_connections, error);
  if (error) return AsioError(error, what());
  port_ = acceptor_.local_endpoint(error).port();
  std::string host = address.is_v6() ? "[" + options_.address + "]" : options_.address;
  base_url_ = options_.base_url.empty() ? fmt::format("{}://{}:{}", UsesTls() ? "https" : "http", host, port_)
                                        : options_.base_url;
  while (base_url_.ends_with('/')) base_url_.pop_back();
  return {};
}

Result<> AsioServer::ReloadTls() {
  if (!UsesTls()) return {};
  auto fresh = TRY(LoadTls(options_));
  std::lock_guard lock(tls_mutex_);
  tls_ = std::move(fresh);
  return {};
}

Result<> AsioServer::Run() {
  asio::post(*context_, [this] { Accept(); });
  try {
    thread_ = std::thread([this] { Loop(); });
  } catch (const std::system_error& error) {
    return SysError(error.code().value(), "start the streaming thread");
  }
  return {};
}

void AsioServer::Loop() {
  pthread_setname_np(pthread_self(), "streaming");
  // SIGPIPE: sessions write into pipes and sockets whose other end may be gone. The rest: other threads' business.
  sigset_t all;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, nullptr);
  for (;;) {
    try {
      context_->run();
      return;
    } catch (const std::exception& error) {
      // Out of memory, in practice. One session is lost with its handler, not the server.
      log::Error("streaming: {}", error.what());
    }
  }
}

void AsioServer::Accept() {
  acceptor_.async_accept(context_->get_executor(), [this](const error_code& error, StreamSocket socket) {
    if (error == asio::error::operation_aborted) return;
    if (error) {
      accept_pause_.expires_after(kAcceptPause);
      accept_pause_.async_wait([this](const error_code& cancelled) {
        if (!cancelled) Accept();
      });
      return;
    }
    // accept(2) of asio has no SOCK_CLOEXEC.
    fcntl(socket.native_handle(), F_SETFD, FD_CLOEXEC);
    ServeConnection({loop_, tokens_, list_}, std::move(socket), Tls());
    Accept();
  });
}

Result<std::string> AsioServer::UrlFor(Grant grant) {
  std::string verb(VerbOf(grant));
  return base_url_ + "/" + verb + "/" + TRY(tokens_.Add(std::move(grant)));
}

AsioServer::~AsioServer() {
  if (!thread_.joinable()) return;
  asio::post(*context_, [this] {
    error_code ignored;
    acceptor_.close(ignored);
    accept_pause_.cancel();
    list_.AbortAll();
    // The loop ends by itself when the last operation of what was aborted has.
    work_.reset();
  });
  thread_.join();
}

}  // namespace

Result<std::unique_ptr<Server>> Server::Start(ServerOptions options, Backend& backend) {
  auto server = std::make_unique<AsioServer>(std::move(options), backend);
  TRY(server->Listen());
  TRY(server->Run());
  return std::unique_ptr<Server>(std::move(server));
}

}  // namespace caisson::stream
