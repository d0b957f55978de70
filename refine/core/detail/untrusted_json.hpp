#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace refine::detail {

/// True if no part of a JSON text is within more than some levels, and no object has more than some members. A text
/// that is not JSON may pass.
inline bool is_bounded_json(std::string_view text, std::size_t max_levels, std::size_t max_members) {
  std::vector<std::size_t> commas;  // of the open objects and lists; of a list, not counted
  constexpr std::size_t list = static_cast<std::size_t>(-1);
  bool is_string = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (is_string) {
      if (c == '\\') ++i;
      is_string = c != '"';
      continue;
    }
    is_string = c == '"';
    if (c == '[' || c == '{') {
      if (commas.size() == max_levels) return false;
      commas.push_back(c == '[' ? list : 0);
    } else if ((c == ']' || c == '}') && !commas.empty()) {
      commas.pop_back();
    } else if (c == ',' && !commas.empty() && commas.back() != list && ++commas.back() >= max_members) {
      return false;
    }
  }
  return true;
}

/// Parses the JSON of a file that nobody vouches for. nlohmann/json parses any number of levels, but
/// calls itself once a level when such a document is written, flattened or copied; an `ordered_json`
/// searches all members of an object for each one that it adds.
/// \tparam Json `nlohmann::json` or `nlohmann::ordered_json`
/// \param text UTF-8
/// \return the document; discarded if the text is not JSON, has more than 64 levels or, of an
///   `ordered_json`, more than 10,000 members in an object
template <typename Json = nlohmann::json>
Json parse_untrusted_json(std::string_view text) {
  constexpr std::size_t max_levels = 64, many = static_cast<std::size_t>(-1);
  constexpr std::size_t max_members = std::is_same_v<Json, nlohmann::json> ? many : 10'000;
  // Not by a callback of the parser: with one, it looks at all earlier elements of a list behind each object in it.
  if (!is_bounded_json(text, max_levels, max_members)) return Json(Json::value_t::discarded);
  return Json::parse(text, nullptr, /*allow_exceptions=*/false);
}

/// Assigns a JSON value to an integer if nothing is lost: not a fraction, a truth value or a number out of range, which
/// nlohmann/json would convert.
/// \return false if the value does not fit
template <typename Json, std::integral Number>
bool read_integer(const Json& value, Number& field) {
  const bool fits =
      value.is_number_unsigned()
          ? std::in_range<Number>(value.template get<std::uint64_t>())
          : value.is_number_integer() && std::in_range<Number>(value.template get<std::int64_t>());
  if (fits) field = value.template get<Number>();
  return fits;
}

}  // namespace refine::detail
