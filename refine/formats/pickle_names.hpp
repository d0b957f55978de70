#pragma once

#include <c10/core/ScalarType.h>

#include <algorithm>
#include <array>
#include <string_view>

namespace refine::formats::detail {

/// What an allowed name stands for.
enum class Callee {
  ordered_dict,
  size,
  device,
  encode,
  empty_bytes,
  tensor,
  tensor_of_type,
  parameter,
  storage,
  dtype,
  array,
  array_class,
  array_of_buffer,
  scalar,
  numpy_dtype,
};

struct PickleName {
  std::string_view name;
  Callee callee;
  at::ScalarType type = at::kByte;  // of a storage, or a dtype
};

/// Every name that a pickle may ask for. None is looked up anywhere: each is a case in the reader's own code.
inline constexpr std::array pickle_names = {
    PickleName{"collections.OrderedDict", Callee::ordered_dict},
    PickleName{"torch.Size", Callee::size},
    PickleName{"torch.device", Callee::device},
    PickleName{"_codecs.encode", Callee::encode},  // how protocol 2 writes bytes
    PickleName{"__builtin__.bytes", Callee::empty_bytes},
    PickleName{"builtins.bytes", Callee::empty_bytes},
    PickleName{"torch._utils._rebuild_tensor", Callee::tensor},
    PickleName{"torch._utils._rebuild_tensor_v2", Callee::tensor},
    PickleName{"torch._utils._rebuild_tensor_v3", Callee::tensor_of_type},
    PickleName{"torch._utils._rebuild_parameter", Callee::parameter},
    PickleName{"torch.DoubleStorage", Callee::storage, at::kDouble},
    PickleName{"torch.FloatStorage", Callee::storage, at::kFloat},
    PickleName{"torch.HalfStorage", Callee::storage, at::kHalf},
    PickleName{"torch.BFloat16Storage", Callee::storage, at::kBFloat16},
    PickleName{"torch.LongStorage", Callee::storage, at::kLong},
    PickleName{"torch.IntStorage", Callee::storage, at::kInt},
    PickleName{"torch.ShortStorage", Callee::storage, at::kShort},
    PickleName{"torch.CharStorage", Callee::storage, at::kChar},
    PickleName{"torch.ByteStorage", Callee::storage, at::kByte},
    PickleName{"torch.BoolStorage", Callee::storage, at::kBool},
    PickleName{"torch.storage.UntypedStorage", Callee::storage, at::kByte},
    PickleName{"torch.float64", Callee::dtype, at::kDouble},
    PickleName{"torch.float32", Callee::dtype, at::kFloat},
    PickleName{"torch.float16", Callee::dtype, at::kHalf},
    PickleName{"torch.bfloat16", Callee::dtype, at::kBFloat16},
    PickleName{"torch.int64", Callee::dtype, at::kLong},
    PickleName{"torch.int32", Callee::dtype, at::kInt},
    PickleName{"torch.int16", Callee::dtype, at::kShort},
    PickleName{"torch.int8", Callee::dtype, at::kChar},
    PickleName{"torch.uint8", Callee::dtype, at::kByte},
    PickleName{"torch.bool", Callee::dtype, at::kBool},
    PickleName{"numpy.core.multiarray._reconstruct", Callee::array},
    PickleName{"numpy._core.multiarray._reconstruct", Callee::array},
    PickleName{"numpy.core.numeric._frombuffer", Callee::array_of_buffer},
    PickleName{"numpy._core.numeric._frombuffer", Callee::array_of_buffer},
    PickleName{"numpy.core.multiarray.scalar", Callee::scalar},
    PickleName{"numpy._core.multiarray.scalar", Callee::scalar},
    PickleName{"numpy.ndarray", Callee::array_class},
    PickleName{"numpy.dtype", Callee::numpy_dtype},
};

/// The entry of that full name, or null.
inline const PickleName* find_pickle_name(std::string_view name) {
  const auto at = std::ranges::find(pickle_names, name, &PickleName::name);
  return at == pickle_names.end() ? nullptr : &*at;
}

/// NumPy's short names of types: "f4".
struct NumpyType {
  std::string_view name;
  at::ScalarType type;
};
inline constexpr std::array numpy_types = {
    NumpyType{"f8", at::kDouble}, NumpyType{"f4", at::kFloat}, NumpyType{"f2", at::kHalf},
    NumpyType{"i8", at::kLong},   NumpyType{"i4", at::kInt},   NumpyType{"i2", at::kShort},
    NumpyType{"i1", at::kChar},   NumpyType{"u1", at::kByte},  NumpyType{"b1", at::kBool},
};

}  // namespace refine::formats::detail
