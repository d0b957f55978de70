// Measures what an include of this library costs: processor seconds and peak memory of the
// compiler, for each file.
//
//     bazel run //benchmarks:compile_time_benchmark -- --benchmark_repetitions=3

#include <benchmark/benchmark.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace {

namespace fs = std::filesystem;

std::vector<std::string> read_lines(const fs::path& path) {
  std::ifstream file(path);
  std::vector<std::string> lines;
  for (std::string line; std::getline(file, line);) lines.push_back(line);
  if (lines.empty()) throw std::runtime_error("cannot read " + path.string());
  return lines;
}

/// The cost of one run of the compiler.
struct Cost {
  double seconds = 0;    ///< of the processor
  double megabytes = 0;  ///< peak memory
};

/// Runs the compiler with optimization. Discards the result unless `output` is given.
Cost compile_file(std::vector<std::string> command, const fs::path& source,
                  const fs::path& output = "/dev/null") {
  for (const char* more : {"-O2", "-w", "-c", "-o"}) command.emplace_back(more);
  command.push_back(output.string());
  command.push_back(source.string());
  std::vector<char*> arguments;
  for (std::string& argument : command) arguments.push_back(argument.data());
  arguments.push_back(nullptr);
  const pid_t child = fork();
  if (child == 0) {
    execvp(arguments.front(), arguments.data());
    _exit(127);
  }
  int status = 0;
  rusage usage{};
  if (wait4(child, &status, 0, &usage) != child || status != 0) {
    throw std::runtime_error("cannot compile " + source.string());
  }
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
  };
  return {seconds(usage.ru_utime) + seconds(usage.ru_stime), static_cast<double>(usage.ru_maxrss) / 1024};
}

template <typename Compile>
void add(const std::string& name, Compile compile) {
  benchmark::RegisterBenchmark(name.c_str(),
                               [=](benchmark::State& state) {
                                 for (auto _ : state) {
                                   const Cost cost = compile();
                                   state.SetIterationTime(cost.seconds);
                                   state.counters["peak_MB"] = cost.megabytes;
                                 }
                               })
      ->Iterations(1)
      ->UseManualTime()
      ->Unit(benchmark::kSecond);
}

void add(const std::string& name, const std::vector<std::string>& command, const fs::path& source) {
  add(name, [=] { return compile_file(command, source); });
}

/// Returns every line with which a header of this library includes one of LibTorch's, except for
/// CUDA's, which only a build with CUDA has.
std::set<std::string> libtorch_includes(const fs::path& headers) {
  std::set<std::string> found;
  for (const auto& entry :
       fs::recursive_directory_iterator(headers, fs::directory_options::follow_directory_symlink)) {
    if (entry.path().extension() != ".hpp") continue;
    for (const std::string& line : read_lines(entry.path())) {
      for (const char* folder : {"ATen/", "c10/", "torch/"}) {
        if (line.starts_with("#include <" + std::string(folder)) && line.find("/cuda/") == std::string::npos)
          found.insert(line);
      }
    }
  }
  return found;
}

/// Generates sources in a temporary folder.
class Sources {
 public:
  Sources() { fs::create_directories(folder_); }
  Sources(const Sources&) = delete;
  ~Sources() {
    std::error_code ignored;
    fs::remove_all(folder_, ignored);
  }

  [[nodiscard]] const fs::path& folder() const { return folder_; }

  fs::path operator()(const std::string& name, const std::string& text) const {
    std::ofstream(folder_ / (name + ".cpp")) << text;
    return folder_ / (name + ".cpp");
  }

 private:
  fs::path folder_ = fs::temp_directory_path() / ("refine-compile-" + std::to_string(getpid()));
};

/// Registers benchmarks of the files of `users` (name and source) with refine.hpp precompiled,
/// which GCC finds beside the header.
void add_precompiled(const fs::path& folder, std::vector<std::string> command,
                     const std::vector<std::pair<std::string, fs::path>>& users) {
  fs::create_directories(folder / "refine");
  // GCC silently ignores a precompiled header that does not fit; it then reads this header, and
  // stops.
  std::ofstream(folder / "refine/refine.hpp") << "#error the precompiled header was ignored\n";
  const fs::path result = folder / "refine/refine.hpp.gch";
  const auto precompile = [=] {
    std::vector<std::string> header = command;
    header.insert(header.end(), {"-x", "c++-header"});
    return compile_file(header, "refine/refine.hpp", result);
  };
  add("Compile/precompiled/refine.hpp", precompile);
  command.insert(command.begin() + 1, "-I" + folder.string());
  for (const auto& [name, source] : users) {
    add("Compile/precompiled/" + name, [=] {
      if (!fs::exists(result)) precompile();
      return compile_file(command, source);
    });
  }
}

void add_all(const Sources& source) {
  // The flags are relative to the folder in which Bazel compiles, above bazel-out.
  const fs::path list = fs::canonical("benchmarks/compile_command.txt");
  const std::string text = list.string();
  const fs::path root = text.substr(0, text.find("/bazel-out/"));
  const auto command = read_lines(list);
  fs::current_path(root);

  std::string same;
  for (const std::string& line : libtorch_includes("refine")) same += line + "\n";
  add("Compile/libtorch/torch.h", command, source("torch", "#include <torch/torch.h>\n"));
  add("Compile/libtorch/same_headers", command, source("same", same));
  const fs::path everything = "benchmarks/compile_time/user.cpp";
  const fs::path umbrella = source(
      "umbrella_serving", "#include <refine/refine.hpp>\n#include \"benchmarks/compile_time/serving.cpp\"\n");
  add("Compile/user/everything", command, everything);
  add("Compile/user/serving", command, "benchmarks/compile_time/serving.cpp");
  add("Compile/user/umbrella_serving", command, umbrella);
#ifndef __clang__
  add_precompiled(source.folder() / "precompiled", command,
                  {{"everything", everything}, {"umbrella_serving", umbrella}});
#endif
  add("Compile/refine.hpp", command, source("refine", "#include <refine/refine.hpp>\n"));
  std::set<std::string> modules;
  for (const auto& entry : fs::directory_iterator("refine")) {
    const std::string module = entry.path().filename().string();
    if (fs::exists(entry.path() / (module + ".hpp"))) modules.insert(module);
  }
  for (const std::string& module : modules) {
    add("Compile/module/" + module, command,
        source(module, "#include <refine/" + module + "/" + module + ".hpp>\n"));
  }
}

}  // namespace

int main(int argc, char** argv) {
  const Sources sources;
  try {
    add_all(sources);
    benchmark::Initialize(&argc, argv);
    if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
    benchmark::RunSpecifiedBenchmarks();
  } catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << '\n';
    return 2;
  }
  return 0;
}
