// refine completion: a script with which Bash completes commands and options; files are completed
// as usual.

#include <iostream>
#include <string>

#include "tools/refine/options.hpp"

namespace refine::cli {
namespace {

std::string words_of(const CLI::App& app) {
  std::string words;
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& name : option->get_lnames()) words += " --" + name;
  }
  return words;
}

int run(const CLI::App& app) {
  std::string commands, cases;
  for (const CLI::App* command : app.get_subcommands({})) {
    commands += " " + command->get_name();
    cases += "    " + command->get_name() + ") words=\"" + words_of(*command) + words_of(app) + "\" ;;\n";
  }
  std::cout << "# source <(refine completion)\n"
               "_refine() {\n"
               "  local words=\"" +
                   commands +
                   "\" word\n"
                   "  for word in \"${COMP_WORDS[@]:1:COMP_CWORD-1}\"; do case \"$word\" in\n" +
                   cases +
                   "  esac; done\n"
                   "  COMPREPLY=($(compgen -W \"$words\" -- \"${COMP_WORDS[COMP_CWORD]}\"))\n"
                   "}\n"
                   "complete -o default -F _refine refine\n"
            << std::flush;
  return done;
}

}  // namespace

void add_completion(CLI::App& app, Common& common) {
  auto* command = app.add_subcommand("completion", "a script for Bash: source <(refine completion)");
  command->callback([&app, &common] { common.chosen = [&app] { return run(app); }; });
}

}  // namespace refine::cli
