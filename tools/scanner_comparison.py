#!/usr/bin/env python3
"""Compares `refine inspect` with other scanners of model files, on folders of files of known kind.

    python3 -m venv scan && scan/bin/pip install picklescan fickling modelaudit modelscan
    python3 tools/scanner_comparison.py --refine bazel-bin/tools/refine --scanners scan/bin SET...

Each SET is a folder with the folders malicious/ and clean/. Prints one row of a Markdown table for
each of them; --list writes the result of each program for each file. Needs only the standard library.
"""

import argparse
import concurrent.futures
import json
import os
import pathlib
import subprocess
import tempfile

FICKLING = """
import sys
from fickling.analysis import Severity
from fickling.loader import scan_file
for path in sys.argv[1:]:
    try:
        result = scan_file(path)
        word = "flagged" if result.severity > Severity.LIKELY_SAFE else "unread" if result.errors else "passed"
    except Exception:
        word = "unread"
    print("=>" + word, flush=True)
"""


def run(command, **more):
    quiet = dict(os.environ, PROMPTFOO_DISABLE_TELEMETRY="1")
    return subprocess.run(command, capture_output=True, text=True, errors="replace", env=quiet, timeout=900, **more)


def by_exit_status(command, files, meaning):
    """Returns the results of a program that takes one file, by exit status."""
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        codes = pool.map(lambda file: run(command + [str(file)]).returncode, files)
    return [meaning.get(code, "unread") for code in codes]


def refine(program, files):
    """Returns "flagged" for a file that names a program, "unread" if it is refused for another error."""
    with tempfile.TemporaryDirectory() as folder:
        report = pathlib.Path(folder, "report.sarif")
        run([program, "inspect", "--sarif", str(report)] + [str(file) for file in files])
        results = json.loads(report.read_text())["runs"][0]["results"]
    words = ["passed"] * len(files)
    places = {str(file.absolute()): i for i, file in enumerate(files)}
    for result in results:
        uri = result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
        i = places["/" + uri.removeprefix("file:///")]
        if result["ruleId"] in ("harmful-program", "pickle-runs-program"):
            words[i] = "flagged"
        elif result["level"] == "error" and words[i] != "flagged":
            words[i] = "unread"
    return words


def fickling(python, files):
    out = run([python, "-c", FICKLING] + [str(file) for file in files]).stdout
    words = [line[2:] for line in out.splitlines() if line.startswith("=>")]
    return words + ["unread"] * (len(files) - len(words))


def modelaudit(program, files):
    """Returns "flagged" for a warning or a critical issue. One run for all: each takes seconds to start."""
    report = json.loads(run([program, "scan", "--no-cache", "--format", "json"] + [str(file) for file in files]).stdout)
    words = ["passed"] * len(files)
    places = {str(file.absolute()): i for i, file in enumerate(files)}
    for issue in report["issues"]:
        location = issue.get("location") or ""
        where = next((i for place, i in places.items() if location == place or location.startswith(place + ":") or
                      location.startswith(place + " ")), None)
        if where is not None and issue["severity"] in ("warning", "critical"):
            words[where] = "flagged"
    return words


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--refine", required=True)
    parser.add_argument("--scanners", required=True, type=pathlib.Path, help="folder with the other programs")
    parser.add_argument("--list", type=pathlib.Path, help="file for the result of each program for each file")
    parser.add_argument("sets", nargs="+", type=pathlib.Path)
    options = parser.parse_args()
    bin_folder = options.scanners.absolute()
    programs = {
        "refine": lambda files: refine(options.refine, files),
        "picklescan": lambda files: by_exit_status([str(bin_folder / "picklescan"), "-p"], files,
                                                   {0: "passed", 1: "flagged"}),
        "fickling": lambda files: fickling(str(bin_folder / "python"), files),
        "modelaudit": lambda files: modelaudit(str(bin_folder / "modelaudit"), files),
        "modelscan": lambda files: by_exit_status([str(bin_folder / "modelscan"), "-p"], files,
                                                  {0: "passed", 1: "flagged", 3: "passed"}),
    }
    print("| files | n | " + " | ".join(programs) + " |")
    print("| --- | ---: |" + " ---: |" * len(programs))
    results = []
    for each in options.sets:
        for kind in ("malicious", "clean"):
            files = sorted(file.absolute() for file in (each / kind).iterdir() if file.is_file())
            if not files:
                continue
            answers = {name: scan(files) for name, scan in programs.items()}
            counts = [f"{words.count('flagged')} + {words.count('unread')}" for words in answers.values()]
            print(f"| {each.name}, {kind} | {len(files)} | " + " | ".join(counts) + " |", flush=True)
            for i, file in enumerate(files):
                results.append([each.name, kind, file.name] + [answers[name][i] for name in programs])
    if options.list:
        options.list.write_text("".join("\t".join(line) + "\n" for line in results))


if __name__ == "__main__":
    main()
