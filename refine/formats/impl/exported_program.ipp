#pragma once

#include <refine/formats/exported_program.hpp>

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include <refine/core/config.hpp>
#include <refine/core/file.hpp>
#include <refine/formats/checkpoint.hpp>
#include <refine/formats/detail/operators.hpp>
#include <refine/formats/detail/zip_directory.hpp>
#include <refine/formats/torchscript_check.hpp>

namespace refine::formats::detail::exported {

/// Returns the names of the programs in an archive: of the JSON documents in models/.
inline std::vector<std::string> model_names(const Archive& archive) {
  constexpr std::string_view folder = "models/", ending = ".json";
  std::vector<std::string> names;
  for (auto entry = archive.entries.lower_bound(std::string(folder));
       entry != archive.entries.end() && entry->first.starts_with(folder); ++entry) {
    const std::string& path = entry->first;
    if (path.ends_with(ending)) {
      names.push_back(path.substr(folder.size(), path.size() - folder.size() - ending.size()));
    }
  }
  return names;
}

}  // namespace refine::formats::detail::exported

namespace refine::formats {

REFINE_INLINE std::size_t element_bytes(ElementType type) {
  switch (type) {
    case ElementType::uint8:
    case ElementType::int8:
    case ElementType::boolean:
      return 1;
    case ElementType::int16:
    case ElementType::float16:
    case ElementType::bfloat16:
      return 2;
    case ElementType::int32:
    case ElementType::float32:
      return 4;
    case ElementType::int64:
    case ElementType::float64:
      return 8;
  }
  return 8;
}

REFINE_INLINE std::string_view element_name(ElementType type) {
  switch (type) {
    case ElementType::uint8:
      return "uint8";
    case ElementType::int8:
      return "int8";
    case ElementType::int16:
      return "int16";
    case ElementType::int32:
      return "int32";
    case ElementType::int64:
      return "int64";
    case ElementType::float16:
      return "float16";
    case ElementType::float32:
      return "float32";
    case ElementType::float64:
      return "float64";
    case ElementType::boolean:
      return "bool";
    case ElementType::bfloat16:
      return "bfloat16";
  }
  return "unknown";
}

REFINE_INLINE std::string_view describe(const GraphArgument& argument) {
  constexpr std::array<std::string_view, std::variant_size_v<GraphArgument>> names = {
      "None",
      "a bool",
      "an integer",
      "a number",
      "a text",
      "a value",
      "a dtype",
      "a memory format",
      "a layout",
      "a device",
      "a list of integers",
      "a list of numbers",
      "a list of bools",
      "a list of tensors",
      "a list of optional tensors"};
  return names[argument.index()];
}

REFINE_INLINE std::int64_t StoredTensor::count() const {
  std::int64_t n = 1;
  for (const std::int64_t size : sizes) n *= size;
  return n;
}

REFINE_INLINE bool ExportedProgramListing::has(Objection::Kind kind) const {
  return detail::has_objection(objections, kind);
}

REFINE_INLINE bool is_exported_program(const Archive& archive) {
  return !detail::exported::model_names(archive).empty();
}

}  // namespace refine::formats

namespace refine::formats::detail::exported {

using nlohmann::json;

/// Reports a malformed file; the text is a clause.
struct Malformed : std::runtime_error {
  using std::runtime_error::runtime_error;
};

[[noreturn]] REFINE_INLINE void fail(const std::string& why) {
  throw Malformed(why);
}

// --- JSON ------------------------------------------------------------------------------------------------

/// Checks a JSON document without keeping it. (The parser's own callback looks through the whole array
/// around each object that ends: a few megabytes of small objects would take hours.)
class DocumentCheck final : public nlohmann::json_sax<json> {
 public:
  explicit DocumentCheck(const std::string& entry) : entry_(entry) {}

  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool start_object(std::size_t) override {
    keys_.emplace_back();
    return deeper();
  }
  bool key(string_t& name) override {
    if (!keys_.back().insert(name).second)
      fail(fmt::format("'{}' has the key '{}' twice in one object", entry_, shorten(name)));
    return true;
  }
  bool end_object() override {
    keys_.pop_back();
    return higher();
  }
  bool start_array(std::size_t) override { return deeper(); }
  bool end_array() override { return higher(); }
  bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception&) override {
    return false;
  }

 private:
  bool deeper() {
    constexpr int max_depth = 64;
    if (++depth_ > max_depth) fail(fmt::format("'{}' is nested more than {} levels deep", entry_, max_depth));
    return true;
  }
  bool higher() {
    --depth_;
    return true;
  }

  const std::string& entry_;
  std::vector<std::set<std::string>> keys_;  // of the open objects
  int depth_ = 0;
};

/// Parses JSON with limits. A key that occurs twice in an object is refused: two readers would take
/// two values.
/// \return the document; discarded if the text is not JSON
REFINE_INLINE json parse_json(const std::string& text, const std::string& entry) {
  DocumentCheck check(entry);
  json document(json::value_t::discarded);
  if (json::sax_parse(text, &check)) document = json::parse(text, nullptr, /*allow_exceptions=*/false);
  return document;
}

/// Parses a JSON document with the same limits. Anything else is refused.
REFINE_INLINE json parse_document(const std::string& text, const std::string& entry) {
  json document = parse_json(text, entry);
  if (document.is_discarded()) fail(fmt::format("'{}' is not a JSON document", entry));
  return document;
}

REFINE_INLINE const json& member(const json& object, const char* key) {
  if (!object.is_object()) fail(fmt::format("an object with '{}' is missing", key));
  const auto found = object.find(key);
  if (found == object.end()) fail(fmt::format("'{}' is missing", key));
  return *found;
}

/// Returns a member, or null if it is missing or null.
REFINE_INLINE const json* optional_member(const json& object, const char* key) {
  if (!object.is_object()) return nullptr;
  const auto found = object.find(key);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

REFINE_INLINE const json& list_of(const json& object, const char* key) {
  const json& value = member(object, key);
  if (!value.is_array()) fail(fmt::format("'{}' is not a list", key));
  return value;
}

REFINE_INLINE const json& object_of(const json& object, const char* key) {
  const json& value = member(object, key);
  if (!value.is_object()) fail(fmt::format("'{}' is not an object", key));
  return value;
}

REFINE_INLINE std::string text_from(const json& value, const char* what) {
  if (!value.is_string()) fail(fmt::format("{} is not a text", what));
  return value.get<std::string>();
}

REFINE_INLINE std::string text_of(const json& object, const char* key) {
  return text_from(member(object, key), key);
}

REFINE_INLINE std::int64_t integer_from(const json& value, const char* what) {
  if (!value.is_number_integer() ||
      (value.is_number_unsigned() &&
       value.get<std::uint64_t>() > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max()))) {
    fail(fmt::format("{} is not an integer", what));
  }
  return value.get<std::int64_t>();
}

