#pragma once

#include <refine/formats/detail/script_pickle.hpp>

#include <fmt/core.h>
#include <torch/csrc/jit/frontend/tree_views.h>

#include <algorithm>
#include <cctype>
#include <exception>
#include <iterator>
#include <tuple>

#include <refine/core/config.hpp>
#include <refine/formats/detail/objection.hpp>
#include <refine/formats/detail/script_source.hpp>

namespace refine::formats::detail::script {

REFINE_INLINE bool matches_type(PickleItem& value, const torch::jit::TreeRef& type, bool untyped) {
  using Kind = PickleItem::Kind;
  using namespace torch::jit;
  if (type->kind() != TK_SUBSCRIPT) {
    const std::string name = type_text(type);
    switch (value.kind) {
      case Kind::none:
        return name == "NoneType";
      case Kind::boolean:
        return name == "bool" || name == "Scalar" || name == "number";
      case Kind::integer:
        return name == "int" || name == "Scalar" || name == "number";
      case Kind::real:
        return name == "float" || name == "Scalar" || name == "number";
      case Kind::text:
        return name == "str";
      case Kind::device:
        return name == "Device";
      case Kind::tensor:
        return name == "Tensor";
      case Kind::object:
        return name == value.text;
      default:
        return false;
    }
  }
  const std::string container = type_text(Subscript(type).value());
  const torch::jit::TreeList& arguments = subscript_arguments(type);
  const auto matches_one = [&](const TreeRef& each) { return matches_type(value, each, untyped); };
  if (container == "Optional") {
    return value.kind == Kind::none || (arguments.size() == 1 && matches_one(arguments[0]));
  }
  if (container == "Union") return std::ranges::any_of(arguments, matches_one);
  if (container == "Tuple") {
    const bool is_unit = arguments.size() == 1 && type_text(arguments[0]) == "()";
    if (value.kind != Kind::tuple || value.parts.size() != (is_unit ? 0 : arguments.size())) return false;
    for (std::size_t i = 0; i < value.parts.size(); ++i) {
      if (!matches_type(*value.parts[i], arguments[i], untyped)) return false;
    }
    return true;
  }
  const bool is_dict = container == "Dict";
  if (value.kind != (is_dict ? Kind::dict : Kind::list) || arguments.size() != (is_dict ? 2 : 1)) {
    return false;
  }
  if (untyped && value.text.empty()) value.text = type_text(type);
  if (value.text != type_text(type)) return false;
  for (std::size_t i = 0; i < value.parts.size(); ++i) {
    if (!matches_type(*value.parts[i], arguments[is_dict ? i % 2 : 0], untyped)) return false;
  }
  return true;
}

REFINE_INLINE PickleItem::Ref PickleCheck::run() {
  if (byte() != 0x80 || byte() != 2) fail("is not a pickle of protocol 2");
  while (step()) continue;
  if (!rest_.empty() || stack_.size() != 1 || !marks_.empty()) fail("is malformed");
  return stack_.back();
}

REFINE_INLINE std::string_view PickleCheck::take(std::size_t n) {
  require(n <= rest_.size(), "is truncated");
  const std::string_view bytes = rest_.substr(0, n);
  rest_.remove_prefix(n);
  return bytes;
}

REFINE_INLINE std::string PickleCheck::line() {
  const std::size_t end = rest_.find('\n');
  require(end != std::string_view::npos, "is truncated");
  const std::string text(take(end));
  take(1);
  const auto is_name = [](unsigned char c) { return std::isalnum(c) != 0 || c == '_' || c == '.'; };
  require(std::ranges::all_of(text, is_name), "has an invalid name");
  return text;
}

REFINE_INLINE PickleCheck::Ref PickleCheck::make(Kind kind, std::string text, std::int64_t number) {
  const bool is_container = kind == Kind::tuple || kind == Kind::list || kind == Kind::dict;
  return std::make_shared<PickleItem>(PickleItem{
      .kind = kind, .text = std::move(text), .number = number, .depth = std::size_t{is_container}});
}

REFINE_INLINE void PickleCheck::push(Ref value) {
  constexpr std::size_t max_stack = 1'000'000;
  if (stack_.size() >= max_stack) fail(fmt::format("has more than {} objects on its stack", max_stack));
  stack_.push_back(std::move(value));
}

REFINE_INLINE PickleCheck::Ref PickleCheck::pop() {
  require(stack_.size() > (marks_.empty() ? 0 : marks_.back()));
  Ref value = std::move(stack_.back());
  stack_.pop_back();
  return value;
}

REFINE_INLINE std::vector<PickleCheck::Ref> PickleCheck::pop_to_mark() {
  require(!marks_.empty());
  std::vector<Ref> values(
      std::make_move_iterator(stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back())),
      std::make_move_iterator(stack_.end()));
  stack_.resize(marks_.back());
  marks_.pop_back();
  return values;
}

