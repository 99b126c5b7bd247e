// SPDX-License-Identifier: Apache-2.0
//
// Reading members of a JSON object with errors that name the path. Only for the .cc files that parse.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/result.h"

namespace caisson::oci {

class JsonReader {
 public:
  JsonReader(const Json& object, std::string path) : object_(object), path_(std::move(path)) {}

  const Json* Find(const char* key) const {
    auto found = object_.find(key);
    return found == object_.end() || found->is_null() ? nullptr : &*found;
  }
  std::string At(const char* key) const { return path_.empty() ? key : path_ + "." + key; }
  Error Wrong(const char* key, const char* what) const {
    return MakeError(Code::kInvalidArgument, "{} is not {}", At(key), what);
  }

  Result<> Read(const char* key, std::string* value) const {
    const Json* found = Find(key);
    if (found == nullptr) return {};
    if (!found->is_string()) return Wrong(key, "a string");
    *value = found->get_ref<const std::string&>();
    if (value->find('\0') != std::string::npos) return Wrong(key, "free of NUL");
    return {};
  }
  Result<> Read(const char* key, bool* value) const {
    const Json* found = Find(key);
    if (found == nullptr) return {};
    if (!found->is_boolean()) return Wrong(key, "true or false");
    *value = found->get<bool>();
    return {};
  }
  // A whole number that T can hold.
  template <class T>
  requires(std::is_integral_v<T> && !std::is_same_v<T, bool>) Result<> Read(const char* key, T* value)
  const {
    const Json* found = Find(key);
    if (found == nullptr) return {};
    if (found->is_number_unsigned()) {
      uint64_t number = found->get<uint64_t>();
      if (number > static_cast<uint64_t>(std::numeric_limits<T>::max())) return Wrong(key, "in range");
      *value = static_cast<T>(number);
      return {};
    }
    if (!found->is_number_integer()) return Wrong(key, "a whole number");
    int64_t number = found->get<int64_t>();  // negative: the non-negative are unsigned
    if (std::is_unsigned_v<T> || number < static_cast<int64_t>(std::numeric_limits<T>::min()))
      return Wrong(key, "in range");
    *value = static_cast<T>(number);
    return {};
  }
  template <class T>
  Result<> Read(const char* key, std::optional<T>* value) const {
    if (Find(key) == nullptr) return {};
    T inner{};
    TRY(Read(key, &inner));
    *value = inner;
    return {};
  }
  Result<> Read(const char* key, std::vector<std::string>* value) const {
    return Each(key, [&](const Json& item, const std::string& path) -> Result<> {
      if (!item.is_string()) return MakeError(Code::kInvalidArgument, "{} is not a string", path);
      value->push_back(item.get_ref<const std::string&>());
      if (value->back().find('\0') != std::string::npos) return MakeError(Code::kInvalidArgument, "{} has a NUL", path);
      return {};
    });
  }
  Result<> Read(const char* key, std::map<std::string, std::string>* value) const {
    const Json* found = Find(key);
    if (found == nullptr) return {};
    if (!found->is_object()) return Wrong(key, "an object");
    for (const auto& [name, item] : found->items()) {
      if (!item.is_string()) return MakeError(Code::kInvalidArgument, "{}.{} is not a string", At(key), name);
      (*value)[name] = item.get_ref<const std::string&>();
    }
    return {};
  }

  // Calls `f(item, path)` for each item of the list `key`, if it is there.
  template <class F>
  Result<> Each(const char* key, F f) const {
    const Json* found = Find(key);
    if (found == nullptr) return {};
    if (!found->is_array()) return Wrong(key, "a list");
    for (size_t i = 0; i < found->size(); ++i) TRY(f((*found)[i], fmt::format("{}[{}]", At(key), i)));
    return {};
  }
  // As Each, for a list of objects: `f(reader)`.
  template <class F>
  Result<> EachObject(const char* key, F f) const {
    return Each(key, [&](const Json& item, const std::string& path) -> Result<> {
      if (!item.is_object()) return MakeError(Code::kInvalidArgument, "{} is not an object", path);
      return f(JsonReader(item, path));
    });
  }
  // Calls `f(reader)` with the object `key`, if it is there.
  template <class F>
  Result<> Object(const char* key, F f) const {
    const Json* found = Find(key);
    if (found == nullptr) return {};
    if (!found->is_object()) return Wrong(key, "an object");
    return f(JsonReader(*found, At(key)));
  }

 private:
  const Json& object_;
  std::string path_;
};

}  // namespace caisson::oci
