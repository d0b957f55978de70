#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

/// Formats numbers and class names the same way in the terminal table and on the page.
namespace refine::report::format {

/// Stands for a value that is not a number or was not measured.
inline constexpr std::string_view missing = "–";

/// Returns the name of a class, or "class 3" if it has none.
std::string class_name(const std::vector<std::string>& names, int cls);

/// Formats a count with thousands separators: 12345 as "12,345".
std::string count(std::int64_t number);

/// Formats a share times a hundred: 0.9139 as "91.39". Never "-0.00"; `missing` if the share is not
/// finite.
std::string hundredths(double share, int decimals = 2);

/// Formats a share in percent: 0.9139 as "91.4 %". `missing` if it is not finite.
std::string percent(double share, int decimals = 1);

/// Formats a difference of shares times a hundred, with its sign: "+0.40", "−91.00". `missing` if
/// it is not finite.
std::string signed_hundredths(double difference, int decimals = 2);

}  // namespace refine::report::format

#if !defined(REFINE_COMPILED_LIB)
#include <refine/report/impl/format.ipp>
#endif