REFINE_INLINE void PickleCheck::add(const Ref& whole, std::vector<Ref> parts) {
  constexpr std::size_t max_size = 1'000'000;  // on all paths, which LibTorch and `matches_type` walk
  require(!whole->is_shared, "changes a value that is already shared");
  for (Ref& part : parts) {
    whole->depth = std::max(whole->depth, part->depth + 1);
    whole->size += part->size;
    if (whole->depth > max_depth) fail(fmt::format("is nested deeper than {} levels", max_depth));
    if (whole->size > max_size) fail(fmt::format("has more than {} values on all paths", max_size));
    part->is_shared = part->is_shared || part->kind == Kind::list || part->kind == Kind::dict;
    whole->parts.push_back(std::move(part));
  }
}

REFINE_INLINE void PickleCheck::push_container(Kind kind, std::vector<Ref> parts) {
  const Ref whole = make(kind);
  add(whole, std::move(parts));
  push(whole);
}

REFINE_INLINE void PickleCheck::push_tuple(std::size_t size) {
  std::vector<Ref> parts(size);
  for (std::size_t i = size; i-- > 0;) parts[i] = pop();
  push_container(Kind::tuple, std::move(parts));
}

REFINE_INLINE void PickleCheck::add_to_top(Kind kind, std::vector<Ref> parts) {
  const Ref whole = pop();
  require(whole->kind == kind && whole->text.empty());
  if (kind == Kind::dict) {
    require(parts.size() % 2 == 0);
    for (std::size_t i = 0; i < parts.size(); i += 2) {
      const Kind key = parts[i]->kind;
      require(key == Kind::text || key == Kind::integer || key == Kind::real || key == Kind::boolean,
              "has a dict with a key that is neither a string nor a number");
    }
  }
  add(whole, std::move(parts));
  push(whole);
}

REFINE_INLINE void PickleCheck::memoize(std::size_t index) {
  // LibTorch would fill the gap with up to 2^32 values.
  require(index <= memo_.size(), "has a gap in its memo");
  require(stack_.size() > (marks_.empty() ? 0 : marks_.back()));
  stack_.back()->is_shared = true;
  if (index == memo_.size()) return memo_.push_back(stack_.back());
  memo_[index] = stack_.back();
}

REFINE_INLINE void PickleCheck::recall(std::size_t index) {
  require(index < memo_.size());
  push(memo_[index]);
}

REFINE_INLINE bool PickleCheck::step() {
  switch (byte()) {
    case '.':
      return false;
    case 'c': {
      std::string module = line();
      push_name(module, line());
      return true;
    }
    case '(':
      marks_.push_back(stack_.size());
      return true;
    case 'N':
      push(make(Kind::none));
      return true;
    case 0x88:
    case 0x89:
      push(make(Kind::boolean));
      return true;
    case 'K':
      push(make(Kind::integer, {}, byte()));
      return true;
    case 'M':
      push(make(Kind::integer, {}, number<std::uint16_t>()));
      return true;
    case 'J':
      push(make(Kind::integer, {}, number<std::int32_t>()));
      return true;
    case 0x8a:
      require(byte() == 8);
      push(make(Kind::integer, {}, number<std::int64_t>()));
      return true;
    case 'G':
      take(sizeof(double));
      push(make(Kind::real));
      return true;
    case 'X': {
      const std::size_t size = number<std::uint32_t>();
      push(make(Kind::text, std::string(take(size))));
      return true;
    }
    case ')':
      push(make(Kind::tuple));
      return true;
    case ']':
      push(make(Kind::list));
      return true;
    case '}':
      push(make(Kind::dict));
      return true;
    case 't':
      push_container(Kind::tuple, pop_to_mark());
      return true;
    case 0x85:
      push_tuple(1);
      return true;
    case 0x86:
      push_tuple(2);
      return true;
    case 0x87:
      push_tuple(3);
      return true;
    case 'e':
      add_to_top(Kind::list, pop_to_mark());
      return true;
    case 'u':
      add_to_top(Kind::dict, pop_to_mark());
      return true;
    case 'q':
      memoize(byte());
      return true;
    case 'r':
      memoize(number<std::uint32_t>());
      return true;
    case 'h':
      recall(byte());
      return true;
    case 'j':
      recall(number<std::uint32_t>());
      return true;
    case 0x81: {
      const Ref arguments = pop();
      require(arguments->kind == Kind::tuple && arguments->parts.empty());
      const Ref type = pop();
      require(type->kind == Kind::name && code_.classes().contains(type->text));
      push(make(Kind::blank, type->text));
      return true;
    }
    case 'b':
      build_object();
      return true;
    case 'R':
      call();
      return true;
    case 'Q':
      push_storage();
      return true;
    default:
      fail("has an instruction that TorchScript does not write");
  }
}