REFINE_INLINE bool bool_from(const json& value, const char* what) {
  if (!value.is_boolean()) fail(fmt::format("{} is not a bool", what));
  return value.get<bool>();
}

/// JSON has no infinities; torch.export writes them as texts.
REFINE_INLINE double number_from(const json& value, const char* what) {
  if (value.is_number()) return value.get<double>();
  if (value == "Infinity") return std::numeric_limits<double>::infinity();
  if (value == "-Infinity") return -std::numeric_limits<double>::infinity();
  if (value == "NaN") return std::numeric_limits<double>::quiet_NaN();
  fail(fmt::format("{} is not a number", what));
}

/// The only member of an object that is a union.
struct Choice {
  const std::string& kind;
  const json& value;
};

REFINE_INLINE Choice choice_of(const json& object, const char* what) {
  if (!object.is_object() || object.size() != 1) fail(fmt::format("{} is not an object with one key", what));
  return {object.begin().key(), object.begin().value()};
}

// --- texts that Python would evaluate --------------------------------------------------------------------

/// Splits a text into names, numbers, quoted texts and signs.
/// \return the parts; empty if the text has anything else, or more than `max_words`
REFINE_INLINE std::vector<std::string_view> split(std::string_view text) {
  const auto is_letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; };
  const auto is_digit = [](char c) { return c >= '0' && c <= '9'; };
  std::vector<std::string_view> parts;
  for (std::size_t i = 0; i < text.size();) {
    std::size_t end = i + 1;
    const char c = text[i];
    if (c == ' ') {
      i = end;
      continue;
    }
    if (is_letter(c)) {
      while (end < text.size() && (is_letter(text[end]) || is_digit(text[end]))) ++end;
    } else if (is_digit(c)) {
      while (end < text.size() && is_digit(text[end])) ++end;
    } else if (c == '\'' || c == '"') {
      while (end < text.size() && (is_letter(text[end]) || is_digit(text[end]))) ++end;
      if (end == text.size() || text[end] != c) return {};
      ++end;
    } else if (std::string_view("()[]+-*/%,=<>!.&|~").find(c) == std::string_view::npos) {
      return {};
    }
    parts.push_back(text.substr(i, end - i));
    if (parts.size() > max_words) return {};
    i = end;
  }
  return parts;
}

REFINE_INLINE bool is_name(std::string_view part) {
  const char c = part.front();
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

/// Returns true for a symbol that torch.export makes: letters and a number, such as s77 or u0.
REFINE_INLINE bool is_symbol(std::string_view part) {
  const std::size_t digits = part.find_first_of("0123456789");
  return digits != std::string_view::npos && digits > 0 && digits <= 8 && part.size() <= 20 &&
         part.find('_') == std::string_view::npos &&
         part.find_first_not_of("0123456789", digits) == std::string_view::npos;
}

/// The functions of sympy and of PyTorch's extension of it that are arithmetic.
inline constexpr std::string_view arithmetic_functions =
    "Symbol Integer Rational Float Add Mul Pow Mod PythonMod FloorDiv CleanDiv CeilDiv CeilToInt FloorToInt "
    "TruncToInt IntTrueDiv FloatTrueDiv ModularIndexing Max Min Abs floor ceiling Identity ToFloat PowByNatural "
    "Eq Ne Equality Unequality StrictGreaterThan StrictLessThan GreaterThan LessThan Ge Gt Le Lt And Or Not";

REFINE_INLINE bool is_plain_expression(std::string_view text) {
  const auto parts = split(text);
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const std::string_view part = parts[i];
    const std::string_view next = i + 1 < parts.size() ? parts[i + 1] : std::string_view();
    if (part.front() == '\'' || part.front() == '"') {
      if (i < 2 || parts[i - 1] != "(" || parts[i - 2] != "Symbol") return false;
    } else if (part == "." || part == "[" || part == "]") {
      return false;
    } else if (is_name(part)) {
      const bool is_call = next == "(" && operators::detail::has_word(arithmetic_functions, part);
      const bool is_keyword =
          next == "=" && operators::detail::has_word(
                             "integer positive nonnegative negative nonpositive real nonzero zero finite "
                             "commutative extended_real even odd evaluate precision prec",
                             part);
      if (!is_call && !is_keyword &&
          (next == "(" || !(is_symbol(part) || part == "True" || part == "False"))) {
        return false;
      }
    } else if (part == "(" && i > 0 && !is_name(parts[i - 1]) &&
               (parts[i - 1] == ")" || parts[i - 1].front() == '\'')) {
      return false;  // a call of what a call returns
    }
  }
  return !parts.empty();
}

REFINE_INLINE bool is_plain_guard(std::string_view text) {
  constexpr std::string_view properties = "size stride storage_offset shape",
                             torch_functions = "sym_max sym_min sym_not sym_int sym_float";
  const auto parts = split(text);
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const std::string_view part = parts[i];
    const std::string_view next = i + 1 < parts.size() ? parts[i + 1] : std::string_view();
    const std::string_view last = i > 0 ? parts[i - 1] : std::string_view();
    if (part.front() == '\'' || part.front() == '"') {
      if (last != "[" || next != "]") return false;
    } else if (part == ".") {  // a property of a tensor, or a number such as 0.5
      const bool is_number = !last.empty() && last.front() >= '0' && last.front() <= '9';
      const bool is_function = last == "torch" && operators::detail::has_word(torch_functions, next);
      if (!is_number && !is_function && !operators::detail::has_word(properties, next)) return false;
    } else if (is_name(part)) {
      const bool is_property =
          last == "." && i > 1 &&
          (parts[i - 2] == "torch" ? next == "(" && operators::detail::has_word(torch_functions, part)
                                   : operators::detail::has_word(properties, part));
      if (part == "torch" && next == "." && last != ".") continue;
      const bool is_call = next == "(" && operators::detail::has_word(arithmetic_functions, part);
      const bool is_word = next != "(" && operators::detail::has_word("L and or not True False", part);
      const bool is_infix = next == "(" && operators::detail::has_word("and or not", part);
      if (!is_property && !is_call && !is_word && !is_infix) return false;
    } else if (part == "(" && (last == ")" || last == "]")) {
      return false;
    }
  }
  return !parts.empty();
}

