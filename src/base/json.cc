// SPDX-License-Identifier: Apache-2.0
#include "base/json.h"

#include <set>

#include <nlohmann/json.hpp>

namespace caisson {
namespace {

// A SAX handler over nlohmann's own DOM builder would reach into its internals; checking depth and keys first with a
// SAX pass of our own, then parsing, costs a second pass but only documented API.
class Checker : public nlohmann::json_sax<Json> {
 public:
  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool start_object(size_t) override {
    keys_.emplace_back();
    return Enter();
  }
  bool end_object() override {
    keys_.pop_back();
    --depth_;
    return true;
  }
  bool start_array(size_t) override { return Enter(); }
  bool end_array() override {
    --depth_;
    return true;
  }
  bool key(string_t& key) override {
    if (keys_.back().insert(key).second) return true;
    why_ = "an object has the same key twice";
    return false;
  }
  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception&) override {
    why_ = fmt::format("syntax error at byte {}", position);
    return false;
  }
  const std::string& why() const { return why_; }

 private:
  bool Enter() {
    if (++depth_ <= limits::kJsonDepth) return true;
    why_ = fmt::format("nested deeper than {}", limits::kJsonDepth);
    return false;
  }
  int depth_ = 0;
  std::vector<std::set<std::string>> keys_;
  std::string why_;
};

}  // namespace

Result<Json> ParseJson(std::string_view text, size_t max_bytes) {
  if (text.size() > max_bytes) {
    return MakeError(Code::kInvalidArgument, "JSON of {} bytes is larger than the limit of {}", text.size(), max_bytes);
  }
  Checker checker;
  if (!Json::sax_parse(text, &checker)) return MakeError(Code::kInvalidArgument, "bad JSON: {}", checker.why());
  Json value = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (value.is_discarded()) return MakeError(Code::kInvalidArgument, "bad JSON: syntax error");
  return value;
}

std::string DumpJson(const Json& value) {
  return value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace caisson