REFINE_INLINE void PickleCheck::push_name(const std::string& module, const std::string& last) {
  static const std::set<std::string> builders = {"torch.jit._pickle.build_intlist",
                                                 "torch.jit._pickle.build_tensorlist",
                                                 "torch.jit._pickle.build_doublelist",
                                                 "torch.jit._pickle.build_boollist",
                                                 "torch.jit._pickle.restore_type_tag",
                                                 "torch._utils._rebuild_tensor_v2",
                                                 "collections.OrderedDict",
                                                 "torch.device"};
  const std::string whole = module + "." + last;
  if (whole.starts_with("__torch__.")) {
    named_classes_.insert(whole);
    const auto found = code_.classes().find(whole);
    if (whole.starts_with("__torch__.torch.classes.quantized.")) {
      throw UnsupportedTensorError(fmt::format("has packed weights of a quantised layer ({})", whole), true);
    }
    if (found == code_.classes().end() || found->second.is_tuple) {
      fail(fmt::format("asks for the class {}, which its code does not define", whole));
    }
  } else if (const bool is_storage =
                 module == "torch" && last.ends_with("Storage") && !storage_types().contains(last);
             is_storage || whole.starts_with("torch._utils._rebuild_qtensor") ||
             whole.starts_with("torch._utils._rebuild_sparse")) {
    const UnsupportedTensor kind = describe_unsupported_tensor(whole);
    throw UnsupportedTensorError(fmt::format("has {} ({})", kind.what, whole), kind.quantized);
  } else if (!builders.contains(whole) && !(module == "torch" && storage_types().contains(last))) {
    fail(fmt::format("asks for {}, which is neither a tensor nor a container", whole));
  }
  push(make(Kind::name, whole));
}

REFINE_INLINE const std::map<std::string, at::ScalarType>& PickleCheck::storage_types() {
  static const std::map<std::string, at::ScalarType> types = {
      {"FloatStorage", at::kFloat}, {"DoubleStorage", at::kDouble},     {"HalfStorage", at::kHalf},
      {"LongStorage", at::kLong},   {"BFloat16Storage", at::kBFloat16}, {"IntStorage", at::kInt},
      {"ShortStorage", at::kShort}, {"CharStorage", at::kChar},         {"ByteStorage", at::kByte},
      {"BoolStorage", at::kBool}};
  return types;
}

REFINE_INLINE void PickleCheck::build_object() {
  const Ref state = pop(), blank = pop();
  require(state->kind == Kind::dict && blank->kind == Kind::blank);
  std::map<std::string, Ref> values;
  for (std::size_t i = 0; i < state->parts.size(); i += 2) {
    require(state->parts[i]->kind == Kind::text);
    values.insert_or_assign(state->parts[i]->text, state->parts[i + 1]);
  }
  for (const auto& [attribute, type] : code_.classes().at(blank->text).attributes) {
    const auto value = values.find(attribute);
    if (value == values.end()) {
      fail(fmt::format("does not set the attribute {1} of {0}", blank->text, attribute));
    }
    if (!matches_type(*value->second, type, untyped_)) {
      fail(fmt::format("sets the attribute {1} of {0} to a value that is not a {2}", blank->text, attribute,
                       type_text(type)));
    }
  }
  const Ref result = make(Kind::object, blank->text);
  add(result, state->parts);
  push(result);
}

REFINE_INLINE void PickleCheck::call() {
  const Ref arguments = pop(), callee = pop();
  require(arguments->kind == Kind::tuple && callee->kind == Kind::name);
  const auto& parts = arguments->parts;
  const std::string_view name = callee->text;
  constexpr std::string_view lists = "torch.jit._pickle.build_";
  if (name == "collections.OrderedDict") {
    require(parts.empty());
    push(make(Kind::none));  // the backward hooks of a tensor, which LibTorch reads as None
  } else if (name == "torch.device") {
    require(parts.size() == 1 && parts[0]->kind == Kind::text);
    push(make(Kind::device));
  } else if (name == "torch._utils._rebuild_tensor_v2") {
    push_tensor(parts);
  } else if (name == "torch.jit._pickle.restore_type_tag") {
    require(parts.size() == 2 && parts[1]->kind == Kind::text);
    set_type(parts[0], parts[1]->text);
  } else if (name.starts_with(lists)) {
    const std::string_view element = name.substr(lists.size());
    require(parts.size() == 1 && parts[0]->kind == Kind::list);
    set_type(parts[0], element == "intlist"      ? "List[int]"
                       : element == "tensorlist" ? "List[Tensor]"
                       : element == "doublelist" ? "List[float]"
                                                 : "List[bool]");
  } else {
    fail("is malformed");
  }
}

