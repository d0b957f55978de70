#pragma once

// What pickle_builder.hpp declares.

#include <refine/formats/pickle_builder.hpp>

#include <ATen/ops/as_strided.h>
#include <ATen/ops/empty.h>
#include <fmt/core.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <refine/core/compiled.hpp>
#include <refine/formats/pickle_names.hpp>
#include <refine/formats/pickle_stack.hpp>
#include <refine/formats/zip_directory.hpp>

namespace refine::formats::detail {

REFINE_DEFINITION bool Layout::contiguous() const {
  std::int64_t expected = 1;
  for (std::size_t i = sizes.size(); i-- > 0;) {
    if (sizes[i] != 1 && strides[i] != expected) return false;
    expected *= sizes[i];
  }
  return true;
}

REFINE_DEFINITION PickleBuilder::PickleBuilder(const PickleMachine& machine, const Storages& storages)
    : machine_(machine), storages_(storages) {
  tensor_budget_ += machine.size() * copies;
  text_budget_ += machine.size() * copies;
}

REFINE_DEFINITION Value PickleBuilder::build(const PickleNode& node, bool keep_opaque) {
  Value value = built(node, 0).value;
  if (const Opaque* whole = value.as_opaque(); whole && !keep_opaque) {
    if (whole->name == large_integer) fail("it has an integer of more than 64 bits");
    machine_.refuse(whole->name);
  }
  return value;
}

REFINE_DEFINITION PickleBuilder::Built PickleBuilder::built(const PickleNode& node, int depth) {
  if (depth > deepest) fail(fmt::format("it is nested deeper than {}, or contains itself", deepest));
  switch (node.kind) {
    case Kind::none:
      return {};
    case Kind::boolean:
      return {{node.integer != 0}};
    case Kind::integer:
      return {{node.integer}};
    case Kind::real:
      return {{node.real}};
    case Kind::text:
      return {{std::string(counted(node.text))}};
    case Kind::bytes:
      return {{Bytes{std::string(counted(node.text))}}};
    case Kind::name: {
      if (node.name->callee == Callee::dtype) return {{std::string(node.name->name)}};
      if (depth > 0) return opaque(node.name->name, node);
      fail(fmt::format("it has {} where a value should be", node.name->name));
    }
    case Kind::storage:
      if (depth > 0) return opaque(node.name->name, node);
      fail("it has a storage without a tensor");
    case Kind::numpy_dtype:
      if (depth > 0) return opaque("numpy.dtype", node);
      fail("it has a NumPy type without an array");
    case Kind::opaque:
      if (node.entries == nullptr || !reaches_tensors(node)) return opaque(node.text, node);
      return built(*node.entries, depth);  // a dict of a class of its own
    case Kind::list:
    case Kind::tuple:
    case Kind::dict:
    case Kind::tensor:
    case Kind::array:
      break;
  }
  if (const auto at = done_.find(&node); at != done_.end()) return at->second;
  Built made;
  if (node.kind == Kind::tensor) {
    made.value = tensor(node);
  } else if (node.kind == Kind::array) {
    made.value = array(node);
  } else {
    made = container(node, depth);
  }
  return done_.emplace(&node, std::move(made)).first->second;
}

REFINE_DEFINITION PickleBuilder::Built PickleBuilder::container(const PickleNode& node, int depth) {
  Built made;
  List items;
  items.reserve(node.items.size());
  for (const PickleNode* item : node.items) {
    Built one = built(*item, depth + 1);
    made.weight += one.weight;
    if (made.weight > most_weight) fail("it names the same things over and over");
    items.push_back(std::move(one.value));
  }
  if (node.kind == Kind::list) {
    made.value.content = std::make_shared<const List>(std::move(items));
  } else if (node.kind == Kind::tuple) {
    made.value.content = std::make_shared<const Tuple>(Tuple{std::move(items)});
  } else {
    made.value.content = std::make_shared<const Dict>(dict(items));
  }
  return made;
}

REFINE_DEFINITION PickleBuilder::Built PickleBuilder::opaque(std::string_view name, const PickleNode& node) {
  Opaque made{.name = std::string(counted(name))};
  made.is_tensor = name.starts_with("torch._utils._rebuild_");
  made.has_tensors = made.is_tensor || reaches_tensors(node);
  Built result;
  result.value.content = std::move(made);
  return result;
}

/// What it has is walked without recursion, since nobody knows how deep it is.
REFINE_DEFINITION bool PickleBuilder::reaches_tensors(const PickleNode& node) {
  std::set<const PickleNode*> seen = {&node};
  for (std::vector<const PickleNode*> open = {&node}; !open.empty();) {
    const PickleNode* next = open.back();
    open.pop_back();
    if (next->kind == Kind::tensor || next->kind == Kind::storage) return true;
    if (visits_left_ == 0) return true;
    --visits_left_;
    for (const PickleNode* item : next->items) {
      if (seen.insert(item).second) open.push_back(item);
    }
    if (next->entries != nullptr && seen.insert(next->entries).second) open.push_back(next->entries);
  }
  return false;
}

REFINE_DEFINITION Dict PickleBuilder::dict(List& items) const {
  Dict result;
  std::set<std::string_view> keys;
  result.reserve(items.size() / 2);
  for (std::size_t i = 0; i + 1 < items.size(); i += 2) {
    result.emplace_back(std::move(items[i]), std::move(items[i + 1]));
    const std::string* key = result.back().first.as_text();
    if (key && !keys.insert(*key).second) fail(fmt::format("a dict has the key '{}' twice", shown(*key)));
  }
  return result;
}

REFINE_DEFINITION std::vector<std::int64_t> PickleBuilder::extents(const PickleNode& tuple) const {
  constexpr std::size_t most = 64;  // as LibTorch has it
  std::vector<std::int64_t> result;
  for (const PickleNode* item : tuple.items) {
    if (item->kind != Kind::integer || item->integer < 0) {
      fail("a tensor has a size or a stride that is no natural number");
    }
    if (result.size() == most) fail(fmt::format("a tensor has more than {} dimensions", most));
    result.push_back(item->integer);
  }
  return result;
}

REFINE_DEFINITION Value PickleBuilder::tensor(const PickleNode& node) {
  const PickleNode& storage = *node.items[0];
  const std::string_view key = storage.items[0]->text;
  const std::optional<std::string_view> data = storages_ ? storages_(key) : std::nullopt;
  if (!data) fail(fmt::format("it has no storage '{}'", shown(key)));
  const std::int64_t claimed = storage.items[1]->integer;
  std::int64_t bytes = 0;
  if (claimed < 0 ||
      __builtin_mul_overflow(claimed, std::int64_t(c10::elementSize(storage.name->type)), &bytes) ||
      static_cast<std::uint64_t>(bytes) > data->size()) {
    fail(fmt::format("storage '{}' claims {} numbers and has {} bytes", shown(key), claimed, data->size()));
  }
  if (counted_storages_.insert(std::string(key)).second) tensor_budget_ += data->size() * copies;
  Layout layout{
      .sizes = extents(*node.items[2]), .strides = extents(*node.items[3]), .offset = node.items[1]->integer};
  if (layout.sizes.size() != layout.strides.size() || layout.offset < 0) {
    fail("a tensor has not as many strides as sizes");
  }
  if (!is_readable(node.name->type)) {
    return {Opaque{.name = std::string(node.name->name), .is_tensor = true, .has_tensors = true}};
  }
  return {copied(data->substr(0, static_cast<std::size_t>(bytes)), node.name->type, layout)};
}

REFINE_DEFINITION Value PickleBuilder::array(const PickleNode& node) {
  if (node.items.empty()) fail("it has a NumPy array without content");
  const auto type = std::ranges::find(numpy_types, node.items[1]->text, &NumpyType::name);
  if (type == numpy_types.end()) return {Opaque{.name = "numpy.ndarray"}};  // of texts, dates, uint32 ...
  Layout layout{.sizes = extents(*node.items[0])};
  layout.strides.resize(layout.sizes.size());
  std::int64_t stride = 1;
  for (std::size_t i = 0; i < layout.sizes.size(); ++i) {
    const std::size_t at = node.items[2]->integer != 0 ? i : layout.sizes.size() - 1 - i;
    layout.strides[at] = stride;
    if (__builtin_mul_overflow(stride, std::max<std::int64_t>(layout.sizes[at], 1), &stride)) {
      fail("a tensor claims more bytes than there are");
    }
  }
  return {copied(node.items[3]->text, type->type, layout)};
}

REFINE_DEFINITION at::Tensor PickleBuilder::copied(std::string_view data, at::ScalarType type,
                                                   const Layout& layout) {
  const std::int64_t width = static_cast<std::int64_t>(c10::elementSize(type));
  const auto too_large = [&] { fail("a tensor claims more bytes than there are"); };
  // Bytes, had it no extent of 0: strides are computed of those too, and must not overflow.
  std::int64_t span = width;
  std::int64_t last = layout.offset;  // the index of the last number
  bool empty = false;
  for (std::size_t i = 0; i < layout.sizes.size(); ++i) {
    const std::int64_t n = layout.sizes[i];
    std::int64_t reach = 0;
    empty = empty || n == 0;
    if (__builtin_mul_overflow(span, std::max<std::int64_t>(n, 1), &span)) too_large();
    if (n > 0 && (__builtin_mul_overflow(n - 1, layout.strides[i], &reach) ||
                  __builtin_add_overflow(last, reach, &last))) {
      too_large();
    }
  }
  if (empty) return at::empty(layout.sizes, type);
  const auto there = static_cast<std::int64_t>(data.size()) / width;
  if (last >= there) too_large();
  // A copy of what is reached: the file's bytes need not lie where numbers of that type may.
  const char* from = data.data() + layout.offset * width;
  const bool contiguous = layout.contiguous();
  const std::int64_t reached = last - layout.offset + 1;
  spend(static_cast<std::uint64_t>(span));
  if (!contiguous) spend(static_cast<std::uint64_t>(reached * width));
  at::Tensor numbers = contiguous ? at::empty(layout.sizes, type) : at::empty({reached}, type);
  std::memcpy(numbers.mutable_data_ptr(), from, numbers.nbytes());
  if (type == at::kBool &&
      std::any_of(from, from + numbers.nbytes(), [](char c) { return c != 0 && c != 1; })) {
    fail("a tensor of truth values has others than 0 and 1");
  }
  return contiguous
             ? numbers
             : at::as_strided(numbers, layout.sizes, layout.strides).clone(at::MemoryFormat::Contiguous);
}

REFINE_DEFINITION void PickleBuilder::spend(std::uint64_t bytes) {
  if (bytes > tensor_budget_) {
    fail("its tensors repeat the same numbers so often that they need far more memory than the file has");
  }
  tensor_budget_ -= bytes;
}

REFINE_DEFINITION std::string_view PickleBuilder::counted(std::string_view text) {
  if (text.size() > text_budget_) fail("it names the same text over and over");
  text_budget_ -= text.size();
  return text;
}

}  // namespace refine::formats::detail