// --- the reader ------------------------------------------------------------------------------------------

/// Reads the documents of one program and lists what is wrong with it.
class Reader {
 public:
  /// \param wanted name of the program to list, if there are several
  Reader(Archive archive, std::string wanted) : archive_(std::move(archive)), wanted_(std::move(wanted)) {}

  ExportedProgramListing read();

 private:
  enum class Kind { tensor, integer };

  void object(Objection::Kind kind, std::string text);
  void object_harmful(std::string text) { object(Objection::Kind::harmful, std::move(text)); }
  void object_unsupported(std::string text) { object(Objection::Kind::unsupported, std::move(text)); }

  /// Returns the names of the programs in the archive, that of the one to use last.
  std::vector<std::string> find_models() const;

  /// Reads a program and adds what is wrong with it to the objections.
  void read_program(const std::string& model);

  json document(const std::string& entry);

  /// Looks for code in the entries that the program does not use.
  void check_other_entries();
  void check_sample_inputs(const std::string& entry, const std::string& bytes);
  void check_expressions(const json& value);
  void check_guards(const json& guards);
  void check_target(const std::string& node, const std::string& target);

  void read_tensors(const std::string& folder, const std::string& config);
  std::optional<StoredTensor> read_stored(const std::string& name, const json& payload,
                                          const std::string& folder);
  void read_inputs(const json& graph, const json& signature);
  void read_nodes(const json& graph);

  /// Reads a graph inside a node that only sets whether gradients are recorded, or the precision. Its
  /// nodes are added as if they stood outside.
  void read_inner_graph(const json& node, const std::string& name);
  void read_outputs(const json& graph_module, const json& signature);
  void read_shapes(const json& graph);

  std::optional<ElementType> element_type(const json& value, const std::string& of);
  GraphArgument argument(const json& object, const std::string& node);
  GraphInteger integer(const json& object);
  std::string use(const std::string& value, Kind kind);
  std::string define(const std::string& value, Kind kind);
  GraphArgument output(const json& object, const std::string& node);

  Archive archive_;
  std::string wanted_;
  ExportedProgramListing listing_;
  std::map<std::string, Kind> values_;
  std::string prefix_;                          // of the names in the inner graph that is being read
  std::map<std::string, std::string> renamed_;  // the names in that graph → those outside
  std::size_t inner_graphs_ = 0;
  std::set<std::string> used_entries_;
  std::size_t json_bytes_ = 0;
  std::uint64_t tensor_bytes_ = 0, entry_bytes_ = 0;
};

REFINE_INLINE void Reader::object(Objection::Kind kind, std::string text) {
  add_objection(listing_.objections, {kind, std::move(text)});
}

REFINE_INLINE std::vector<std::string> Reader::find_models() const {
  std::vector<std::string> models = model_names(archive_);
  if (models.empty()) fail("the archive has no program in models/");
  if (models.size() == 1) return models;
  if (const auto usual = std::ranges::find(models, wanted_); usual != models.end()) {
    std::iter_swap(usual, std::prev(models.end()));
    return models;
  }
  fail(fmt::format("the archive has {} programs ('{}', '{}', ...) and none of them is named '{}'",
                   models.size(), shorten(models[0]), shorten(models[1]), shorten(wanted_)));
}

REFINE_INLINE json Reader::document(const std::string& entry) {
  const auto found = archive_.entries.find(entry);
  if (found == archive_.entries.end()) fail(fmt::format("'{}' is missing", shorten(entry)));
  json_bytes_ += found->second.size();
  if (json_bytes_ > max_json_bytes) {
    fail(fmt::format("its JSON documents have {} bytes, more than the {} allowed", json_bytes_,
                     max_json_bytes));
  }
  json parsed = parse_document(found->second, shorten(entry));
  used_entries_.insert(entry);
  return parsed;
}

REFINE_INLINE ExportedProgramListing Reader::read() {
  if (is_torchscript(archive_)) {
    object_harmful("the archive is a TorchScript file, too, so that it depends on the reader what it does");
  }
  for (const std::string& model : find_models()) {  // torch.export.load reads all of them
    listing_.program = {};
    values_.clear();
    renamed_.clear();
    read_program(model);
  }
  check_other_entries();
  std::set<std::string> needed;
  for (const auto& [name, tensor] : listing_.program.tensors) needed.insert(tensor.entry);
  constexpr std::string_view extra_folder = "extra/";
  for (auto& [entry, bytes] : archive_.entries) {
    if (entry.starts_with(extra_folder)) listing_.program.extra[entry.substr(extra_folder.size())] = bytes;
    if (needed.contains(entry)) listing_.program.bytes[entry] = std::move(bytes);
  }
  return std::move(listing_);
}

REFINE_INLINE void Reader::read_program(const std::string& model) {
  const json program = document("models/" + model + ".json");
  const json& schema = object_of(program, "schema_version");
  const std::int64_t major = integer_from(member(schema, "major"), "the version of the schema"),
                     minor = integer_from(member(schema, "minor"), "the version of the schema");
  constexpr std::int64_t known_major = 8;
  if (major != known_major || minor < 0 || minor > 100'000) {
    fail(fmt::format("its schema has version {}.{}, but refine reads version {}", major, minor, known_major));
  }
  listing_.program.schema = {static_cast<int>(major), static_cast<int>(minor)};
  if (const json* version = optional_member(program, "torch_version")) {
    listing_.program.torch_version = text_from(*version, "torch_version");
  }
  check_expressions(program);
  if (const json* guards = optional_member(program, "guards_code")) check_guards(*guards);

  read_tensors("data/weights/", "data/weights/" + model + "_weights_config.json");
  read_tensors("data/constants/", "data/constants/" + model + "_constants_config.json");
  const json& graph_module = object_of(program, "graph_module");
  const json& graph = object_of(graph_module, "graph");
  const json& signature = object_of(graph_module, "signature");
  if (const json* objects = optional_member(graph, "custom_obj_values"); objects && !objects->empty()) {
    object_harmful("its graph has objects of custom classes (custom_obj_values)");
  }
  read_inputs(graph, signature);
  read_nodes(graph);
  read_outputs(graph_module, signature);
  read_shapes(graph);
}

