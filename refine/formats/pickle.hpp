#pragma once

#include <refine/formats/pickle_builder.hpp>
#include <refine/formats/pickle_machine.hpp>
#include <refine/formats/value.hpp>

#include <filesystem>
#include <string_view>

namespace refine::formats {

/// Reads a Python pickle of protocol 2 to 5 as data: nothing that it names is looked up or called. What an
/// unknown name would make comes as `Opaque`; it must not be the whole. Else it holds what `Value` says; torch.Tensor, nn.Parameter and NumPy arrays of little-endian numbers (bool, 8 to
/// 64 bits, signed or uint8) come as contiguous tensors on the host with memory of their own, an OrderedDict
/// as a dict without its attributes, torch.Size as a tuple, torch.device and a dtype as text.
///
/// Limits: 5,000,000 objects, nesting of 64, and for all tensors together 64 MiB plus 16 times the bytes of
/// the storages and the pickle, so that views and expanded tensors can't ask for any amount of memory.
///
/// \param bytes begin with the pickle; what follows it is not looked at
/// \param path where it comes from, for messages
/// \param storages the bytes of tensors, by key, when the pickle has tensors
/// \throws Error naming the file, when the pickle is cut or malformed, is an opaque object as a whole (whose
/// name the message has), contains itself, or has a tensor that reaches beyond its storage
inline Value read_pickle(std::string_view bytes, const std::filesystem::path& path,
                         const Storages& storages = {}) {
  detail::PickleMachine machine(path, bytes);
  return detail::PickleBuilder(machine, storages).build(machine.run());
}

}  // namespace refine::formats
