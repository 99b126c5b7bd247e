// SPDX-License-Identifier: Apache-2.0
#include "stream/connection.h"

#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <boost/asio/basic_waitable_timer.hpp>
#include <boost/asio/ssl/stream.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/empty_body.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/status.hpp>
#include <boost/beast/ssl/ssl_stream.hpp>
#include <boost/beast/websocket.hpp>
#include <boost/beast/websocket/ssl.hpp>
#include <chrono>
#include <deque>
#include <optional>

#include "base/clock.h"
#include "base/limits.h"
#include "stream/http_request.h"
#include "stream/link.h"
#include "stream/port_forward.h"
#include "stream/remote_command.h"

namespace caisson::stream {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
namespace websocket = boost::beast::websocket;
using asio::ip::tcp;
using boost::system::error_code;
using PlainStream = StreamSocket;
using TlsStream = beast::ssl_stream<StreamSocket>;
using Timer = asio::basic_waitable_timer<std::chrono::steady_clock, asio::wait_traits<std::chrono::steady_clock>, asio::io_context::executor_type>;
using std::chrono::milliseconds;

constexpr size_t kReadBytes = 64 << 10;
constexpr auto kGoodbye = std::chrono::seconds(5);     // for the client to close too, when all is said
constexpr auto kPausedCheck = std::chrono::seconds(2);  // of a client whose input waits: is it still there?
constexpr int64_t kFlushNanos = 30 * kNanosPerSecond;  // without progress, for it to take what is left

StreamSocket& SocketOf(PlainStream& stream) { return stream; }
StreamSocket& SocketOf(TlsStream& stream) { return stream.next_layer(); }

std::unique_ptr<LinkUser> MakeUser(const Loop& loop, Link& link, Accepted accepted, const std::string& peer) {
  if (auto* forward = std::get_if<PortForwardTarget>(&accepted.grant)) {
    if (!accepted.websocket) return MakeSpdyForward(loop, link, std::move(*forward));
    return MakeWebSocketForward(loop, link, accepted.protocol, std::move(*forward));
  }
  auto* exec = std::get_if<ExecGrant>(&accepted.grant);
  ExecTarget target = std::move(exec ? exec->target : std::get<AttachGrant>(accepted.grant).target);
  target.peer = peer;
  if (accepted.websocket)
    return MakeWebSocketCommand(loop, link, accepted.protocol, std::move(target), exec == nullptr);
  return MakeSpdyCommand(loop, link, accepted.protocol, std::move(target), exec == nullptr);
}

// The queue, the user's life and the idle timer, whatever the link is made of. Operations that are under way keep it
// alive; one always is, the watch for errors, until the socket is closed.
class LinkBase : public Link, public std::enable_shared_from_this<LinkBase> {
 public:
  LinkBase(const ConnectionContext& context, ConnectionList::Id id)
      : context_(context),
        timer_(*context.loop.context),
        presence_(*context.loop.context),
        id_(id),
        last_activity_(MonotonicNanos()) {}
  ~LinkBase() override { context_.list.Remove(id_); }

  // `early`: what the client sent behind its request.
  void Open(std::unique_ptr<LinkUser> user, std::string_view early) {
    user_ = std::move(user);
    WatchErrors();
    ArmTimer();
    if (!early.empty()) user_->OnReceive(early);
    if (!ended_ && !paused_) Read();
  }

  void Send(std::string data) override { Queue(std::move(data), false); }
  void SendText(std::string data) override { Queue(std::move(data), true); }
  void Send(std::string_view head, std::string_view body) override {
    size_t sent = writing_ || ended_ ? 0 : WriteNow(head, body);
    if (sent > 0) last_activity_ = MonotonicNanos();
    if (sent == head.size() + body.size()) return;
    std::string rest(head.substr(std::min(sent, head.size())));
    rest.append(body.substr(sent - std::min(sent, head.size())));
    Queue(std::move(rest), false);
  }
  bool Congested() const override { return queued_ > limits::kStreamQueueBytes; }
  void PauseReading(bool paused) override {
    if (paused && !std::exchange(paused_, true)) CheckPresence();
    paused_ = paused;
    if (!paused && !reading_ && !ended_ && user_) Read();
  }
  void Finish() override {
    if (ended_) return;
    ended_ = true;
    DropUser();
    last_activity_ = MonotonicNanos();
    ArmTimer();
    if (!writing_) Goodbye();
  }
  void Abort() override {
    ended_ = true;
    DropUser();
    timer_.cancel();
    presence_.cancel();
    CloseNow();
  }

