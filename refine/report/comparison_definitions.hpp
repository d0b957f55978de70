#pragma once

// What comparison.hpp declares.

#include <refine/report/comparison.hpp>

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include <refine/core/compiled.hpp>
#include <refine/metrics/der.hpp>
#include <refine/report/terminal_table.hpp>
#include <refine/report/words.hpp>

namespace refine::report {

REFINE_DEFINITION std::string comparison_markdown(const std::vector<DefenseReport>& reports) {
  constexpr std::size_t columns = 8;
  using Row = std::array<std::string, columns>;
  const auto text = [](std::string_view said) {
    std::string cell;
    for (const char c : said) {
      if (c == '|' || c == '\\') cell += '\\';
      cell += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? ' ' : c;
    }
    return cell.empty() ? std::string(words::missing) : cell;
  };
  const auto change = [](double before, double after) {
    if (!std::isfinite(before) && !std::isfinite(after)) return std::string(words::missing);
    return fmt::format("{} → {}", words::hundredths(before, 1), words::hundredths(after, 1));
  };
  std::vector<Row> rows = {{"attack", "model", "BA, %", "ASR, %", "RA, %", "largest lift", "DER, %", "n"}};
  for (const DefenseReport& r : reports) {
    rows.push_back({text(r.attack), text(r.model), change(r.before.ba.value(), r.after.ba.value()),
                    change(r.before.asr.value(), r.after.asr.value()),
                    change(r.before.ra.value(), r.after.ra.value()),
                    change(r.before.largest_lift.value(), r.after.largest_lift.value()),
                    words::hundredths(metrics::defense_effectiveness(r.before, r.after), 1),
                    has_labels(r) ? words::count(r.after.ba.n) : std::string(words::missing)});
  }
  std::array<int, columns> widths{};
  for (const Row& row : rows) {
    for (std::size_t c = 0; c < columns; ++c) {
      const auto length = std::ranges::count_if(row[c], detail::starts_character);
      widths[c] = std::max({widths[c], static_cast<int>(length), 3});
    }
  }
  std::string table;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    for (std::size_t c = 0; c < columns; ++c) {
      table += (c == 0 ? "| " : " | ") + detail::field(rows[i][c], widths[c], /*right=*/c >= 2);
    }
    table += " |\n";
    if (i > 0) continue;
    for (std::size_t c = 0; c < columns; ++c) {
      const std::string line(static_cast<std::size_t>(widths[c]) - (c >= 2 ? 1 : 0), '-');
      table += (c == 0 ? "| " : " | ") + line + (c >= 2 ? ":" : "");
    }
    table += " |\n";
  }
  return table;
}

}  // namespace refine::report
