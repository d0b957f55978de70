// What it costs to include this library: processor seconds and peak memory of the compiler, a file each.
//
//     bazel run //benchmarks:compile_time_benchmark -- --benchmark_repetitions=3
//     --benchmark_enable_random_interleaving=true

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

std::vector<std::string> lines_of(const fs::path& path) {
  std::ifstream file(path);
  std::vector<std::string> lines;
  for (std::string line; std::getline(file, line);) lines.push_back(line);
  if (lines.empty()) throw std::runtime_error("cannot read " + path.string());
  return lines;
}

struct Cost {
  double seconds = 0;  ///< of the processor
  double megabytes = 0;
};

/// One run of the compiler, optimising; the result is thrown away where nobody asks for it.
Cost compiled(std::vector<std::string> command, const fs::path& source,
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
    throw std::runtime_error("the compiler failed on " + source.string());
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
  add(name, [=] { return compiled(command, source); });
}

/// Every line by which a header of ours includes one of LibTorch's; those of CUDA are included where there is
/// CUDA alone.
std::set<std::string> includes_of_libtorch(const fs::path& headers) {
  std::set<std::string> found;
  for (const auto& entry :
       fs::recursive_directory_iterator(headers, fs::directory_options::follow_directory_symlink)) {
    if (entry.path().extension() != ".hpp") continue;
    for (const std::string& line : lines_of(entry.path())) {
      for (const char* room : {"ATen/", "c10/", "torch/"}) {
        if (line.starts_with("#include <" + std::string(room)) && line.find("/cuda/") == std::string::npos)
          found.insert(line);
      }
    }
  }
  return found;
}

/// A generated source, in a folder that goes when the program ends.
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

/// The files of `users`, name and source, with refine.hpp precompiled, as GCC finds it beside the header.
void add_precompiled(const fs::path& folder, std::vector<std::string> command,
                     const std::vector<std::pair<std::string, fs::path>>& users) {
  fs::create_directories(folder / "refine");
  // GCC passes over a precompiled header that does not fit, without a word: then it shall meet an error.
  std::ofstream(folder / "refine/refine.hpp") << "#error the precompiled header was passed over\n";
  const fs::path result = folder / "refine/refine.hpp.gch";
  const auto precompile = [=] {
    std::vector<std::string> header = command;
    header.insert(header.end(), {"-x", "c++-header"});
    return compiled(header, "refine/refine.hpp", result);
  };
  add("Compile/precompiled/refine.hpp", precompile);
  command.insert(command.begin() + 1, "-I" + folder.string());
  for (const auto& [name, source] : users) {
    add("Compile/precompiled/" + name, [=] {
      if (!fs::exists(result)) precompile();
      return compiled(command, source);
    });
  }
}

void add_all(const Sources& source) {
  // Where Bazel compiles: above what it has built. The flags are meant for there.
  const fs::path list = fs::canonical("benchmarks/compile_command.txt");
  const std::string text = list.string();
  const fs::path root = text.substr(0, text.find("/bazel-out/"));
  const auto command = lines_of(list);
  fs::current_path(root);

  std::string same;
  for (const std::string& line : includes_of_libtorch("refine")) same += line + "\n";
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
  std::set<std::string> rooms;
  for (const auto& entry : fs::directory_iterator("refine")) {
    const std::string room = entry.path().filename().string();
    if (fs::exists(entry.path() / (room + ".hpp"))) rooms.insert(room);
  }
  for (const std::string& room : rooms) {
    add("Compile/room/" + room, command, source(room, "#include <refine/" + room + "/" + room + ".hpp>\n"));
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
    std::cerr << "refine: " << error.what() << '\n';
    return 2;
  }
  return 0;
}
