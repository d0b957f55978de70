#pragma once

#include <c10/core/ScalarType.h>

#include <algorithm>
#include <array>
#include <string>
#include <string_view>

namespace refine::formats::detail {

/// What a known name stands for.
enum class Callee {
  ordered_dict,     ///< `collections.OrderedDict`
  size,             ///< `torch.Size`
  device,           ///< `torch.device`
  encode,           ///< `_codecs.encode`, by which protocol 2 writes bytes
  empty_bytes,      ///< `bytes`
  tensor,           ///< rebuilds a tensor; the dtype is that of its storage
  tensor_of_type,   ///< rebuilds a tensor of a given dtype
  parameter,        ///< rebuilds an `nn.Parameter`
  typed_object,     ///< rebuilds a tensor that has attributes or a subclass
  storage,          ///< a storage class
  dtype,            ///< a dtype of PyTorch
  array,            ///< `_reconstruct`, the first step of a NumPy array
  array_class,      ///< `numpy.ndarray`
  array_of_buffer,  ///< `_frombuffer`, a NumPy array in protocol 5
  scalar,           ///< a NumPy scalar
  numpy_dtype,      ///< `numpy.dtype`
};

/// A name that a pickle may use.
struct PickleName {
  std::string_view name;            ///< the full name
  Callee callee;                    ///< what it stands for
  at::ScalarType type = at::kByte;  ///< the dtype, of a storage or a dtype
};

/// The known names. None is looked up in Python: each is a case in the reader's code. Any other
/// name makes an opaque object.
inline constexpr std::array pickle_names = {
    PickleName{"collections.OrderedDict", Callee::ordered_dict},
    PickleName{"torch.Size", Callee::size},
    PickleName{"torch.device", Callee::device},
    PickleName{"_codecs.encode", Callee::encode},  // bytes in protocol 2
    PickleName{"__builtin__.bytes", Callee::empty_bytes},
    PickleName{"builtins.bytes", Callee::empty_bytes},
    PickleName{"torch._utils._rebuild_tensor", Callee::tensor},
    PickleName{"torch._utils._rebuild_tensor_v2", Callee::tensor},
    PickleName{"torch._utils._rebuild_tensor_v3", Callee::tensor_of_type},
    PickleName{"torch._utils._rebuild_parameter", Callee::parameter},
    PickleName{"torch._utils._rebuild_parameter_with_state", Callee::parameter},  // has attributes
    PickleName{"torch._tensor._rebuild_from_type_v2", Callee::typed_object},      // likewise, a tensor
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

/// Returns the entry of a full name, or null.
inline const PickleName* find_pickle_name(std::string_view name) {
  const auto found = std::ranges::find(pickle_names, name, &PickleName::name);
  return found == pickle_names.end() ? nullptr : &*found;
}

/// Returns true if a name consists of letters, digits, underscores and dots. Bytes outside ASCII
/// count as letters.
inline constexpr bool is_dotted_identifier(std::string_view name) {
  return std::ranges::all_of(name, [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '.' || static_cast<unsigned char>(c) >= 0x80;
  });
}

/// Functions that run programs, in modules of which others do not; a final dot stands for all below it.
// clang-format off
inline constexpr auto program_names = std::to_array<std::string_view>(
      {"types.FunctionType", "types.CodeType", "types.MethodType", "types.ModuleType", "types.LambdaType",
       "functools.reduce", "code.interact", "code.InteractiveConsole", "code.InteractiveInterpreter",
       "profile.Profile", "profile.run", "profile.runctx", "trace.Trace", "site.main", "test.support.",
       "io.open", "io.FileIO", "_io.open", "_io.FileIO", "codecs.open", "_codecs.decode",
       "string.Formatter", "logging.config.", "logging.FileHandler", "logging.handlers.", "uuid._popen",
       "uuid._get_command_stdout", "torch.load", "torch.save", "torch.hub.", "torch.serialization.load", "torch.serialization.save", "torch.jit.",
       "torch.utils.cpp_extension.", "torch.utils.collect_env.", "torch.utils.bottleneck.",
       "torch.utils.data.datapipes.", "torch.utils.model_zoo.", "torch.utils._config_module.",
       "torch._inductor.", "torch._dynamo.", "torch.fx.experimental.", "torch.distributed.rpc.",
       "torch.multiprocessing.", "torch.compile", "torch.distributed.elastic.", "torch.package.",
       "torch.classes.", "torch.ops.", "torch.onnx.",
       "torch.testing.", "torch.storage._load_from_bytes", "torch.from_file", "numpy.load",
       "numpy.loadtxt", "numpy.fromfile", "numpy.memmap", "numpy.save", "numpy.lib.npyio.", "numpy.f2py.",
       "numpy.testing.", "numpy.distutils.", "pandas.read_pickle", "pandas.eval", "pandas.io.",
       "pandas.core.computation."});
// clang-format on

/// Returns true if a Python call of this full name could run any program. The list has the modules
/// and functions that malicious pickles use. A name outside the list is not harmless: refine never
/// calls a name, and the list only decides how the refusal is worded. Text that is not a dotted
/// identifier, such as a line of a YAML file, names nothing.
inline bool runs_programs(std::string_view name) {
  // clang-format off
  static constexpr auto modules = std::to_array<std::string_view>(
      {"os", "posix", "nt", "posixpath", "ntpath", "subprocess", "sys", "runpy", "importlib", "imp",
       "_imp", "ctypes", "_ctypes", "socket", "shutil", "pty", "pdb", "bdb", "codeop", "timeit",
       "cProfile", "webbrowser", "http", "httplib", "urllib", "urllib2", "requests", "aiohttp", "httpx",
       "ftplib", "smtplib", "poplib", "telnetlib", "imaplib", "ssl", "tempfile", "multiprocessing",
       "threading", "_thread", "asyncio", "signal", "operator", "_operator", "pickle", "_pickle",
       "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "commands", "popen2", "platform",
       "pip", "ensurepip", "venv", "distutils", "setuptools", "pkgutil", "zipimport", "zipapp", "doctest",
       "pydoc", "idlelib", "lib2to3", "unittest", "inspect", "gc", "ast", "dis", "compileall",
       "py_compile", "sysconfig", "sqlite3", "xmlrpc", "socketserver", "wsgiref", "concurrent", "mmap",
       "fcntl", "fileinput", "linecache", "cgi", "cgitb", "antigravity", "atexit", "faulthandler",
       "winreg", "msvcrt", "_winapi", "asyncore", "IPython", "paramiko", "pexpect", "_aix_support",
       "_osx_support", "_pyrepl", "nntplib", "_ssl", "_interpreters", "_xxsubinterpreters", "fickling",
       "picklescan", "modelscan", "modelaudit"});
  // clang-format on
  static constexpr auto functions = std::to_array<std::string_view>(
      {"eval",      "exec",    "execfile", "compile", "open",       "file",       "input",
       "raw_input", "getattr", "setattr",  "delattr", "__import__", "breakpoint", "globals",
       "locals",    "vars",    "apply",    "reload",  "exit",       "quit",       "__build_class__"});
  // The names in TorchScript's own pickles: functions that return their argument.
  static constexpr auto harmless = std::to_array<std::string_view>(
      {"torch.jit._pickle.build_intlist", "torch.jit._pickle.build_doublelist",
       "torch.jit._pickle.build_boollist", "torch.jit._pickle.build_tensorlist",
       "torch.jit._pickle.restore_type_tag"});
  if (!is_dotted_identifier(name)) return false;
  if (std::ranges::find(harmless, name) != harmless.end()) return false;
  // Ways from one module to another, as in "pathlib.os.system".
  const bool has_inner = name.find('.') != name.rfind('.') || name.find("__") != name.npos;
  for (const std::string_view inner :
       {".os.", ".sys.", ".subprocess.", ".posix.", ".nt.", ".builtins.", ".__builtins__", ".__globals__",
        ".__subclasses__", ".__import__", ".importlib.", ".shutil.", ".socket.", ".ctypes.", "._ssl.",
        ".ssl."}) {
    if (has_inner && name.find(inner) != std::string_view::npos) return true;
  }
  const auto begins = [&](std::string_view prefix) {
    return name.starts_with(prefix.front()) && name.starts_with(prefix) &&
           (prefix.ends_with('.') || name.size() == prefix.size() || name[prefix.size()] == '.');
  };
  for (const std::string_view builtin : {"builtins.", "__builtin__.", "__builtins__."}) {
    if (!name.starts_with(builtin)) continue;
    const std::string_view function = name.substr(builtin.size());
    return std::ranges::find(functions, function.substr(0, function.find('.'))) != functions.end() ||
           function.find('.') != std::string_view::npos;
  }
  return std::ranges::find(modules, name.substr(0, name.find('.'))) != modules.end() ||
         std::ranges::any_of(program_names, begins);
}

/// Returns true if a module has a function that `runs_programs`.
inline bool has_programs(const std::string& module) {
  const std::string prefix = module + ".";
  return module == "builtins" || module == "__builtin__" || module == "__builtins__" ||
         runs_programs(prefix + "a") ||
         std::ranges::any_of(program_names, [&](std::string_view name) { return name.starts_with(prefix); });
}

/// Returns true if refine reads tensors of that dtype.
inline constexpr bool is_readable(at::ScalarType type) {
  constexpr std::array types = {at::kDouble, at::kFloat, at::kHalf, at::kBFloat16, at::kLong,
                                at::kInt,    at::kShort, at::kChar, at::kByte,     at::kBool};
  return std::ranges::find(types, type) != types.end();
}

/// A NumPy dtype that PyTorch has, too.
struct NumpyType {
  std::string_view name;  ///< the short name: "f4"
  at::ScalarType type;    ///< the dtype of PyTorch
};

/// The NumPy dtypes that refine reads.
inline constexpr std::array numpy_types = {
    NumpyType{"f8", at::kDouble}, NumpyType{"f4", at::kFloat}, NumpyType{"f2", at::kHalf},
    NumpyType{"i8", at::kLong},   NumpyType{"i4", at::kInt},   NumpyType{"i2", at::kShort},
    NumpyType{"i1", at::kChar},   NumpyType{"u1", at::kByte},  NumpyType{"b1", at::kBool},
};

}  // namespace refine::formats::detail