 protected:
  struct Message {
    std::string data;
    bool text = false;
  };
  // Start one operation each; they call OnRead and OnWritten.
  virtual void ReadSome() = 0;
  virtual void Write(const Message& message) = 0;
  // While none is under way: writes what is taken at once and says how much it was. An error shows at the next Write.
  virtual size_t WriteNow(std::string_view, std::string_view) { return 0; }
  // What OnRead brought has been looked at.
  virtual void Taken() = 0;
  // A connection that breaks while nothing is read or written.
  virtual void WatchErrors() = 0;
  virtual StreamSocket& Socket() = 0;
  // All is sent: closes in good order, within kGoodbye.
  virtual void Goodbye() = 0;
  virtual void CloseNow() = 0;

  void OnRead(const error_code& error, std::string_view data) {
    last_activity_ = MonotonicNanos();
    if (!ended_ && error) Abort();
    if (!ended_) user_->OnReceive(data);
    Taken();
    reading_ = false;
    if (!ended_ && !paused_) Read();
  }
  void OnWritten(const error_code& error) {
    last_activity_ = MonotonicNanos();
    writing_ = false;
    if (error) return Abort();
    bool congested = Congested();
    queued_ -= queue_.front().data.size();
    queue_.pop_front();
    if (!queue_.empty()) WriteNext();
    if (!ended_ && congested && !Congested()) user_->OnWritable();
    if (ended_ && !writing_) Goodbye();
  }

  ConnectionContext context_;
  bool ended_ = false;  // Finish or Abort: there is no user any more
  Timer timer_;

 private:
  // A client that has closed its connection is found by reading, or, while nothing is read, by the connection's state
  // (tcp(7), TCP_INFO): clients of these protocols never close their half only.
  void CheckPresence() {
    presence_.expires_after(kPausedCheck);
    presence_.async_wait([weak = weak_from_this()](const error_code& error) {
      auto self = weak.lock();
      if (error || !self || !self->paused_ || self->ended_) return;
      tcp_info info = {};
      socklen_t size = sizeof info;
      int got = getsockopt(self->Socket().native_handle(), IPPROTO_TCP, TCP_INFO, &info, &size);
      if (got != 0 || info.tcpi_state == TCP_CLOSE_WAIT) return self->Abort();
      self->CheckPresence();
    });
  }
  void Read() {
    reading_ = true;
    ReadSome();
  }
  void Queue(std::string data, bool text) {
    if (ended_) return;
    queued_ += data.size();
    queue_.push_back({std::move(data), text});
    if (!writing_) WriteNext();
  }
  void WriteNext() {
    writing_ = true;
    Write(queue_.front());
  }
  // Not here: one of the user's methods may be what is running.
  void DropUser() {
    if (user_) asio::post(*context_.loop.context, [user = std::shared_ptr<LinkUser>(std::move(user_))] {});
  }
  void ArmTimer() {
    int64_t limit = ended_ ? kFlushNanos : context_.loop.options.idle_timeout_millis * kNanosPerMilli;
    timer_.expires_after(std::chrono::nanoseconds(last_activity_ + limit - MonotonicNanos()));
    timer_.async_wait([weak = weak_from_this(), limit](const error_code& error) {
      auto self = weak.lock();
      if (error || !self) return;
      if (MonotonicNanos() - self->last_activity_ >= limit) return self->Abort();
      self->ArmTimer();
    });
  }

  Timer presence_;
  const ConnectionList::Id id_;
  std::unique_ptr<LinkUser> user_;
  std::deque<Message> queue_;  // the front one is being written
  size_t queued_ = 0;
  bool reading_ = false, writing_ = false, paused_ = false;
  int64_t last_activity_;
};

// SPDY: the bytes of the connection.
template <class Stream>
class ByteLink final : public LinkBase {
 public:
  ByteLink(const ConnectionContext& context, ConnectionList::Id id, Stream stream)
      : LinkBase(context, id), stream_(std::move(stream)), buffer_(std::make_unique_for_overwrite<char[]>(kReadBytes)) {}

