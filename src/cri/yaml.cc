// SPDX-License-Identifier: Apache-2.0
#include "cri/yaml.h"

#include <yaml.h>

#include <charconv>

#include <nlohmann/json.hpp>

namespace caisson::cri {
namespace {

// An event, freed with its content.
class Event {
 public:
  Event() = default;
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  ~Event() { yaml_event_delete(&event_); }
  yaml_event_t* get() { return &event_; }
  yaml_event_type_t type() const { return event_.type; }
  size_t line() const { return event_.start_mark.line + 1; }
  const yaml_event_t& operator*() const { return event_; }

 private:
  yaml_event_t event_{};
};

std::string_view View(const yaml_char_t* text, size_t length) { return {reinterpret_cast<const char*>(text), length}; }

template <class Integer>
bool Whole(std::string_view digits, int base, Integer* value) {
  auto [end, failed] = std::from_chars(digits.data(), digits.data() + digits.size(), *value, base);
  return failed == std::errc() && end == digits.data() + digits.size() && !digits.empty();
}

// YAML 1.2 "10.3.2. Tag Resolution"; "0644" is octal as in YAML 1.1, which is what writers of file modes mean.
Json Plain(std::string_view text) {
  if (text.empty() || text == "~" || text == "null" || text == "Null" || text == "NULL") return nullptr;
  if (text == "true" || text == "True" || text == "TRUE") return true;
  if (text == "false" || text == "False" || text == "FALSE") return false;
  uint64_t number = 0;
  if (text.starts_with("0x") && Whole(text.substr(2), 16, &number)) return number;
  if (text.starts_with("0o") && Whole(text.substr(2), 8, &number)) return number;
  if (text.size() > 1 && text[0] == '0' && Whole(text.substr(1), 8, &number)) return number;
  if (Whole(text, 10, &number)) return number;
  int64_t negative = 0;
  if (text[0] == '-' && Whole(text, 10, &negative)) return negative;
  return std::string(text);
}

class Reader {
 public:
  explicit Reader(std::string_view text) {
    yaml_parser_initialize(&parser_);
    yaml_parser_set_encoding(&parser_, YAML_UTF8_ENCODING);
    yaml_parser_set_input_string(&parser_, reinterpret_cast<const unsigned char*>(text.data()), text.size());
  }
  ~Reader() { yaml_parser_delete(&parser_); }

  Result<Json> Document() {
    TRY(Expect(YAML_STREAM_START_EVENT, "a stream"));
    TRY(Expect(YAML_DOCUMENT_START_EVENT, "a document"));
    Event first;
    TRY(Next(&first));
    Json value = TRY(Node(first, 0));
    TRY(Expect(YAML_DOCUMENT_END_EVENT, "the document's end"));
    TRY(Expect(YAML_STREAM_END_EVENT, "nothing after the document"));
    return value;
  }

 private:
  static Error Bad(size_t line, std::string_view why) { return MakeError(Code::kInvalidArgument, "YAML line {}: {}", line, why); }

  Result<> Next(Event* event) {
    if (yaml_parser_parse(&parser_, event->get()) != 0) return {};
    const char* why = parser_.problem == nullptr ? "is not YAML" : parser_.problem;
    return Bad(parser_.problem_mark.line + 1, why);
  }

  Result<> Expect(yaml_event_type_t type, std::string_view what) {
    Event event;
    TRY(Next(&event));
    if (event.type() != type) return Bad(event.line(), fmt::format("expected {}", what));
    return {};
  }

  Result<Json> Node(const Event& event, int depth) {
    if (depth >= limits::kJsonDepth) return MakeError(Code::kResourceExhausted, "YAML line {}: nested deeper than {}", event.line(), limits::kJsonDepth);
    switch (event.type()) {
      case YAML_SCALAR_EVENT: return Scalar(event);
      case YAML_SEQUENCE_START_EVENT: return List(event, depth);
      case YAML_MAPPING_START_EVENT: return Mapping(event, depth);
      case YAML_ALIAS_EVENT: return Bad(event.line(), "aliases are not supported");
      default: return Bad(event.line(), "expected a value");
    }
  }

  static Result<> CheckPlainNode(const Event& event, const yaml_char_t* anchor, const yaml_char_t* tag) {
    if (anchor != nullptr) return Bad(event.line(), "anchors are not supported");
    if (tag != nullptr) return Bad(event.line(), "tags are not supported");
    return {};
  }

  static Result<Json> Scalar(const Event& event) {
    const auto& scalar = (*event).data.scalar;
    TRY(CheckPlainNode(event, scalar.anchor, scalar.tag));
    std::string_view text = View(scalar.value, scalar.length);
    if (scalar.style == YAML_PLAIN_SCALAR_STYLE) return Plain(text);
    return Json(std::string(text));
  }

  Result<Json> List(const Event& start, int depth) {
    TRY(CheckPlainNode(start, (*start).data.sequence_start.anchor, (*start).data.sequence_start.tag));
    Json list = Json::array();
    for (;;) {
      Event item;
      TRY(Next(&item));
      if (item.type() == YAML_SEQUENCE_END_EVENT) return list;
      list.push_back(TRY(Node(item, depth + 1)));
    }
  }

  Result<Json> Mapping(const Event& start, int depth) {
    TRY(CheckPlainNode(start, (*start).data.mapping_start.anchor, (*start).data.mapping_start.tag));
    Json object = Json::object();
    for (;;) {
      Event key, value;
      TRY(Next(&key));
      if (key.type() == YAML_MAPPING_END_EVENT) return object;
      if (key.type() != YAML_SCALAR_EVENT) return Bad(key.line(), "a key is no text");
      TRY(CheckPlainNode(key, (*key).data.scalar.anchor, (*key).data.scalar.tag));
      std::string name(View((*key).data.scalar.value, (*key).data.scalar.length));
      if (object.contains(name)) return Bad(key.line(), "a key is there twice");
      TRY(Next(&value));
      object[name] = TRY(Node(value, depth + 1));
    }
  }

  yaml_parser_t parser_{};
};

}  // namespace

Result<Json> ParseYaml(std::string_view text, size_t max_bytes) {
  if (text.size() > max_bytes) return MakeError(Code::kResourceExhausted, "the YAML document is larger than {} bytes", max_bytes);
  return Reader(text).Document();
}

}  // namespace caisson::cri