/// True if a file below data/constants/ is an object that Python pickled.
inline bool is_pickled_object(std::string_view file) {
  return file.starts_with("opaque_obj") || file.starts_with("custom_obj");
}

REFINE_INLINE void Reader::check_other_entries() {
  for (const auto& [entry, bytes] : archive_.entries) {
    const std::string shown = shorten(entry);
    if (entry.starts_with("data/aotinductor/")) {
      object_harmful(fmt::format("its entry {} belongs to a compiled library of AOTInductor", shown));
      continue;
    }
    for (const std::string_view ending :
         {".so", ".o", ".a", ".dll", ".dylib", ".cubin", ".hsaco", ".py", ".pyc"}) {
      if (entry.ends_with(ending)) object_harmful(fmt::format("its entry {} is code", shown));
    }
    if (entry.starts_with("data/executorch/")) {
      object_unsupported(fmt::format("its entry {} is a program of ExecuTorch", shown));
    }
    const auto in = [&](const char* folder) { return entry.starts_with(folder); };
    if (in("data/constants/") && is_pickled_object(entry.substr(entry.rfind('/') + 1))) {
      object_harmful(fmt::format("its entry {} is a pickled object, which torch.export.load builds", shown));
      continue;
    }
    const bool is_old = (in("data/weights/") || in("data/constants/")) && entry.ends_with(".pt");
    if (is_old) {
      object_unsupported(fmt::format("its entry {} is a pickle, the layout of PyTorch 2.8 and older", shown));
    }
    if (in("data/sample_inputs/")) {
      check_sample_inputs(entry, bytes);
    } else if (is_old || !used_entries_.contains(entry)) {
      const ProgramSearch search = find_program_in_entry(entry, bytes);
      if (!search.name.empty()) object_harmful(fmt::format("its entry {} asks for {}", shown, search.name));
    }
  }
}

REFINE_INLINE void Reader::check_sample_inputs(const std::string& entry, const std::string& bytes) {
  if (bytes.empty()) return;
  const std::filesystem::path inner = entry;
  try {
    const TorchFile file = is_archive(bytes) ? read_zipped(inner, read_nested_archive(bytes, inner))
                                             : read_unzipped(inner, bytes);
    // A sample input that was marked as dynamic is a tensor with plain attributes.
    static const std::set<std::string> harmless = {"torch.Tensor", "torch.nn.parameter.Parameter",
                                                   "builtins.set", "__builtin__.set"};
    for (const std::string& asked : file.unknown_names) {
      if (harmless.contains(asked)) continue;
      object_harmful(fmt::format("its sample inputs ({}) are a pickle that asks for {}, not plain tensors",
                                 shorten(entry), shorten(asked)));
      return;
    }
  } catch (const Error& error) {
    object_harmful(fmt::format("its sample inputs ({}) are not plain tensors: {}", shorten(entry),
                               shorten(error.what())));
  }
}

REFINE_INLINE void Reader::check_expressions(const json& value) {
  for (const auto& [key, inner] : value.items()) {
    if (key == "expr_str" && value.is_object() &&
        !(inner.is_string() && is_plain_expression(inner.get_ref<const std::string&>()))) {
      object_harmful(
          fmt::format("it has a size that is not arithmetic of at most {} words (expr_str {}), and Python "
                      "evaluates it",
                      max_words, shorten(inner.dump(-1, ' ', false, json::error_handler_t::replace))));
    }
    if ((key == "in_spec" || key == "out_spec") && inner.is_string() &&
        inner.get_ref<const std::string&>().find("__enum__") != std::string::npos) {
      object_harmful(fmt::format("its {} names an enumeration, whose module Python imports", key));
    }
    if (inner.is_structured()) check_expressions(inner);
  }
}

REFINE_INLINE void Reader::check_guards(const json& guards) {
  if (!guards.is_array()) fail("'guards_code' is not a list");
  for (const json& guard : guards) {
    if (guard.is_string() && is_plain_guard(guard.get_ref<const std::string&>())) continue;
    object_harmful(
        fmt::format("its guards_code has {}, which is not a comparison of sizes of at most {} words, and "
                    "Python runs it",
                    shorten(guard.dump(-1, ' ', false, json::error_handler_t::replace)), max_words));
  }
}

REFINE_INLINE std::optional<ElementType> Reader::element_type(const json& value, const std::string& of) {
  const std::int64_t number = integer_from(value, "a dtype");
  switch (number) {
    case 1:
    case 2:
    case 3:
    case 4:
    case 5:
    case 6:
    case 7:
    case 8:
    case 12:
    case 13:
      return static_cast<ElementType>(number);
    case 9:
    case 10:
    case 11:
      object_unsupported(fmt::format("'{}' has complex numbers", shorten(of)));
      return std::nullopt;
    case 28:
    case 34:
    case 35:
      object_unsupported(fmt::format("'{}' has unsigned integers of 16 bits or more", shorten(of)));
      return std::nullopt;
    case 29:
    case 30:
    case 31:
    case 32:
    case 33:
      object_unsupported(fmt::format("'{}' has 8-bit floating-point numbers", shorten(of)));
      return std::nullopt;
    default:
      fail(fmt::format("'{}' has an unknown dtype ({})", shorten(of), number));
  }
}

REFINE_INLINE void Reader::read_tensors(const std::string& folder, const std::string& config) {
  if (!archive_.entries.contains(config)) return;  // of an older layout, or there are no tensors
  const json parsed = document(config);
  for (const auto& [name, payload] : object_of(parsed, "config").items()) {
    if (auto stored = read_stored(name, payload, folder)) {
      if (!listing_.program.tensors.emplace(name, std::move(*stored)).second) {
        fail(fmt::format("there are two tensors '{}'", shorten(name)));
      }
    }
  }
}