REFINE_INLINE void PickleCheck::set_type(const Ref& value, const std::string& text) {
  require((value->kind == Kind::list || value->kind == Kind::dict) && value->text.empty());
  TreeRef type;
  try {
    type = parse_type(text);
  } catch (const std::exception&) {
    fail("has a type that cannot be parsed");
  }
  require(code_.is_type(type), "has a list or dict of an undefined type");
  value->text = type_text(type);
  require(matches_type(*value, type, untyped_), "has a list or dict whose content does not match its type");
  push(value);
}

REFINE_INLINE void PickleCheck::push_storage() {
  const Ref id = pop();
  const bool is_old = id->parts.size() == 6 && id->parts[5]->kind == Kind::none;  // before PyTorch 1.6
  require(id->kind == Kind::tuple && (id->parts.size() == 5 || is_old));
  const auto& [label, type, key, device, count] =
      std::tie(*id->parts[0], *id->parts[1], *id->parts[2], *id->parts[3], *id->parts[4]);
  require(label.kind == Kind::text && label.text == "storage" && type.kind == Kind::name &&
          key.kind == Kind::text && device.kind == Kind::text && count.kind == Kind::integer);
  constexpr std::size_t prefix = std::string_view("torch.").size();
  const auto scalar = storage_types().find(type.text.substr(std::min(prefix, type.text.size())));
  require(scalar != storage_types().end());
  const auto entry = entries_.find(folder_ + key.text);
  const std::uint64_t bytes = entry == entries_.end() ? 0 : entry->second.size();
  if (count.number < 0 ||
      static_cast<std::uint64_t>(count.number) > bytes / c10::elementSize(scalar->second)) {
    fail(fmt::format("claims {} elements in {}{}, which has {} bytes", count.number, folder_, key.text,
                     bytes));
  }
  push(make(Kind::storage, {}, count.number));
}

REFINE_INLINE void PickleCheck::push_tensor(const std::vector<Ref>& parts) {
  require(parts.size() == 6 && parts[0]->kind == Kind::storage && parts[1]->kind == Kind::integer &&
          parts[4]->kind == Kind::boolean && parts[5]->kind == Kind::none);
  const std::vector<std::int64_t> sizes = read_extents(*parts[2]), strides = read_extents(*parts[3]);
  constexpr std::size_t max_dims = 64;  // the limit of LibTorch
  if (sizes.size() > max_dims) {
    fail(fmt::format("has a tensor of {} dimensions, more than the {} allowed", sizes.size(), max_dims));
  }
  require(sizes.size() == strides.size() && parts[1]->number >= 0);
  // Strides of 0 give a tensor more elements than its storage, up to this number.
  constexpr std::uint64_t max_elements = std::uint64_t{1} << 40;
  const auto storage = static_cast<std::uint64_t>(parts[0]->number);
  const auto offset = static_cast<std::uint64_t>(parts[1]->number);
  std::uint64_t elements = 1, last = offset;
  bool exceeds = offset > storage;
  const bool is_empty = std::ranges::find(sizes, 0) != sizes.end();
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    const auto size = static_cast<std::uint64_t>(std::max<std::int64_t>(sizes[i], 1));
    const auto stride = static_cast<std::uint64_t>(strides[i]);
    if (elements > max_elements / size) {
      fail(fmt::format("has a tensor of more than {} elements", max_elements));
    }
    exceeds = exceeds || stride > max_elements || stride * (size - 1) > max_elements - last;
    if (exceeds) break;
    elements *= size;
    last += stride * (size - 1);
  }
  if (exceeds || (!is_empty && last >= storage)) fail("has a tensor that exceeds its storage");
  push(make(Kind::tensor));
}

REFINE_INLINE std::vector<std::int64_t> PickleCheck::read_extents(const PickleItem& value) {
  require(value.kind == Kind::tuple);
  std::vector<std::int64_t> result;
  for (const Ref& part : value.parts) {
    require(part->kind == Kind::integer && part->number >= 0, "has a tensor of a negative size");
    result.push_back(part->number);
  }
  return result;
}

}  // namespace refine::formats::detail::script
