#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/ScalarType.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace refine::formats {

struct Value;

/// Python's `bytes`; its `str` is a `std::string` in UTF-8.
struct Bytes {
  std::string bytes;
};
using List = std::vector<Value>;
struct Tuple {
  List items;
};
using Dict = std::vector<std::pair<Value, Value>>;  // in the order of insertion

/// Something that this reader does not make: an object of a class of Python's, which would need its code, or a
/// tensor of another kind (quantised, sparse, complex, of 8-bit numbers).
struct Opaque {
  std::string name;          ///< the class, or the function that would make it; of a tensor its type
  bool is_tensor = false;    ///< it is one tensor of another kind
  bool has_tensors = false;  ///< tensors lie in it
};

/// What a pickle may hold: None, a truth value, an int64, a float, text, bytes, a tensor on the host, what is
/// opaque, and containers of those. Two places that name one container share it; no container holds itself.
struct Value {
  std::variant<std::monostate, bool, std::int64_t, double, std::string, Bytes, at::Tensor, Opaque,
               std::shared_ptr<const List>, std::shared_ptr<const Tuple>, std::shared_ptr<const Dict>>
      content = {};

  bool is_none() const { return std::holds_alternative<std::monostate>(content); }

  /// The content when it is of that kind, else null.
  const bool* as_boolean() const { return std::get_if<bool>(&content); }
  const std::int64_t* as_integer() const { return std::get_if<std::int64_t>(&content); }
  const std::string* as_text() const { return std::get_if<std::string>(&content); }
  const at::Tensor* as_tensor() const { return std::get_if<at::Tensor>(&content); }
  const Opaque* as_opaque() const { return std::get_if<Opaque>(&content); }
  const Dict* as_dict() const;
  /// Of a list or a tuple.
  const List* as_list() const;
  /// What a dict has under that text; null when it has none, or when this is no dict.
  const Value* find(std::string_view key) const;
};

}  // namespace refine::formats

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
  of_class,
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

/// The names that a pickle may have called. None is looked up anywhere: each is a case in the reader's own
/// code. What any other name would make is an opaque object.
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
    PickleName{"torch._utils._rebuild_parameter_with_state", Callee::parameter},  // one with attributes
    PickleName{"torch._tensor._rebuild_from_type_v2", Callee::of_class},          // likewise, of tensors
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
    PickleName{"torch.ComplexFloatStorage", Callee::storage, at::kComplexFloat},
    PickleName{"torch.ComplexDoubleStorage", Callee::storage, at::kComplexDouble},
    PickleName{"torch.QInt8Storage", Callee::storage, at::kQInt8},
    PickleName{"torch.QUInt8Storage", Callee::storage, at::kQUInt8},
    PickleName{"torch.QInt32Storage", Callee::storage, at::kQInt32},
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
    PickleName{"torch.complex32", Callee::dtype, at::kComplexHalf},
    PickleName{"torch.complex64", Callee::dtype, at::kComplexFloat},
    PickleName{"torch.complex128", Callee::dtype, at::kComplexDouble},
    PickleName{"torch.uint16", Callee::dtype, at::kUInt16},
    PickleName{"torch.uint32", Callee::dtype, at::kUInt32},
    PickleName{"torch.uint64", Callee::dtype, at::kUInt64},
    PickleName{"torch.float8_e4m3fn", Callee::dtype, at::kFloat8_e4m3fn},
    PickleName{"torch.float8_e4m3fnuz", Callee::dtype, at::kFloat8_e4m3fnuz},
    PickleName{"torch.float8_e5m2", Callee::dtype, at::kFloat8_e5m2},
    PickleName{"torch.float8_e5m2fnuz", Callee::dtype, at::kFloat8_e5m2fnuz},
    PickleName{"torch.float8_e8m0fnu", Callee::dtype, at::kFloat8_e8m0fnu},
    PickleName{"torch.qint8", Callee::dtype, at::kQInt8},
    PickleName{"torch.quint8", Callee::dtype, at::kQUInt8},
    PickleName{"torch.qint32", Callee::dtype, at::kQInt32},
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