REFINE_INLINE std::optional<StoredTensor> Reader::read_stored(const std::string& name, const json& payload,
                                                              const std::string& folder) {
  const std::string file = text_of(payload, "path_name");
  const std::string entry = folder + file;
  const std::string shown = shorten(name);
  if (bool_from(member(payload, "use_pickle"), "use_pickle")) {
    const bool is_object = is_pickled_object(file);
    object_harmful(fmt::format("'{}' is {} (use_pickle, {}), which torch.export.load unpickles", shown,
                               is_object ? "an object" : "a pickled tensor", shorten(entry)));
    return std::nullopt;
  }
  if (is_pickled_object(file)) {
    object_harmful(
        fmt::format("'{}' is an object ({}), which torch.export.load unpickles", shown, shorten(entry)));
    return std::nullopt;
  }
  const auto bytes = archive_.entries.find(entry);
  if (bytes == archive_.entries.end()) {
    fail(fmt::format("'{}' is missing, the file of the tensor '{}'", shorten(entry), shown));
  }
  const json& meta = object_of(payload, "tensor_meta");
  constexpr std::int64_t strided = 7;
  if (integer_from(member(meta, "layout"), "a layout") != strided) {
    object_unsupported(fmt::format("'{}' is a sparse tensor", shown));
    return std::nullopt;
  }
  const auto type = element_type(member(meta, "dtype"), name);
  if (!type) return std::nullopt;
  StoredTensor tensor{.type = *type, .entry = entry};
  if (const json* is_parameter = optional_member(payload, "is_param")) {
    tensor.is_parameter = bool_from(*is_parameter, "is_param");
  }
  const auto extent = [&](const json& object) {
    const auto [kind, value] = choice_of(object, "an extent");
    if (kind != "as_int") fail(fmt::format("the tensor '{}' has an open extent", shown));
    const std::int64_t number = integer_from(value, "an extent");
    if (number < 0) fail(fmt::format("the tensor '{}' has a negative extent", shown));
    return number;
  };
  for (const json& size : list_of(meta, "sizes")) tensor.sizes.push_back(extent(size));
  for (const json& stride : list_of(meta, "strides")) tensor.strides.push_back(extent(stride));
  tensor.offset = extent(member(meta, "storage_offset"));
  constexpr std::size_t max_dimensions = 16;
  if (tensor.sizes.size() > max_dimensions) {
    fail(fmt::format("the tensor '{}' has {} dimensions, more than the {} allowed", shown,
                     tensor.sizes.size(), max_dimensions));
  }
  if (tensor.sizes.size() != tensor.strides.size()) {
    fail(fmt::format("the tensor '{}' has {} sizes and {} strides", shown, tensor.sizes.size(),
                     tensor.strides.size()));
  }
  // The last element must lie within the file's bytes. Each product is checked before it is used.
  const auto available = static_cast<std::int64_t>(bytes->second.size() / element_bytes(*type));
  std::int64_t count = 1, last = tensor.offset;
  bool fits = tensor.offset <= available;
  for (std::size_t i = 0; i < tensor.sizes.size() && fits; ++i) {
    std::int64_t step = 0;
    // Without the extents of 0, so that the result does not depend on where they stand.
    fits = !__builtin_mul_overflow(count, std::max<std::int64_t>(tensor.sizes[i], 1), &count);
    if (tensor.sizes[i] == 0) continue;
    fits = fits && !__builtin_mul_overflow(tensor.sizes[i] - 1, tensor.strides[i], &step) &&
           !__builtin_add_overflow(last, step, &last);
  }
  if (fits && std::ranges::find(tensor.sizes, 0) != tensor.sizes.end()) count = 0;
  if (!fits || (count > 0 && last >= available)) {
    fail(fmt::format("the tensor '{}' claims more than the {} bytes of its file '{}'", shown,
                     bytes->second.size(), shorten(entry)));
  }
  if (*type == ElementType::boolean &&
      std::ranges::any_of(bytes->second, [](char c) { return c != 0 && c != 1; })) {
    fail(fmt::format("the boolean tensor '{}' has values other than 0 and 1", shown));
  }
  // Strides of 0 and shared files could claim any amount of memory.
  constexpr std::uint64_t always_allowed = std::uint64_t{64} << 20, copies_per_byte = 16;
  if (used_entries_.insert(entry).second) entry_bytes_ += bytes->second.size();
  std::uint64_t claimed = 0;
  if (__builtin_mul_overflow(static_cast<std::uint64_t>(count), element_bytes(*type), &claimed) ||
      __builtin_add_overflow(tensor_bytes_, claimed, &tensor_bytes_) ||
      tensor_bytes_ > always_allowed + copies_per_byte * entry_bytes_) {
    fail(fmt::format(
        "the tensor '{}' and those before it claim far more memory than their files have, more than "
        "the {} bytes allowed",
        shown, always_allowed + copies_per_byte * entry_bytes_));
  }
  return tensor;
}

REFINE_INLINE std::string Reader::define(const std::string& value, Kind kind) {
  if (value.empty()) fail("a value of the graph has no name");
  const std::string unique = prefix_ + value;
  if (!values_.emplace(unique, kind).second) {
    fail(fmt::format("the value '{}' of the graph is defined twice", shorten(value)));
  }
  renamed_[value] = unique;
  return unique;
}

REFINE_INLINE std::string Reader::use(const std::string& value, Kind kind) {
  const auto name = renamed_.find(value);
  const auto found = name == renamed_.end() ? values_.end() : values_.find(name->second);
  if (found == values_.end()) fail(fmt::format("the graph uses '{}' before it is defined", shorten(value)));
  if (found->second != kind) {
    fail(fmt::format(
        "the graph uses '{}' as {}", shorten(value),
        kind == Kind::tensor ? "a tensor, but it is an integer" : "an integer, but it is a tensor"));
  }
  return found->first;
}

REFINE_INLINE void Reader::read_inputs(const json& graph, const json& signature) {
  const json& inputs = list_of(graph, "inputs");
  const json& specs = list_of(signature, "input_specs");
  if (inputs.size() != specs.size()) fail("the graph and its signature differ in the number of inputs");
  for (const json& spec : specs) {
    const auto [kind, value] = choice_of(spec, "an input");
    GraphInput input;
    const auto stored = [&](const char* key) {
      input.kind = GraphInput::Kind::tensor;
      input.name = text_of(member(value, "arg"), "name");
      input.stored = text_of(value, key);
      define(input.name, Kind::tensor);
      const bool refused = !listing_.objections.empty();
      if (!listing_.program.tensors.contains(input.stored) && !refused) {
        fail(fmt::format("the tensor '{}' is missing", shorten(input.stored)));
      }
    };
    if (kind == "parameter") {
      stored("parameter_name");
    } else if (kind == "buffer") {
      stored("buffer_name");
    } else if (kind == "tensor_constant") {
      stored("tensor_constant_name");
    } else if (kind == "user_input") {
      const auto [argument_kind, argument] = choice_of(member(value, "arg"), "an input");
      if (argument_kind == "as_tensor") {
        input.name = text_of(argument, "name");
        define(input.name, Kind::tensor);
      } else if (argument_kind == "as_sym_int" && argument.is_object() && argument.contains("as_name")) {
        input.name = text_of(argument, "as_name");
        define(input.name, Kind::integer);
      } else {
        input.kind = GraphInput::Kind::constant;
      }
    } else if (kind == "constant_input") {
      input.kind = GraphInput::Kind::constant;
      input.name = text_of(value, "name");
    } else if (kind == "custom_obj") {
      object_harmful(fmt::format("its input '{}' is an object of a custom class",
                                 shorten(text_of(value, "custom_obj_name"))));
      continue;
    } else {
      object_unsupported(fmt::format("it has an input of the kind {}", shorten(kind)));
      continue;
    }
    listing_.program.inputs.push_back(std::move(input));
  }
}