 private:
  auto Self() { return std::static_pointer_cast<ByteLink>(shared_from_this()); }

  void ReadSome() override {
    stream_.async_read_some(asio::buffer(buffer_.get(), kReadBytes), [self = Self()](const error_code& error, size_t size) {
      self->OnRead(error, std::string_view(self->buffer_.get(), size));
    });
  }
  void Taken() override {}
  void Write(const Message& message) override {
    asio::async_write(stream_, asio::buffer(message.data),
                      [self = Self()](const error_code& error, size_t) { self->OnWritten(error); });
  }
  size_t WriteNow(std::string_view head, std::string_view body) override {
    if constexpr (std::is_same_v<Stream, PlainStream>) {
      iovec parts[] = {{const_cast<char*>(head.data()), head.size()}, {const_cast<char*>(body.data()), body.size()}};
      msghdr message = {};
      message.msg_iov = parts;
      message.msg_iovlen = 2;
      ssize_t sent = sendmsg(Socket().native_handle(), &message, MSG_DONTWAIT | MSG_NOSIGNAL);
      return sent < 0 ? 0 : static_cast<size_t>(sent);
    }
    return 0;
  }
  void WatchErrors() override {
    SocketOf(stream_).async_wait(StreamSocket::wait_error, [self = Self()](const error_code&) { self->Abort(); });
  }
  // Closing while the client's bytes are unread would make the kernel reset the connection and discard what the client
  // has not read yet. So: say that nothing more comes, and read on until it closes too.
  void Goodbye() override {
    timer_.expires_after(kGoodbye);
    timer_.async_wait([weak = weak_from_this()](const error_code& error) {
      auto self = weak.lock();
      if (!error && self) self->Abort();
    });
    SayLast(stream_);
  }
  void SayLast(PlainStream&) { Discard(); }
  void SayLast(TlsStream& stream) {
    stream.async_shutdown([self = Self()](const error_code&) { self->Discard(); });
  }
  void Discard() {
    error_code ignored;
    SocketOf(stream_).shutdown(StreamSocket::shutdown_send, ignored);
    SocketOf(stream_).async_read_some(asio::buffer(rest_), [self = Self()](const error_code& error, size_t) {
      if (error) return self->Abort();
      self->Discard();
    });
  }
  StreamSocket& Socket() override { return SocketOf(stream_); }
  void CloseNow() override {
    error_code ignored;
    SocketOf(stream_).close(ignored);
  }

  Stream stream_;
  std::unique_ptr<char[]> buffer_;  // of which a client that sends little has touched little
  char rest_[4096];
};

// WebSocket: its messages.
template <class Stream>
class MessageLink final : public LinkBase {
 public:
  MessageLink(const ConnectionContext& context, ConnectionList::Id id, Stream stream)
      : LinkBase(context, id), socket_(std::move(stream)) {
    websocket::stream_base::timeout timeout = {};
    timeout.handshake_timeout = kGoodbye;  // also of the closing handshake
    timeout.idle_timeout = websocket::stream_base::none();
    socket_.set_option(timeout);
    socket_.read_message_max(limits::kWebSocketMessageBytes);
    socket_.auto_fragment(false);
  }

  // Answers the upgrade, then calls `ready` if the client is still there.
  template <class Request>
  void Accept(std::shared_ptr<Request> request, const std::string& protocol, std::function<void()> ready) {
    socket_.set_option(websocket::stream_base::decorator([protocol](websocket::response_type& response) {
      if (!protocol.empty()) response.set(http::field::sec_websocket_protocol, protocol);
    }));
    socket_.async_accept(*request, [self = Self(), request, ready](const error_code& error) {
      if (error || self->ended_) return self->Abort();
      ready();
    });
  }

 private:
  auto Self() { return std::static_pointer_cast<MessageLink>(shared_from_this()); }

