// SPDX-License-Identifier: Apache-2.0
#include "cli/stream_client.h"

#include <nlohmann/json.hpp>

#include <csignal>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include <boost/asio/buffer.hpp>
#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/websocket.hpp>
#include <deque>
#include <memory>
#include <optional>
#include <semaphore>
#include <thread>

#include "base/json.h"
#include "base/limits.h"
#include "base/scope_exit.h"
#include "base/strings.h"

namespace caisson::cli {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
using asio::ip::tcp;
using boost::system::error_code;
using WebSocket = beast::websocket::stream<tcp::socket>;

enum Channel : char { kStdin = 0, kStdout = 1, kStderr = 2, kError = 3, kResize = 4, kClose = '\xff' };
constexpr size_t kChunkBytes = 32 << 10;

Error NetError(std::string_view what, const error_code& error) {
  return MakeError(Code::kUnavailable, "{}: {}", what, error.message());
}

struct Url {
  std::string host, port, target;
};

Result<Url> ParseUrl(const std::string& url) {
  constexpr std::string_view kScheme = "http://";
  if (!url.starts_with(kScheme)) {
    return MakeError(Code::kUnimplemented, "the streaming server speaks TLS ('streaming.tls_certificate'): use crictl or kubectl");
  }
  std::string rest = url.substr(kScheme.size());
  size_t slash = rest.find('/');
  size_t colon = rest.rfind(':', slash);
  if (slash == std::string::npos || colon == std::string::npos || colon > slash) {
    return MakeError(Code::kInternal, "the daemon has answered with an URL of another kind");
  }
  Url parsed{rest.substr(0, colon), rest.substr(colon + 1, slash - colon - 1), rest.substr(slash)};
  if (parsed.host.starts_with('[') && parsed.host.ends_with(']')) parsed.host = parsed.host.substr(1, parsed.host.size() - 2);
  return parsed;
}

// Connected and upgraded. Blocks.
Result<> Connect(WebSocket& socket, const std::string& text, const char* protocol) {
  Url url = TRY(ParseUrl(text));
  error_code error;
  tcp::resolver resolver(socket.get_executor());
  auto found = resolver.resolve(url.host, url.port, error);
  if (!error) asio::connect(socket.next_layer(), found, error);
  if (error) return NetError("connect to the streaming server", error);
  socket.next_layer().set_option(tcp::no_delay(true), error);
  socket.set_option(beast::websocket::stream_base::decorator([protocol](beast::websocket::request_type& request) {
    request.set(beast::http::field::sec_websocket_protocol, protocol);
  }));
  socket.handshake(url.host + ":" + url.port, url.target, error);
  if (error) return NetError("the streaming server's answer", error);
  socket.binary(true);
  socket.read_message_max(limits::kWebSocketMessageBytes);
  return {};
}

void WriteAll(int fd, std::string_view data) {
  while (!data.empty()) {
    ssize_t n = write(fd, data.data(), data.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return;  // nobody reads: the remote process goes on, as with a local one whose SIGPIPE is ignored
    data.remove_prefix(static_cast<size_t>(n));
  }
}

// metav1.Status: {"status": "Success"}, or a Failure with the exit code among its causes.
Result<int> ExitCode(const std::string& status) {
  auto json = ParseJson(status);
  if (!json || !json->is_object()) return MakeError(Code::kUnavailable, "the session was cut off");
  if (json->value("status", "") == "Success") return 0;
  if (json->contains("details") && (*json)["details"].is_object()) {
    for (const Json& cause : (*json)["details"].value("causes", Json::array())) {
      if (!cause.is_object() || cause.value("reason", "") != "ExitCode") continue;
      if (auto code = ParseInt64(cause.value("message", ""))) return static_cast<int>(*code);
    }
  }
  return MakeError(Code::kUnknown, "{}", json->value("message", "the session has failed"));
}

// The terminal as the remote one's keyboard: no echo, no line editing, no signals of its own.
class RawTerminal {
 public:
  RawTerminal() {
    if (tcgetattr(STDIN_FILENO, &before_) != 0) return;
    termios raw = before_;
    cfmakeraw(&raw);
    raw_ = tcsetattr(STDIN_FILENO, TCSANOW, &raw) == 0;
  }
  ~RawTerminal() {
    if (raw_) tcsetattr(STDIN_FILENO, TCSANOW, &before_);
  }

 private:
  termios before_ = {};
  bool raw_ = false;
};

// Our stdin by a thread of its own: it may be a file, which no event loop can wait for. A chunk at a time: the next is
// read when the last has been sent. It may wait in read(2) when the session is over and the command ends.
struct Input {
  explicit Input(std::shared_ptr<asio::io_context> loop) : loop(std::move(loop)) {}
  std::shared_ptr<asio::io_context> loop;  // shared: the thread may outlive the session
  std::function<void(std::string)> on_chunk;  // empty: the end
  std::counting_semaphore<> sent{1};
};

void ReadInput(std::shared_ptr<Input> input) {
  std::thread([input] {
    for (bool open = true; open;) {
      input->sent.acquire();
      std::string chunk(kChunkBytes, '\0');
      ssize_t n;
      while ((n = read(STDIN_FILENO, chunk.data(), chunk.size())) < 0 && errno == EINTR) {
      }
      open = n > 0;
      chunk.resize(open ? static_cast<size_t>(n) : 0);
      asio::post(*input->loop, [input, chunk = std::move(chunk)] { input->on_chunk(chunk); });
    }
  }).detach();
}

class StreamSession {
 public:
  StreamSession(WebSocket& socket, bool tty) : socket_(socket), tty_(tty), resized_(socket.get_executor(), SIGWINCH) {}

  void Start() {
    Read();
    if (!tty_) return;
    SendSize();
    AwaitResize();
  }
  void SendInput(std::string chunk, std::function<void()> sent) {
    bool end = chunk.empty();
    // v5: {255, channel} ends a channel.
    Send(end ? std::string{kClose, kStdin} : std::string(1, kStdin) + chunk, std::move(sent));
  }
  const std::string& status() const { return status_; }

 private:
  void Read() {
    socket_.async_read(buffer_, [this](const error_code& error, size_t) {
      if (error) return End();
      auto data = buffer_.data();
      std::string_view message(static_cast<const char*>(data.data()), data.size());
      if (!message.empty()) Take(message[0], message.substr(1));
      buffer_.consume(buffer_.size());
      Read();
    });
  }
  void Take(char channel, std::string_view data) {
    if (channel == kStdout) WriteAll(STDOUT_FILENO, data);
    if (channel == kStderr) WriteAll(STDERR_FILENO, data);
    if (channel == kError && status_.size() + data.size() < limits::kJsonBytes) status_ += data;
  }
  void End() {
    ended_ = true;
    resized_.cancel();
    queue_.clear();
  }

  void SendSize() {
    winsize size = {};
    if (ioctl(STDIN_FILENO, TIOCGWINSZ, &size) != 0) return;
    Send(std::string(1, kResize) + fmt::format(R"({{"Width":{},"Height":{}}})", size.ws_col, size.ws_row), nullptr);
  }
  void AwaitResize() {
    resized_.async_wait([this](const error_code& error, int) {
      if (error || ended_) return;
      SendSize();
      AwaitResize();
    });
  }

  struct Message {
    std::string data;
    std::function<void()> sent;
  };
  void Send(std::string data, std::function<void()> sent) {
    if (ended_) return;
    queue_.push_back({std::move(data), std::move(sent)});
    if (queue_.size() == 1) WriteNext();
  }
  void WriteNext() {
    auto sending = std::make_shared<Message>(queue_.front());
    socket_.async_write(asio::buffer(sending->data), [this, sending](const error_code& error, size_t) {
      if (error || ended_) return;
      if (sending->sent) sending->sent();
      queue_.pop_front();
      if (!queue_.empty()) WriteNext();
    });
  }

  WebSocket& socket_;
  const bool tty_;
  asio::signal_set resized_;
  beast::flat_buffer buffer_;
  std::deque<Message> queue_;
  std::string status_;
  bool ended_ = false;
};

// One local connection and its WebSocket, each a buffer ahead of the other at most. v4.channel.k8s.io: channel 0 is the
// data, 1 the error; the first message of each names the port.
class ForwardedConnection : public std::enable_shared_from_this<ForwardedConnection> {
 public:
  explicit ForwardedConnection(tcp::socket local) : remote_(local.get_executor()), local_(std::move(local)) {}

  Result<> Start(const std::string& url) {
    TRY(Connect(remote_, url, "v4.channel.k8s.io"));
    ReadRemote();
    ReadLocal();
    return {};
  }

 private:
  void ReadRemote() {
    remote_.async_read(from_remote_, [self = shared_from_this()](const error_code& error, size_t) {
      if (error) return self->Close();
      auto data = self->from_remote_.data();
      self->TakeRemote({static_cast<const char*>(data.data()), data.size()});
    });
  }
  void TakeRemote(std::string_view message) {
    size_t channel = message.empty() ? 2 : static_cast<size_t>(message[0]);
    bool head = channel < 2 && !std::exchange(begun_[channel], true);
    std::string_view data = message.substr(std::min(message.size(), head ? size_t{3} : size_t{1}));
    if (channel == 1 && !data.empty()) {
      WriteAll(STDERR_FILENO, fmt::format("caisson: {}\n", data));
      return Close();
    }
    asio::async_write(local_, asio::buffer(data), [self = shared_from_this()](const error_code& error, size_t) {
      self->from_remote_.consume(self->from_remote_.size());
      if (error) return self->Close();
      self->ReadRemote();
    });
  }
  void ReadLocal() {
    local_.async_read_some(asio::buffer(from_local_ + 1, kChunkBytes), [self = shared_from_this()](const error_code& error, size_t n) {
      if (error) return self->Close();
      self->remote_.async_write(asio::buffer(self->from_local_, n + 1), [self](const error_code& failed, size_t) {
        if (failed) return self->Close();
        self->ReadLocal();
      });
    });
  }
  void Close() {
    error_code ignored;
    local_.close(ignored);
    remote_.next_layer().close(ignored);
  }

  WebSocket remote_;
  tcp::socket local_;
  beast::flat_buffer from_remote_;
  char from_local_[1 + kChunkBytes] = {};
  bool begun_[2] = {};
};

}  // namespace

Result<int> RunStream(const std::string& url, const StreamOptions& options) {
  auto loop = std::make_shared<asio::io_context>(1);
  WebSocket remote(*loop);
  TRY(Connect(remote, url, "v5.channel.k8s.io"));
  bool terminal = options.tty && isatty(STDIN_FILENO);
  std::optional<RawTerminal> raw;
  if (terminal) raw.emplace();
  StreamSession session(remote, terminal);
  session.Start();
  auto input = std::make_shared<Input>(loop);  // until the loop has ended: its handlers know it
  if (options.in) {
    input->on_chunk = [&session, raw_input = input.get()](std::string chunk) {
      session.SendInput(std::move(chunk), [raw_input] { raw_input->sent.release(); });
    };
    ReadInput(input);
  }
  loop->run();
  return ExitCode(session.status());
}

Result<> RunForward(uint16_t local_port, const std::function<Result<std::string>()>& new_url,
                    const std::function<void(uint16_t)>& on_listening) {
  asio::io_context loop(1);
  tcp::acceptor acceptor(loop);
  tcp::endpoint endpoint(asio::ip::address_v4::loopback(), local_port);
  error_code error;
  acceptor.open(endpoint.protocol(), error);
  if (!error) acceptor.set_option(tcp::acceptor::reuse_address(true), error);
  if (!error) acceptor.bind(endpoint, error);
  if (!error) acceptor.listen(asio::socket_base::max_listen_connections, error);
  if (error) return NetError(fmt::format("listen on 127.0.0.1:{}", local_port), error);
  on_listening(acceptor.local_endpoint().port());
  asio::signal_set ended(loop, SIGINT, SIGTERM);
  ended.async_wait([&](const error_code&, int) { loop.stop(); });
  std::function<void()> accept = [&] {
    acceptor.async_accept([&](const error_code& failed, tcp::socket local) {
      if (failed) return loop.stop();
      auto url = new_url();
      auto carried = std::make_shared<ForwardedConnection>(std::move(local));
      Result<> started = url ? carried->Start(*url) : Result<>(std::move(url.error()));
      if (!started) WriteAll(STDERR_FILENO, fmt::format("caisson: {}\n", started.error().message));
      accept();
    });
  };
  accept();
  loop.run();
  return {};
}

}  // namespace caisson::cli
