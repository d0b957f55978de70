#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

/// How figures are said, the same on the terminal and on the page.
namespace refine::report::words {

inline constexpr std::string_view missing = "–";

/// "cat", or "class 3" where there are no names.
std::string class_name(const std::vector<std::string>& names, int cls);

/// 12345 as "12,345".
std::string count(std::int64_t number);

/// A share times a hundred: 0.9139 as "91.39". Never "-0.00"; a dash for what is not a number.
std::string hundredths(double share, int decimals = 2);

/// "91.4 %"
std::string percent(double share, int decimals = 1);

/// A difference, with its sign: "+0.40", "−91.00".
std::string signed_hundredths(double difference, int decimals = 2);

}  // namespace refine::report::words

#if !defined(REFINE_COMPILED)
#include <refine/report/words_definitions.hpp>
#endif
