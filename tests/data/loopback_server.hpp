#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

namespace refine::testing {

/// A web server on the loopback address that sends `answer(request)` unchanged and closes the
/// connection. With `hold` it keeps the connection open and silent instead.
class LoopbackServer {
 public:
  using Answer = std::function<std::string(const std::string& request)>;

  explicit LoopbackServer(Answer answer, bool hold = false) : answer_(std::move(answer)), hold_(hold) {
    socket_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    if (::bind(socket_, reinterpret_cast<sockaddr*>(&address), size) != 0 || ::listen(socket_, 8) != 0 ||
        ::getsockname(socket_, reinterpret_cast<sockaddr*>(&address), &size) != 0) {
      std::abort();
    }
    port_ = ntohs(address.sin_port);
    thread_ = std::thread([this] { serve(); });
  }
  LoopbackServer(const LoopbackServer&) = delete;

  ~LoopbackServer() {
    stop_ = true;
    thread_.join();
    for (const int connection : held_) ::close(connection);
    ::close(socket_);
  }

  std::string url(const std::string& path = "/file") const {
    return "http://127.0.0.1:" + std::to_string(port_) + path;
  }
  int requests() const { return requests_; }

  /// Returns an answer, or its first part: `sent` bytes of the length in its header.
  static std::string ok(std::string_view body, std::string_view status = "200 OK", std::string_view more = {},
                        std::size_t sent = std::string_view::npos) {
    return "HTTP/1.1 " + std::string(status) + "\r\nContent-Length: " + std::to_string(body.size()) + "\r\n" +
           std::string(more) + "Connection: close\r\n\r\n" + std::string(body.substr(0, sent));
  }

  /// Returns the offset at which the requested range begins; 0 without a range.
  static std::size_t begin_of(const std::string& request) {
    const auto header = request.find("Range: bytes=");
    return header == std::string::npos ? 0 : std::strtoul(request.c_str() + header + 13, nullptr, 10);
  }

 private:
  bool is_readable(int descriptor) const {
    for (int i = 0; i < 500 && !stop_; ++i) {
      pollfd one{descriptor, POLLIN, 0};
      if (::poll(&one, 1, 10) > 0) return true;
    }
    return false;
  }

  void serve() {
    while (!stop_) {
      if (!is_readable(socket_)) continue;
      const int connection = ::accept(socket_, nullptr, nullptr);
      std::string request;
      char block[4096];
      while (request.find("\r\n\r\n") == std::string::npos && is_readable(connection)) {
        const auto got = ::recv(connection, block, sizeof block, 0);
        if (got <= 0) break;
        request.append(block, static_cast<std::size_t>(got));
      }
      ++requests_;
      const std::string reply = answer_(request);
      for (std::size_t sent = 0; sent < reply.size();) {
        const auto n = ::send(connection, reply.data() + sent, reply.size() - sent, MSG_NOSIGNAL);
        if (n <= 0) break;
        sent += static_cast<std::size_t>(n);
      }
      if (hold_) {
        held_.push_back(connection);
      } else {
        ::shutdown(connection, SHUT_WR);
        ::close(connection);
      }
    }
  }

  Answer answer_;
  bool hold_;
  int socket_ = -1;
  std::uint16_t port_ = 0;
  std::atomic<bool> stop_ = false;
  std::atomic<int> requests_ = 0;
  std::vector<int> held_;
  std::thread thread_;
};

}  // namespace refine::testing
