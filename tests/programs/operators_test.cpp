// Calls every permitted operator with arguments that do not fit each other, between pages that can neither be read nor
// written, in a separate process. A file that names it would choose the arguments.

#include <ATen/Functions.h>
#include <ATen/Parallel.h>
#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <torch/csrc/jit/runtime/operator.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <refine/formats/detail/operators.hpp>
#include <refine/programs/detail/program_checks.hpp>

namespace refine {
namespace {

using Values = std::vector<c10::IValue>;

/// Memory that ends before a page without permissions, or begins behind one.
class GuardedMemory final : public c10::Allocator {
 public:
  bool begins_at_page = false;

  c10::DataPtr allocate(std::size_t n) override {
    constexpr std::size_t page = 4096, largest = std::size_t{1} << 28;
    if (n == 0) return {nullptr, nullptr, &c10::detail::deleteNothing, c10::Device(c10::kCPU)};
    if (n > largest) throw std::bad_alloc();
    const std::size_t body = (n + page - 1) / page * page, all = body + 2 * page;
    auto* const base =
        static_cast<char*>(::mmap(nullptr, all, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (base == MAP_FAILED) throw std::bad_alloc();
    ::mprotect(base, page, PROT_NONE);
    ::mprotect(base + page + body, page, PROT_NONE);
    constexpr std::size_t alignment = 16;
    char* const data =
        base + page + (begins_at_page ? 0 : body - (n + alignment - 1) / alignment * alignment);
    std::memset(data, 0x55, n);
    const std::lock_guard lock(mutex());
    blocks()[data] = {base, all};
    return {data, data, &release, c10::Device(c10::kCPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, std::size_t n) const override { std::memcpy(to, from, n); }

 private:
  static std::mutex& mutex() {
    static std::mutex mutex;
    return mutex;
  }
  static std::map<void*, std::pair<void*, std::size_t>>& blocks() {
    static std::map<void*, std::pair<void*, std::size_t>> blocks;
    return blocks;
  }
  static void release(void* data) {
    const std::lock_guard lock(mutex());
    const auto found = blocks().find(data);
    if (found == blocks().end()) return;  // of another allocator
    ::munmap(found->second.first, found->second.second);
    blocks().erase(found);
  }
};

/// Draws arguments.
class Draw {
 public:
  explicit Draw(unsigned seed) : random_(seed) {}

  std::int64_t number(std::int64_t low, std::int64_t high) {
    return std::uniform_int_distribution<std::int64_t>(low, high)(random_);
  }
  bool chance(int percent) { return number(0, 99) < percent; }
  template <typename T>
  T one_of(const std::vector<T>& values) {
    return values[static_cast<std::size_t>(number(0, static_cast<std::int64_t>(values.size()) - 1))];
  }

  /// Chooses new extents, which tensors share or do not.
  void begin_call() {
    n_ = number(1, 3);
    c_ = one_of<std::int64_t>({1, 2, 3, 4, 8, 33});
    h_ = number(1, 9);
    w_ = number(1, 9);
  }

  at::Tensor tensor(const std::string& name) {
    std::vector<std::int64_t> sizes = one_of<std::vector<std::int64_t>>({{n_, c_, h_, w_},
                                                                         {n_, c_, h_, w_},
                                                                         {n_, c_, h_},
                                                                         {n_, c_},
                                                                         {c_},
                                                                         {c_},
                                                                         {n_},
                                                                         {},
                                                                         {c_, c_, 3, 3},
                                                                         {c_, c_},
                                                                         {4 * c_, c_},
                                                                         {4 * c_},
                                                                         {1},
                                                                         {n_, n_}});
    if (chance(20)) {
      sizes.resize(static_cast<std::size_t>(number(0, 4)));
      for (std::int64_t& size : sizes) size = one_of<std::int64_t>({0, 1, 2, 3, 5, n_, c_, h_, w_});
    }
    const bool counts =
        name.find("ind") != std::string::npos || name.find("target") != std::string::npos || chance(12);
    if (counts) return at::randint(-2, 4, sizes, at::kLong) * (chance(10) ? 100'000 : 1);
    if (name.find("mask") != std::string::npos && chance(60)) return at::randint(0, 2, sizes, at::kBool);
    return at::randn(sizes, chance(5) ? at::kDouble : at::kFloat);
  }

  /// Returns a tensor of other sizes, or with another number in it.
  at::Tensor changed(const at::Tensor& t) {
    std::vector<std::int64_t> sizes = t.sizes().vec();
    if (sizes.empty()) return at::zeros({number(0, 2)}, t.options());
    std::int64_t& size =
        sizes[static_cast<std::size_t>(number(0, static_cast<std::int64_t>(sizes.size()) - 1))];
    switch (number(0, 5)) {
      case 0:
        size = number(0, 1);
        break;
      case 1:
        size = std::max<std::int64_t>(size - 1, 0);
        break;
      case 2:
        size += number(1, 40);
        break;
      case 3:
        sizes.pop_back();
        break;
      case 4:
        std::ranges::fill(sizes, 1);
        break;
      default:
        if (t.numel() == 0 || t.is_complex() || t.scalar_type() == at::kBool) break;
        at::Tensor other = t.clone();
        other.view(-1)[number(0, t.numel() - 1)].fill_(one_of<std::int64_t>({-1, 1000, -100'000}));
        return other;
    }
    return t.is_floating_point() ? at::randn(sizes).to(t.scalar_type()) : at::zeros(sizes, t.options());
  }

  /// \throws std::exception for types of arguments that are not drawn
  c10::IValue value(const c10::Argument& argument, const c10::TypePtr& type) {
    using Kind = c10::TypeKind;
    const std::string& name = argument.name();
    switch (type->kind()) {
      case Kind::OptionalType:
        return chance(35) ? c10::IValue()
                          : value(argument, type->castRaw<c10::OptionalType>()->getElementType());
      case Kind::TensorType:
        return tensor(name);
      case Kind::ScalarTypeType:
        return static_cast<std::int64_t>(at::kFloat);
      case Kind::MemoryFormatType:
      case Kind::LayoutType:
        return std::int64_t{0};
      case Kind::IntType:
      case Kind::SymIntType:
        if (name == "dtype") return static_cast<std::int64_t>(at::kFloat);
        return chance(10) ? std::int64_t{1} << number(20, 62)
                          : one_of<std::int64_t>({0, 1, 1, 2, 3, -1, -2, -5, c_, 4 * c_});
      case Kind::FloatType:
        return one_of<double>({0, 1, -1, 0.5, 1e-5, 2, 1e30});
      case Kind::NumberType:
        return chance(50) ? c10::IValue(number(-2, 3)) : c10::IValue(0.5);
      case Kind::BoolType:
        return chance(50);
      case Kind::StringType:
        return one_of<std::string>({"mean", "sum", "reflect", "constant", "bilinear", "ij", "tanh", "amax"});
      case Kind::DeviceObjType:
        return c10::Device(c10::kCPU);
      case Kind::GeneratorType:
        return {};
      case Kind::ListType:
        return list(argument, type->castRaw<c10::ListType>()->getElementType());
      default:
        throw std::invalid_argument(type->str());
    }
  }

  Values values(const c10::FunctionSchema& schema) {
    Values result;
    for (const c10::Argument& argument : schema.arguments()) {
      result.push_back(argument.default_value() && chance(60) ? *argument.default_value()
                                                              : value(argument, argument.real_type()));
    }
    return result;
  }

  /// Returns arguments of which one or two are other ones.
  Values changed(const c10::FunctionSchema& schema, Values values) {
    for (std::int64_t times = chance(25) ? 2 : 1; times > 0 && !values.empty(); --times) {
      const auto i = static_cast<std::size_t>(number(0, static_cast<std::int64_t>(values.size()) - 1));
      const c10::Argument& argument = schema.arguments()[i];
      if (values[i].isTensor() && values[i].toTensor().defined() && chance(85)) {
        values[i] = changed(values[i].toTensor());
      } else if (values[i].isTensorList() && values[i].toTensorList().size() > 0 && chance(85)) {
        auto tensors = values[i].toTensorVector();
        at::Tensor& one =
            tensors[static_cast<std::size_t>(number(0, static_cast<std::int64_t>(tensors.size()) - 1))];
        one = changed(one);
        values[i] = tensors;
      } else {
        values[i] = value(argument, argument.real_type());
      }
    }
    return values;
  }

 private:
  c10::IValue list(const c10::Argument& argument, const c10::TypePtr& element) {
    const std::int64_t count = argument.N() && chance(85) ? *argument.N() : number(1, 4);
    if (element->kind() == c10::TypeKind::TensorType) {
      std::vector<at::Tensor> tensors;
      const at::Tensor first = tensor("");
      for (std::int64_t i = 0; i < count; ++i) tensors.push_back(chance(70) ? first.clone() : tensor(""));
      return tensors;
    }
    if (element->kind() == c10::TypeKind::IntType || element->kind() == c10::TypeKind::SymIntType) {
      std::vector<std::int64_t> numbers;
      for (std::int64_t i = 0; i < count; ++i) numbers.push_back(chance(90) ? number(0, 4) : number(-3, 300));
      return numbers;
    }
    if (element->kind() == c10::TypeKind::FloatType) {
      std::vector<double> numbers;
      for (std::int64_t i = 0; i < count; ++i) numbers.push_back(one_of<double>({0.5, 1, 2, 1e-5, -1}));
      return numbers;
    }
    if (element->kind() == c10::TypeKind::BoolType) return std::vector<bool>{true, false};
    throw std::invalid_argument(element->str());
  }

  std::mt19937 random_;
  std::int64_t n_ = 1, c_ = 1, h_ = 1, w_ = 1;
};

/// Returns copies, since operators in place change their arguments.
Values copies_of(Values values) {
  for (c10::IValue& value : values) {
    if (value.isTensor() && value.toTensor().defined()) value = value.toTensor().clone();
  }
  return values;
}

/// Calls an operator with many arguments, first random ones, then those with which it ran, changed.
/// \return how often it ran
int call(const torch::jit::Operator& op, int calls, unsigned seed) {
  static GuardedMemory memory;
  c10::SetAllocator(c10::kCPU, &memory, 200);
  c10::SetCPUAllocator(&memory, 200);
  Draw draw(seed);
  const c10::FunctionSchema& schema = op.schema();
  std::vector<Values> ran;
  int count = 0;
  for (int i = 0; i < calls; ++i) {
    memory.begins_at_page = i % 3 == 0;
    draw.begin_call();
    try {
      const Values values =
          !ran.empty() && draw.chance(75) ? draw.changed(schema, draw.one_of(ran)) : draw.values(schema);
      if (backbones::detail::is_checked(schema.operator_name()))
        backbones::detail::check_arguments(schema.operator_name(), values);
      torch::jit::Stack stack = copies_of(values);
      op.getOperation()(stack);
      ++count;
      if (ran.size() < 12) ran.push_back(values);
    } catch (const std::exception&) {  // refused, as it should be
    }
  }
  return count;
}

bool takes_tensors(const c10::FunctionSchema& schema) {
  return std::ranges::any_of(schema.arguments(), [](const c10::Argument& argument) {
    return argument.type()->isSubtypeOf(*c10::OptionalType::ofTensor()) ||
           argument.type()->isSubtypeOf(*c10::ListType::ofTensors());
  });
}

/// Runs a function in a separate process. Returns the signal that ended it, or 0.
template <typename Function>
int signal_of(const Function& function) {
  const ::pid_t pid = ::fork();
  if (pid == 0) {
    if (std::freopen("/dev/null", "w", stderr) == nullptr) ::_exit(1);
    ::alarm(20);  // some wait for many numbers
    // A sanitizer catches them and would exit.
    for (const int fault : {SIGSEGV, SIGBUS, SIGFPE}) ::signal(fault, SIG_DFL);
    function();
    ::_exit(0);
  }
  int status = 0;
  ::waitpid(pid, &status, 0);
  return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

TEST(Operators, PermittedOnes_StayWithinTheirTensors) {
  at::set_num_threads(1);
  std::size_t tried = 0;
  for (const auto& op : torch::jit::getAllOperators()) {
    const c10::FunctionSchema& schema = op->schema();
    if (!formats::operators::permits(schema.name()) || !takes_tensors(schema)) continue;
    if (std::ranges::any_of(schema.arguments(), &c10::Argument::is_out)) continue;  // refused
    if (schema.overload_name().starts_with("prim_")) continue;  // a conversion to nothing: not called
    ++tried;
    const int signal = signal_of([&] { call(*op, 60, 1); });
    EXPECT_TRUE(signal != SIGSEGV && signal != SIGBUS && signal != SIGABRT)
        << toString(schema) << " ended with signal " << signal;
  }
  EXPECT_GT(tried, 900u);
}

// What is refused is found in this way.
TEST(Operators, UncheckedOnes_AreFound) {
  at::set_num_threads(1);
  for (const char* name : {"aten::_weight_norm", "aten::native_batch_norm"}) {
    const auto ops = torch::jit::getAllOperatorsFor(c10::Symbol::fromQualString(name));
    ASSERT_FALSE(ops.empty());
    int signal = 0;
    for (unsigned seed = 0; signal != SIGSEGV && seed < 10; ++seed)
      signal = signal_of([&] { call(*ops.front(), 300, seed); });
    EXPECT_EQ(signal, SIGSEGV) << name;
    EXPECT_FALSE(formats::operators::permits(name));
  }
}

}  // namespace
}  // namespace refine