  void ReadSome() override {
    socket_.async_read(buffer_, [self = Self()](const error_code& error, size_t) {
      auto data = self->buffer_.data();
      self->OnRead(error, std::string_view(static_cast<const char*>(data.data()), data.size()));
    });
  }
  void Taken() override { buffer_.consume(buffer_.size()); }
  void WatchErrors() override {
    SocketOf(socket_.next_layer()).async_wait(StreamSocket::wait_error, [self = Self()](const error_code&) {
      self->Abort();
    });
  }
  void Write(const Message& message) override {
    socket_.text(message.text);
    socket_.async_write(asio::buffer(message.data),
                        [self = Self()](const error_code& error, size_t) { self->OnWritten(error); });
  }
  void Goodbye() override {
    timer_.cancel();
    socket_.async_close(websocket::close_code::normal, [self = Self()](const error_code&) { self->Abort(); });
  }
  StreamSocket& Socket() override { return SocketOf(socket_.next_layer()); }
  void CloseNow() override {
    error_code ignored;
    SocketOf(socket_.next_layer()).close(ignored);
  }

  websocket::stream<Stream, false> socket_;  // without compression, which no client of these protocols asks for
  beast::flat_buffer buffer_;
};

// From the accepted socket to the link.
template <class Stream>
class Client final : public std::enable_shared_from_this<Client<Stream>> {
 public:
  Client(const ConnectionContext& context, Stream stream) : context_(context), stream_(std::move(stream)), deadline_(*context.loop.context) {
    parser_.header_limit(limits::kStreamRequestBytes);
  }
  ~Client() {
    if (!promoted_) context_.list.Remove(id_);
  }

  void Start(ConnectionList::Id id) {
    id_ = id;
    EndAfter(milliseconds(context_.loop.options.handshake_timeout_millis));
    Handshake(stream_);
  }
  void Abort() {
    error_code ignored;
    SocketOf(stream_).close(ignored);
  }

 private:
  auto Self() { return this->shared_from_this(); }

  void EndAfter(std::chrono::steady_clock::duration time) {
    deadline_.expires_after(time);
    deadline_.async_wait([weak = this->weak_from_this()](const error_code& error) {
      auto self = weak.lock();
      if (!error && self && !self->promoted_) self->Abort();
    });
  }
  void Handshake(PlainStream&) { ReadRequest(); }
  void Handshake(TlsStream& stream) {
    stream.async_handshake(asio::ssl::stream_base::server, [self = Self()](const error_code& error) {
      if (!error) self->ReadRequest();
    });
  }
  void ReadRequest() {
    http::async_read_header(stream_, buffer_, parser_, [self = Self()](const error_code& error, size_t) {
      if (!error) return self->Answer();
      if (error == http::error::header_limit) return self->Refuse({431, "the request is too large", {}});
      if (error.category() == make_error_code(http::error::bad_method).category() &&
          error != http::error::end_of_stream && error != http::error::partial_message) {
        self->Refuse({400, "malformed request", {}});
      }
    });
  }

  std::string Header(std::string_view name) {
    std::string joined;
    auto range = parser_.get().equal_range(beast::string_view(name.data(), name.size()));
    for (auto at = range.first; at != range.second; ++at) {
      if (!joined.empty()) joined += ',';
      joined.append(at->value().data(), at->value().size());
    }
    return joined;
  }

  void Answer() {
    const auto& request = parser_.get();
    auto length = parser_.content_length();
    if (parser_.chunked() || (length && *length > 0)) return Refuse({400, "the request has a body", {}});
    RequestHead head;
    head.method = std::string(request.method_string());
    head.target = std::string(request.target());
    head.connection = Header("Connection");
    head.upgrade = Header("Upgrade");
    head.spdy_protocols = Header("X-Stream-Protocol-Version");
    head.websocket_protocols = Header("Sec-WebSocket-Protocol");
    Accepted accepted;
    Refusal refusal;
    if (!Decide(head, context_.tokens, &accepted, &refusal)) return Refuse(refusal);
    deadline_.cancel();
    promoted_ = true;
    if (accepted.websocket) return OpenMessages(std::move(accepted));
    OpenBytes(std::move(accepted));
  }

  template <class Made>
  void Promote(const std::shared_ptr<Made>& link) {
    context_.list.Promote(id_, [weak = std::weak_ptr<Made>(link)] {
      if (auto made = weak.lock()) made->Abort();
    });
  }

  std::string Peer() {
    error_code error;
    auto endpoint = SocketOf(stream_).remote_endpoint(error);
    if (error) return "a client that is gone";
    return fmt::format("{}:{}", endpoint.address().to_string(), endpoint.port());
  }

