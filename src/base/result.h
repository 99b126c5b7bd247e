// SPDX-License-Identifier: Apache-2.0
//
// Result<T>: a value or an Error. TRY(expr) yields the value of a Result or returns its Error from the enclosing
// function, which itself returns a Result.
#pragma once

#include <type_traits>
#include <utility>

#include <tl/expected.hpp>

#include "base/error.h"

namespace caisson {

template <class T = void>
class [[nodiscard]] Result : public tl::expected<T, Error> {
 public:
  using Base = tl::expected<T, Error>;
  using Base::Base;
  Result() = default;
  Result(Error error) : Base(tl::unexpected<Error>(std::move(error))) {}  // NOLINT(google-explicit-constructor)
};

}  // namespace caisson

#define TRY(...)                                                                   \
  __extension__({                                                                  \
    auto try_result_ = (__VA_ARGS__);                                              \
    if (!try_result_.has_value()) return ::caisson::Error(std::move(try_result_.error())); \
    ::caisson::internal::TakeValue(std::move(try_result_));                        \
  })

namespace caisson::internal {
template <class T>
T TakeValue(Result<T>&& result) {
  if constexpr (!std::is_void_v<T>) return std::move(*result);
}
}  // namespace caisson::internal