/// Whether Python code that calls what has this full name could run any program: the modules and functions
/// that hostile pickles use. An unknown name that is not among them is not harmless; it is only never called
/// here.
inline constexpr bool runs_programs(std::string_view name) {
  constexpr auto modules = std::to_array<std::string_view>({"os",
                                                            "posix",
                                                            "nt",
                                                            "posixpath",
                                                            "ntpath",
                                                            "subprocess",
                                                            "sys",
                                                            "runpy",
                                                            "importlib",
                                                            "imp",
                                                            "_imp",
                                                            "ctypes",
                                                            "_ctypes",
                                                            "socket",
                                                            "shutil",
                                                            "pty",
                                                            "pdb",
                                                            "bdb",
                                                            "codeop",
                                                            "timeit",
                                                            "cProfile",
                                                            "webbrowser",
                                                            "http",
                                                            "httplib",
                                                            "urllib",
                                                            "urllib2",
                                                            "requests",
                                                            "aiohttp",
                                                            "httpx",
                                                            "ftplib",
                                                            "smtplib",
                                                            "poplib",
                                                            "telnetlib",
                                                            "imaplib",
                                                            "ssl",
                                                            "tempfile",
                                                            "multiprocessing",
                                                            "threading",
                                                            "_thread",
                                                            "asyncio",
                                                            "signal",
                                                            "operator",
                                                            "_operator",
                                                            "pickle",
                                                            "_pickle",
                                                            "cPickle",
                                                            "dill",
                                                            "cloudpickle",
                                                            "joblib",
                                                            "marshal",
                                                            "shelve",
                                                            "commands",
                                                            "popen2",
                                                            "platform",
                                                            "pip",
                                                            "ensurepip",
                                                            "venv",
                                                            "distutils",
                                                            "setuptools",
                                                            "pkgutil",
                                                            "zipimport",
                                                            "zipapp",
                                                            "doctest",
                                                            "pydoc",
                                                            "idlelib",
                                                            "lib2to3",
                                                            "unittest",
                                                            "inspect",
                                                            "gc",
                                                            "ast",
                                                            "dis",
                                                            "compileall",
                                                            "py_compile",
                                                            "sysconfig",
                                                            "sqlite3",
                                                            "xmlrpc",
                                                            "socketserver",
                                                            "wsgiref",
                                                            "concurrent",
                                                            "mmap",
                                                            "fcntl",
                                                            "fileinput",
                                                            "linecache",
                                                            "cgi",
                                                            "cgitb",
                                                            "antigravity",
                                                            "atexit",
                                                            "faulthandler",
                                                            "winreg",
                                                            "msvcrt",
                                                            "_winapi",
                                                            "asyncore",
                                                            "IPython",
                                                            "paramiko",
                                                            "pexpect"});
  constexpr auto functions = std::to_array<std::string_view>(
      {"eval",      "exec",    "execfile", "compile", "open",       "file",       "input",
       "raw_input", "getattr", "setattr",  "delattr", "__import__", "breakpoint", "globals",
       "locals",    "vars",    "apply",    "reload",  "exit",       "quit",       "__build_class__"});
  constexpr auto names = std::to_array<std::string_view>({"types.FunctionType",
                                                          "types.CodeType",
                                                          "types.MethodType",
                                                          "types.ModuleType",
                                                          "types.LambdaType",
                                                          "functools.reduce",
                                                          "code.interact",
                                                          "code.InteractiveConsole",
                                                          "code.InteractiveInterpreter",
                                                          "profile.Profile",
                                                          "profile.run",
                                                          "profile.runctx",
                                                          "trace.Trace",
                                                          "site.main",
                                                          "test.support.",
                                                          "io.open",
                                                          "io.FileIO",
                                                          "_io.open",
                                                          "_io.FileIO",
                                                          "codecs.open",
                                                          "_codecs.decode",
                                                          "string.Formatter",
                                                          "logging.config.",
                                                          "uuid._popen",
                                                          "uuid._get_command_stdout",
                                                          "torch.load",
                                                          "torch.save",
                                                          "torch.hub.",
                                                          "torch.serialization.load",
                                                          "torch.serialization.save",
                                                          "torch.jit.",
                                                          "torch.utils.cpp_extension.",
                                                          "torch.utils.collect_env.",
                                                          "torch.utils.bottleneck.",
                                                          "torch.utils.data.datapipes.",
                                                          "torch.utils.model_zoo.",
                                                          "torch.utils._config_module.",
                                                          "torch._inductor.",
                                                          "torch._dynamo.",
                                                          "torch.fx.experimental.",
                                                          "torch.distributed.rpc.",
                                                          "torch.multiprocessing.",
                                                          "torch.package.",
                                                          "torch.classes.",
                                                          "torch.ops.",
                                                          "torch.onnx.",
                                                          "torch.testing.",
                                                          "torch.storage._load_from_bytes",
                                                          "torch.from_file",
                                                          "numpy.load",
                                                          "numpy.loadtxt",
                                                          "numpy.fromfile",
                                                          "numpy.memmap",
                                                          "numpy.save",
                                                          "numpy.lib.npyio.",
                                                          "numpy.f2py.",
                                                          "numpy.testing.",
                                                          "numpy.distutils.",
                                                          "pandas.read_pickle",
                                                          "pandas.eval",
                                                          "pandas.io.",
                                                          "pandas.core.computation."});
  const auto begins = [&](std::string_view with) {
    return name.starts_with(with) &&
           (with.ends_with('.') || name.size() == with.size() || name[with.size()] == '.');
  };
  for (const std::string_view builtin : {"builtins.", "__builtin__.", "__builtins__."}) {
    if (!name.starts_with(builtin)) continue;
    const std::string_view function = name.substr(builtin.size());
    return std::ranges::find(functions, function.substr(0, function.find('.'))) != functions.end() ||
           function.find('.') != std::string_view::npos;
  }
  return std::ranges::find(modules, name.substr(0, name.find('.'))) != modules.end() ||
         std::ranges::any_of(names, begins);
}

/// Whether tensors of that type are read.
inline constexpr bool is_readable(at::ScalarType type) {
  constexpr std::array types = {at::kDouble, at::kFloat, at::kHalf, at::kBFloat16, at::kLong,
                                at::kInt,    at::kShort, at::kChar, at::kByte,     at::kBool};
  return std::ranges::find(types, type) != types.end();
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

namespace refine::formats {

inline const Dict* Value::as_dict() const {
  const auto* dict = std::get_if<std::shared_ptr<const Dict>>(&content);
  return dict ? dict->get() : nullptr;
}

inline const List* Value::as_list() const {
  if (const auto* list = std::get_if<std::shared_ptr<const List>>(&content)) return list->get();
  if (const auto* tuple = std::get_if<std::shared_ptr<const Tuple>>(&content)) return &(*tuple)->items;
  return nullptr;
}

inline const Value* Value::find(std::string_view key) const {
  const Dict* dict = as_dict();
  if (!dict) return nullptr;
  for (const auto& [name, value] : *dict) {
    const std::string* text = name.as_text();
    if (text && *text == key) return &value;
  }
  return nullptr;
}

}  // namespace refine::formats