  void OpenBytes(Accepted accepted) {
    std::string peer = Peer();
    auto link = std::make_shared<ByteLink<Stream>>(context_, id_, std::move(stream_));
    Promote(link);
    link->Send(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: " +
        accepted.protocol + "\r\n\r\n");
    auto early = buffer_.data();
    link->Open(MakeUser(context_.loop, *link, std::move(accepted), peer),
               std::string_view(static_cast<const char*>(early.data()), early.size()));
  }

  void OpenMessages(Accepted accepted) {
    std::string peer = Peer();
    auto link = std::make_shared<MessageLink<Stream>>(context_, id_, std::move(stream_));
    Promote(link);
    using Request = http::request<http::empty_body>;
    auto request = std::make_shared<Request>(parser_.release());
    std::string protocol = accepted.protocol;
    // Links are shared with their own operations alone, so that `ready` must not hold this one.
    link->Accept(request, protocol,
                 [raw = link.get(), loop = context_.loop, accepted, peer] {
                   raw->Open(MakeUser(loop, *raw, accepted, peer), {});
                 });
  }

  void Refuse(const Refusal& refusal) {
    auto status = static_cast<http::status>(refusal.status);
    auto reason = http::obsolete_reason(status);
    std::string accepted;
    for (std::string_view protocol : refusal.accepted) {
      accepted += fmt::format("X-Accepted-Stream-Protocol-Versions: {}\r\n", protocol);
    }
    response_ = fmt::format(
        "HTTP/1.1 {} {}\r\nContent-Type: text/plain; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\n{}"
        "Connection: close\r\nContent-Length: {}\r\n\r\n{}\n",
        refusal.status, std::string_view(reason.data(), reason.size()), accepted, refusal.text.size() + 1,
        refusal.text);
    EndAfter(kGoodbye);
    asio::async_write(stream_, asio::buffer(response_), [self = Self()](const error_code& error, size_t) {
      if (!error) self->Discard();
    });
  }
  // See ByteLink::Goodbye.
  void Discard() {
    error_code ignored;
    SocketOf(stream_).shutdown(StreamSocket::shutdown_send, ignored);
    SocketOf(stream_).async_read_some(asio::buffer(rest_), [self = Self()](const error_code& error, size_t) {
      if (!error) self->Discard();
    });
  }

  ConnectionContext context_;
  Stream stream_;
  Timer deadline_;  // of the request, then of its refusal
  ConnectionList::Id id_ = 0;
  bool promoted_ = false;
  beast::flat_buffer buffer_{limits::kStreamRequestBytes + kReadBytes};
  http::request_parser<http::empty_body> parser_;
  std::string response_;
  char rest_[1024];
};

void Prepare(StreamSocket& socket) {
  error_code ignored;
  socket.set_option(tcp::no_delay(true), ignored);
  socket.set_option(asio::socket_base::keep_alive(true), ignored);
  // A client whose machine is gone says nothing; within two minutes that is known.
  using Option = asio::detail::socket_option::integer<IPPROTO_TCP, TCP_KEEPIDLE>;
  socket.set_option(Option(60), ignored);
  socket.set_option(asio::detail::socket_option::integer<IPPROTO_TCP, TCP_KEEPINTVL>(15), ignored);
  socket.set_option(asio::detail::socket_option::integer<IPPROTO_TCP, TCP_KEEPCNT>(4), ignored);
}

template <class Stream>
void Serve(const ConnectionContext& context, Stream stream) {
  auto client = std::make_shared<Client<Stream>>(context, std::move(stream));
  client->Start(context.list.Add([weak = std::weak_ptr<Client<Stream>>(client)] {
    if (auto alive = weak.lock()) alive->Abort();
  }));
}

}  // namespace

void ServeConnection(const ConnectionContext& context, StreamSocket socket, std::shared_ptr<asio::ssl::context> tls) {
  if (!context.list.MakeRoom()) return;  // closes
  Prepare(socket);
  if (tls) {
    Serve(context, TlsStream(std::move(socket), *tls));
  } else {
    Serve(context, PlainStream(std::move(socket)));
  }
}

}  // namespace caisson::stream