REFINE_INLINE GraphInteger Reader::integer(const json& object) {
  const auto [kind, value] = choice_of(object, "an integer");
  if (kind == "as_int") return integer_from(value, "an integer");
  if (kind != "as_name") fail(fmt::format("an integer has the unknown kind {}", shorten(kind)));
  return ValueName{use(text_from(value, "a name"), Kind::integer)};
}

REFINE_INLINE GraphArgument Reader::argument(const json& object, const std::string& node) {
  const auto [kind, value] = choice_of(object, "an argument");
  const auto list = [&]() -> const json& {
    if (!value.is_array()) fail(fmt::format("an argument of the node '{}' is not a list", shorten(node)));
    return value;
  };
  const auto tensor = [&](const json& argument) {
    return ValueName{use(text_of(argument, "name"), Kind::tensor)};
  };
  const auto optional_tensor = [&](const json& argument) -> std::optional<ValueName> {
    const auto [inner_kind, inner] = choice_of(argument, "an optional tensor");
    if (inner_kind == "as_none") return std::nullopt;
    if (inner_kind != "as_tensor") fail("an optional tensor is neither a tensor nor None");
    return tensor(inner);
  };
  if (kind == "as_none") return std::monostate();
  if (kind == "as_bool") return bool_from(value, "a bool");
  if (kind == "as_int") return integer_from(value, "an integer");
  if (kind == "as_float") return number_from(value, "a number");
  if (kind == "as_string") return text_from(value, "a text");
  if (kind == "as_tensor") return tensor(value);
  if (kind == "as_optional_tensor") {
    const auto found = optional_tensor(value);
    return found ? GraphArgument(*found) : GraphArgument(std::monostate());
  }
  if (kind == "as_sym_int") {
    const GraphInteger found = integer(value);
    if (const auto* name = std::get_if<ValueName>(&found)) return *name;
    return std::get<std::int64_t>(found);
  }
  if (kind == "as_ints") {
    std::vector<GraphInteger> numbers;
    for (const json& each : list()) numbers.emplace_back(integer_from(each, "an integer"));
    return numbers;
  }
  if (kind == "as_sym_ints") {
    std::vector<GraphInteger> numbers;
    for (const json& each : list()) numbers.push_back(integer(each));
    return numbers;
  }
  if (kind == "as_floats") {
    std::vector<double> numbers;
    for (const json& each : list()) numbers.push_back(number_from(each, "a number"));
    return numbers;
  }
  if (kind == "as_bools") {
    std::vector<bool> values;
    for (const json& each : list()) values.push_back(bool_from(each, "a bool"));
    return values;
  }
  if (kind == "as_tensors") {
    std::vector<ValueName> tensors;
    for (const json& each : list()) tensors.push_back(tensor(each));
    return tensors;
  }
  if (kind == "as_optional_tensors") {
    std::vector<std::optional<ValueName>> tensors;
    for (const json& each : list()) tensors.push_back(optional_tensor(each));
    return tensors;
  }
  if (kind == "as_scalar_type") {
    const auto type = element_type(value, node);
    return type ? GraphArgument(*type) : GraphArgument(std::monostate());
  }
  if (kind == "as_memory_format") {
    const std::int64_t number = integer_from(value, "a memory format");
    if (number < 1 || number > 4) fail(fmt::format("there is no memory format {}", number));
    return static_cast<GraphMemoryFormat>(number);
  }
  if (kind == "as_layout") {
    constexpr std::int64_t strided = 7;
    if (integer_from(value, "a layout") == strided) return GraphStrided();
    object_unsupported(fmt::format("the node '{}' computes with a sparse tensor", shorten(node)));
    return std::monostate();
  }
  if (kind == "as_device") {
    GraphDevice device{text_of(value, "type")};
    if (const json* index = optional_member(value, "index")) {
      device.index = static_cast<int>(integer_from(*index, "a device"));
    }
    return device;
  }
  if (kind == "as_custom_obj" || kind == "as_operator" || kind == "as_graph") {
    object_harmful(fmt::format("the node '{}' has an argument of the kind {}", shorten(node), kind));
  } else {
    object_unsupported(
        fmt::format("the node '{}' has an argument of the kind {}", shorten(node), shorten(kind)));
  }
  return std::monostate();
}

REFINE_INLINE GraphArgument Reader::output(const json& object, const std::string& node) {
  const auto [kind, value] = choice_of(object, "an output");
  const auto tensor = [&](const json& argument) {
    return ValueName{define(text_of(argument, "name"), Kind::tensor)};
  };
  if (kind == "as_none") return std::monostate();
  if (kind == "as_tensor") return tensor(value);
  if (kind == "as_tensors") {
    std::vector<ValueName> names;
    if (!value.is_array()) fail(fmt::format("an output of the node '{}' is not a list", shorten(node)));
    for (const json& each : value) names.push_back(tensor(each));
    return names;
  }
  if (kind == "as_sym_int" && value.is_object() && value.contains("as_name")) {
    return ValueName{define(text_of(value, "as_name"), Kind::integer)};
  }
  object_unsupported(fmt::format("the node '{}' has an output of the kind {}", shorten(node), shorten(kind)));
  return std::monostate();
}

