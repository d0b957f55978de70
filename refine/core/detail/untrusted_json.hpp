#pragma once

#include <nlohmann/json.hpp>

#include <string_view>

namespace refine::detail {

/// Parses the JSON of a file that nobody vouches for. nlohmann/json parses any number of levels, but
/// calls itself once a level when such a document is written, flattened or copied.
/// \tparam Json `nlohmann::json` or `nlohmann::ordered_json`
/// \param text UTF-8
/// \return the document; discarded if the text is not JSON, or has more than 64 levels
template <typename Json = nlohmann::json>
Json parse_untrusted_json(std::string_view text) {
  constexpr int max_levels = 64;
  using Event = typename Json::parse_event_t;
  bool is_deep = false;
  const auto is_kept = [&](int depth, Event event, const Json&) {
    const bool is_start = event == Event::object_start || event == Event::array_start;
    is_deep = is_deep || (is_start && depth >= max_levels);
    return !is_deep;
  };
  Json document = Json::parse(text, is_kept, /*allow_exceptions=*/false);
  return is_deep ? Json(Json::value_t::discarded) : document;
}

}  // namespace refine::detail
