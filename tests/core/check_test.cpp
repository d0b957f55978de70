#include <refine/core/core.hpp>

#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <string>
#include <string_view>

namespace refine {
namespace {

constexpr Message message_of(int a, int b) {
  Message why;
  if (!compatible(a, b)) why << "the remap renames " << a << " classes, the backbone predicts " << b;
  return why;
}

constexpr Message name_of(const ImageShape& shape) {
  Message name;
  name << shape;
  return name;
}

TEST(Message, Constexpr_IsBuiltByTheCompiler) {
  static_assert(message_of(10, 10).empty());
  static_assert(message_of(dynamic, 10).empty());
  static_assert(message_of(10, 50).view() == "the remap renames 10 classes, the backbone predicts 50");
  static_assert((Message{} << -7 << " " << 0 << " " << 1234567890123LL).view() == "-7 0 1234567890123");
}

TEST(Message, TooLong_IsCut) {
  Message message;
  message << std::string(1000, 'x');
  EXPECT_EQ(message.view().size(), Message::capacity);
}

TEST(Message, ExtremeIntegers_AreWritten) {
  static_assert((Message{} << std::numeric_limits<long long>::min()).view() == "-9223372036854775808");
  static_assert((Message{} << std::numeric_limits<long long>::max()).view() == "9223372036854775807");
  static_assert((Message{} << std::numeric_limits<std::uint64_t>::max()).view() == "18446744073709551615");
  static_assert((Message{} << (std::uint64_t{1} << 63)).view() == "9223372036854775808");
  static_assert((Message{} << std::numeric_limits<std::int8_t>::min()).view() == "-128");
  static_assert((Message{} << std::numeric_limits<std::uint32_t>::max() << " " << true).view() ==
                "4294967295 1");
}

TEST(Message, Cut_EndsInDots) {
  const std::string full(Message::capacity, 'x');
  Message message;
  message << full;
  EXPECT_EQ(message.view(), full) << "it fits";
  message << std::string_view();
  EXPECT_EQ(message.view(), full);
  message << "y";
  EXPECT_EQ(message.view(), full.substr(3) + "...");
  message << "more" << 17;
  EXPECT_EQ(message.view(), full.substr(3) + "...") << "it stays as it is";

  // "×" is two bytes: neither of them is left alone, wherever the cut falls.
  for (const std::size_t before : {0u, 1u}) {
    Message cut;
    cut << std::string(before, 'a');
    for (int i = 0; i < 200; ++i) cut << "×";
    EXPECT_EQ(cut.view().size(), Message::capacity);
    const std::string kept(cut.view().substr(0, cut.view().find('.')));
    EXPECT_EQ((kept.size() - before) % 2, 0u);
    EXPECT_TRUE(cut.view().ends_with("×...") || cut.view().ends_with("×....")) << cut.view();
  }
}

TEST(Message, DynamicExtent_IsAQuestionMark) {
  static_assert(name_of(ImageShape{3, 32, 32}).view() == "3x32x32");
  static_assert(name_of(ImageShape{3, dynamic, 32}).view() == "3x?x32");
}

TEST(Error, ShapeAndTask_AreFormatted) {
  const ImageShape shape{3, dynamic, 32};
  EXPECT_STREQ(Error("{}; {}; {}", shape, Task{shape, 10}, Task{{1, 28, 28}, dynamic}).what(),
               "3x?x32; 3x?x32, 10 classes; 1x28x28, ? classes");
}

TEST(ImageShape, DynamicExtents_AreCompatibleAndMerged) {
  constexpr ImageShape full = {3, 32, 32};
  static_assert(full.is_static() && !ImageShape{3, dynamic, 32}.is_static());
  static_assert(compatible(full, ImageShape{3, dynamic, 32}) &&
                !compatible(full, ImageShape{1, dynamic, 32}));
  static_assert(merged(ImageShape{dynamic, 32, dynamic}, full) == full);
  static_assert(merged(dynamic_task, tasks::cifar10) == tasks::cifar10);
  static_assert(!compatible(tasks::cifar10, Task{full, 50}));
}

TEST(Agreement, EmptyMessage_HoldsElseTheSameTextIsThrown) {
  static_assert(Agreement<message_of(10, 10)>::holds);
  EXPECT_NO_THROW(require_agreement(message_of(10, dynamic)));
  try {
    require_agreement(message_of(10, 50));
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "the remap renames 10 classes, the backbone predicts 50");
  }
}

struct FixedTask {
  static constexpr Task task = tasks::cifar10;
};
struct FixedStaticTask {
  Task task;  // told at run time, but this type admits one value alone
  static constexpr Task static_task = Task{ImageShape{1, 28, 28}, 5};
};
struct OpenTask {
  Task task;
};
struct FixedImage {
  static constexpr ImageShape image = {3, 224, 224};
};
struct FixedClasses {
  static constexpr int classes = 7;
};

TEST(StaticTaskOf, ConstantMembers_AreRead) {
  static_assert(static_task_of<FixedTask>() == tasks::cifar10);
  static_assert(static_task_of<FixedStaticTask>() == FixedStaticTask::static_task);
  static_assert(static_task_of<OpenTask>() == dynamic_task);
  static_assert(static_image_of<FixedImage>() == ImageShape{3, 224, 224});
  static_assert(static_image_of<FixedTask>() == ImageShape{3, 32, 32});
  static_assert(static_image_of<OpenTask>() == ImageShape{});
  static_assert(static_classes_of<FixedClasses>() == 7);
  static_assert(static_classes_of<FixedStaticTask>() == 5);
  static_assert(static_classes_of<FixedImage>() == dynamic);
}

TEST(Error, LineBreaks_BecomeSpaces) {
  EXPECT_STREQ(Error("two\nlines\r").what(), "two lines ");
  EXPECT_STREQ(Error("cannot read {}: {}", "a.png", 3).what(), "cannot read a.png: 3");
  EXPECT_STREQ(Error("a brace {} alone is text").what(), "a brace {} alone is text");
}

}  // namespace
}  // namespace refine