REFINE_INLINE void Reader::check_target(const std::string& node, const std::string& target) {
  const auto place = [&] { return fmt::format("its node '{}' calls {}", shorten(node), shorten(target)); };
  listing_.operators.insert(target);
  constexpr std::string_view integers = "_operator.";
  if (target.starts_with(integers)) {
    constexpr std::string_view known = "add sub mul floordiv getitem";
    if (!operators::detail::has_word(known, std::string_view(target).substr(integers.size()))) {
      object_unsupported(place() + ", arithmetic with sizes that refine does not know");
    }
    return;
  }
  const std::size_t colons = target.find("::");
  if (colons == std::string::npos) {
    object_harmful(place() + ", a function of Python and not an operator");
    return;
  }
  if (target.starts_with("higher_order::")) {
    object_unsupported(place() + ", control flow");
    return;
  }
  if (operators::is_replaced(target)) return;
  const std::string qualified = target.substr(0, target.find('.', colons));
  constexpr std::array objections = {
      std::pair{operators::Kind::harmful, Objection::Kind::harmful},
      std::pair{operators::Kind::quantized, Objection::Kind::quantized},
      std::pair{operators::Kind::library, Objection::Kind::library},
      std::pair{operators::Kind::unknown, Objection::Kind::unknown},
  };
  const operators::Kind kind = operators::classify(qualified);
  for (const auto& [of_operator, of_objection] : objections) {
    if (kind == of_operator) {
      object(of_objection, fmt::format("{}, {}", place(), operators::refusal_reason(qualified)));
    }
  }
}

/// Returns the operator of a target: "aten::conv2d.default" for "torch.ops.aten.conv2d.default".
REFINE_INLINE std::string operator_of(const std::string& target) {
  constexpr std::string_view ops = "torch.ops.";
  if (!target.starts_with(ops)) return target;
  const std::size_t dot = target.find('.', ops.size());
  if (dot == std::string::npos) return target;
  return target.substr(ops.size(), dot - ops.size()) + "::" + target.substr(dot + 1);
}

REFINE_INLINE void Reader::read_nodes(const json& graph) {
  for (const json& each : list_of(graph, "nodes")) {
    GraphNode node;
    node.target = operator_of(text_of(each, "target"));
    const json& outputs = list_of(each, "outputs");
    if (const json* name = optional_member(each, "name")) node.name = text_from(*name, "a name");
    if (node.name.empty()) node.name = std::to_string(listing_.program.nodes.size());
    if (node.target == "higher_order::wrap_with_set_grad_enabled" ||
        node.target == "higher_order::wrap_with_autocast") {
      listing_.operators.insert(node.target);
      read_inner_graph(each, node.name);
      continue;
    }
    check_target(node.name, node.target);
    constexpr int positional = 1;  // in the file; 2: by name
    for (const json& input : list_of(each, "inputs")) {
      node.inputs.emplace_back(text_of(input, "name"), argument(member(input, "arg"), node.name));
      const json* kind = optional_member(input, "kind");
      const bool is_leading = node.positional + 1 == node.inputs.size();
      if (is_leading && kind && *kind == positional) ++node.positional;
    }
    for (const json& value : outputs) node.outputs.push_back(output(value, node.name));
    listing_.program.nodes.push_back(std::move(node));
  }
}

REFINE_INLINE void Reader::read_inner_graph(const json& node, const std::string& name) {
  const auto malformed = [&] { fail(fmt::format("the graph in the node '{}' is malformed", shorten(name))); };
  const json* graph = nullptr;
  std::vector<std::string> arguments;
  for (const json& input : list_of(node, "inputs")) {
    const auto [kind, value] = choice_of(member(input, "arg"), "an argument");
    if (kind == "as_graph") {
      if (graph) malformed();
      graph = &object_of(value, "graph");
    } else if (graph) {
      const GraphArgument operand = argument(member(input, "arg"), name);
      const auto* used = std::get_if<ValueName>(&operand);
      if (!used) malformed();
      arguments.push_back(used->name);
    }
  }
  if (!graph || list_of(*graph, "inputs").size() != arguments.size()) malformed();
  std::string outer_prefix = fmt::format("{}graph {}: ", prefix_, inner_graphs_++);
  std::map<std::string, std::string> outer_names;
  std::swap(prefix_, outer_prefix);
  std::swap(renamed_, outer_names);
  for (std::size_t i = 0; i < arguments.size(); ++i) {
    const auto [kind, value] = choice_of(list_of(*graph, "inputs")[i], "an input");
    const bool is_tensor = kind == "as_tensor";
    const std::string inner = text_of(value, is_tensor ? "name" : "as_name");
    if (is_tensor != (values_.at(arguments[i]) == Kind::tensor)) malformed();
    renamed_[inner] = arguments[i];
  }
  read_nodes(*graph);
  std::vector<ValueName> results;
  for (const json& output : list_of(*graph, "outputs")) {
    const auto [kind, value] = choice_of(output, "an output");
    if (kind != "as_tensor") malformed();
    results.push_back({use(text_of(value, "name"), Kind::tensor)});
  }
  std::swap(prefix_, outer_prefix);
  std::swap(renamed_, outer_names);
  std::vector<ValueName> outputs;
  for (const json& each : list_of(node, "outputs")) {
    const GraphArgument names = output(each, name);
    if (const auto* one = std::get_if<ValueName>(&names)) outputs.push_back(*one);
    if (const auto* list = std::get_if<std::vector<ValueName>>(&names)) {
      outputs.insert(outputs.end(), list->begin(), list->end());
    }
  }
  if (outputs.size() != results.size()) malformed();
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    GraphNode same;
    same.name = name;
    same.target = "_operator.getitem";
    same.inputs = {{"a", std::vector<ValueName>{results[i]}}, {"b", std::int64_t{0}}};
    same.outputs = {outputs[i]};
    listing_.program.nodes.push_back(std::move(same));
  }
}

/// Appends the names of the leaves of a pytree, as torch.export describes it.
REFINE_INLINE void collect_names(const json& tree, const std::string& prefix, const json* fields, int depth,
                                 std::vector<std::string>& names) {
  constexpr int max_depth = 16;
  constexpr std::size_t max_names = 1000;
  const json* children = optional_member(tree, "children_spec");
  const json* type = optional_member(tree, "type");
  if (!type || !children || !children->is_array() || depth > max_depth || names.size() > max_names) {
    names.push_back(prefix);
    return;
  }
  std::vector<std::string> keys;
  if (const json* context = optional_member(tree, "context"); context && context->is_string()) {
    const json parsed = parse_json(context->get_ref<const std::string&>(), "context");
    const json* list = &parsed;
    if (const json* named =
            fields ? optional_member(*fields, context->get_ref<const std::string&>().c_str()) : nullptr) {
      list = optional_member(*named, "field_names");
    }
    if (list && list->is_array()) {
      for (const json& key : *list) keys.push_back(key.is_string() ? key.get<std::string>() : key.dump());
    }
  }
  for (std::size_t i = 0; i < children->size(); ++i) {
    const std::string name = keys.size() == children->size() ? keys[i] : std::to_string(i);
    collect_names((*children)[i], prefix.empty() ? name : prefix + "." + name, fields, depth + 1, names);
  }
}

