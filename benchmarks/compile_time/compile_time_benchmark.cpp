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

/// One run of the compiler, optimising, with the result thrown away.
Cost compiled(std::vector<std::string> command, const fs::path& source) {
  for (const char* more : {"-O2", "-w", "-c", "-o", "/dev/null"}) command.emplace_back(more);
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

void add(const std::string& name, const std::vector<std::string>& command, const fs::path& source) {
  benchmark::RegisterBenchmark(name.c_str(),
                               [=](benchmark::State& state) {
                                 for (auto _ : state) {
                                   const Cost cost = compiled(command, source);
                                   state.SetIterationTime(cost.seconds);
                                   state.counters["peak_MB"] = cost.megabytes;
                                 }
                               })
      ->Iterations(1)
      ->UseManualTime()
      ->Unit(benchmark::kSecond);
}

/// Every line by which a header of ours includes one of LibTorch's.
std::set<std::string> includes_of_libtorch(const fs::path& headers) {
  std::set<std::string> found;
  for (const auto& entry :
       fs::recursive_directory_iterator(headers, fs::directory_options::follow_directory_symlink)) {
    if (entry.path().extension() != ".hpp") continue;
    for (const std::string& line : lines_of(entry.path())) {
      for (const char* room : {"ATen/", "c10/", "torch/"}) {
        if (line.starts_with("#include <" + std::string(room))) found.insert(line);
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

  fs::path operator()(const std::string& name, const std::string& text) const {
    std::ofstream(folder_ / (name + ".cpp")) << text;
    return folder_ / (name + ".cpp");
  }

 private:
  fs::path folder_ = fs::temp_directory_path() / ("refine-compile-" + std::to_string(getpid()));
};

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
  add("Compile/user/everything", command, "benchmarks/compile_time/user.cpp");
  add("Compile/user/serving", command, "benchmarks/compile_time/serving.cpp");
  add("Compile/user/umbrella_serving", command,
      source("umbrella_serving",
             "#include <refine/refine.hpp>\n#include \"benchmarks/compile_time/serving.cpp\"\n"));
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