REFINE_INLINE void Reader::read_outputs(const json& graph_module, const json& signature) {
  const json& graph = member(graph_module, "graph");
  const json& specs = list_of(signature, "output_specs");
  if (list_of(graph, "outputs").size() != specs.size()) {
    fail("the graph and its signature differ in the number of outputs");
  }
  std::vector<std::string> names;
  if (const json* calls = optional_member(graph_module, "module_call_graph");
      calls && calls->is_array() && !calls->empty()) {
    if (const json* call = optional_member(calls->front(), "signature")) {
      if (const json* spec = optional_member(*call, "out_spec"); spec && spec->is_string()) {
        const json tree = parse_json(spec->get_ref<const std::string&>(), "out_spec");
        if (tree.is_array() && tree.size() == 2) {
          collect_names(tree[1], "", optional_member(graph_module, "treespec_namedtuple_fields"), 0, names);
        }
      }
    }
  }
  std::size_t position = 0;
  for (const json& spec : specs) {
    const auto [kind, value] = choice_of(spec, "an output");
    if (kind != "user_output") {
      const char* what = kind == "buffer_mutation"       ? "changes its buffers while it runs"
                         : kind == "parameter_mutation"  ? "changes its parameters while it runs"
                         : kind == "user_input_mutation" ? "changes its images"
                                                         : "is a training step";
      object_unsupported(
          fmt::format("the program {} ({}); it was not exported in evaluation mode", what, shorten(kind)));
      continue;
    }
    const auto [argument_kind, argument] = choice_of(member(value, "arg"), "an output");
    GraphOutput output{.name = position < names.size() ? names[position] : std::to_string(position)};
    if (argument_kind == "as_tensor") output.value = use(text_of(argument, "name"), Kind::tensor);
    listing_.program.outputs.push_back(std::move(output));
    ++position;
  }
}

REFINE_INLINE void Reader::read_shapes(const json& graph) {
  const json& metas = object_of(graph, "tensor_values");
  const auto read = [&](const std::string& value) {
    const auto meta = metas.find(value);
    if (meta == metas.end()) return;
    GraphShape shape;
    if (const auto type = element_type(member(*meta, "dtype"), value)) shape.type = *type;
    for (const json& size : list_of(*meta, "sizes")) {
      const auto [kind, number] = choice_of(size, "an extent");
      std::int64_t example = 0;
      if (kind == "as_int") {
        example = integer_from(number, "an extent");
        shape.sizes.push_back(example);
      } else {
        shape.sizes.emplace_back();
        const json* hint = optional_member(number, "hint");
        const json* known = hint ? optional_member(*hint, "as_int") : nullptr;
        if (known) example = integer_from(*known, "an extent");
      }
      shape.example.push_back(example);
    }
    listing_.program.shapes[value] = std::move(shape);
  };
  for (const GraphInput& input : listing_.program.inputs) {
    if (input.kind == GraphInput::Kind::images) read(input.name);
  }
  for (const GraphOutput& output : listing_.program.outputs) read(output.value);
}

/// The kinds of objection, the most serious first.
inline constexpr std::array by_severity = {Objection::Kind::harmful, Objection::Kind::quantized,
                                           Objection::Kind::library, Objection::Kind::unsupported,
                                           Objection::Kind::unknown};

/// Returns the hint of a refusal for a kind of objection.
inline std::string advice(Objection::Kind kind) {
  switch (kind) {
    case Objection::Kind::quantized:
      return "no gradient passes through a quantised operator, so no defense can be trained, even with --trust; "
             "export the float model, before it is quantised";
    case Objection::Kind::library:
      return "refine has only the operators of PyTorch, even with --trust; export the model without it";
    case Objection::Kind::unsupported:
      return "export the model again with PyTorch 2.9 or newer, as float32 and in evaluation mode: "
             "torch.export.save(torch.export.export(model.eval(), (images,)), \"model.pt2\"); "
             "--trust does not help";
    case Objection::Kind::unknown:
      return "it may be harmless: if you trust the source of the file, run it with --trust";
    case Objection::Kind::harmful:
      break;
  }
  return "it may be a harmful program: do not load it in Python; look at it with refine inspect, "
         "and use --trust only if you trust the source of the file";
}

REFINE_INLINE std::string advice(const ExportedProgramListing& listing) {
  const auto kind =
      std::ranges::find_if(by_severity, [&](Objection::Kind each) { return listing.has(each); });
  return advice(kind == by_severity.end() ? Objection::Kind::unknown : *kind);
}

}  // namespace refine::formats::detail::exported

namespace refine::formats {

REFINE_INLINE bool is_exported_program_file(const std::filesystem::path& path) {
  return is_archive(refine::detail::read_beginning(path, 4)) &&
         is_exported_program(detail::list_archive(path));
}

REFINE_INLINE ExportedProgramListing inspect_exported_program(Archive archive,
                                                              const std::filesystem::path& name,
                                                              const std::string& program) {
  try {
    return detail::exported::Reader(std::move(archive), program).read();
  } catch (const detail::exported::Malformed& error) {
    throw Error("cannot load {}: {}; export it again with PyTorch 2.9 or newer", name.string(), error.what());
  }
}

REFINE_INLINE ExportedProgram read_exported_program(const std::filesystem::path& path, Trust trust,
                                                    const std::string& program) {
  using namespace detail::exported;
  Archive archive = read_archive(path);
  if (!is_exported_program(archive)) {
    throw Error(
        "cannot load {}: not an exported program, models/*.json is missing; save one with "
        "torch.export.save",
        path.string());
  }
  ExportedProgramListing listing = inspect_exported_program(std::move(archive), path, program);
  const auto refuses = [&](Objection::Kind kind) {
    const bool may_run = kind == Objection::Kind::harmful || kind == Objection::Kind::unknown;
    return !(trust == Trust::blind && may_run) && listing.has(kind);
  };
  const auto first = std::ranges::find_if(by_severity, refuses);
  if (first == by_severity.end()) return std::move(listing.program);
  detail::refuse_program(path, listing.objections, *first, advice(*first));
}

}  // namespace refine::formats
