"""Starts the program `refine`, which is in this package, with the libraries of the torch that is installed.

Needs the standard library only. `refine`, the command, comes here without importing torch, which takes seconds.
"""

from __future__ import annotations

import importlib.util
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
from typing import Any, Iterable, NoReturn

FOLDER = pathlib.Path(__file__).resolve().parent


class Error(RuntimeError):
    """An error that the user can fix: one line with the problem and what to do about it."""


def built_for() -> str:
    """Returns the version of torch that the program was linked with."""
    file = FOLDER / "build.json"
    if not file.exists():
        raise Error(f"{FOLDER}: no program is in this folder; install the wheel that tools/package wheel makes")
    return json.loads(file.read_text(encoding="utf-8"))["torch"]


def torch_folder(version: str) -> pathlib.Path:
    """Returns the folder of the torch that `import torch` finds, without importing it.

    Raises:
        Error: if torch is missing or has another version. The program calls the libraries of one version.
    """
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        raise Error(f"torch: not installed (expected {version}); run: pip install torch=={version}")
    folder = pathlib.Path(found.origin).parent
    match = re.search(r"^__version__ = ['\"]([^'\"+]*)", (folder / "version.py").read_text(encoding="utf-8"), re.M)
    installed = match[1] if match else "an unknown version"
    if installed != version:
        raise Error(f"torch: wrong version (got {installed}, expected {version}, which refine-defense is built for); "
                    f"run: pip install torch=={version}, or build the wheel for {installed}")
    return folder


def program() -> tuple[str, dict[str, str]]:
    """Returns the program and the environment to start it with, in which it finds LibTorch."""
    paths = [str(torch_folder(built_for()) / "lib"), os.environ.get("LD_LIBRARY_PATH", "")]
    return str(FOLDER / "bin" / "refine"), dict(os.environ, LD_LIBRARY_PATH=":".join(filter(None, paths)))


def main() -> NoReturn:
    """The command `refine`."""
    try:
        path, environment = program()
    except Error as error:
        sys.exit(f"error: {error}")
    os.execve(path, ["refine", *sys.argv[1:]], environment)


_SWITCHES = {"flip", "sync_batch_norm"}  # options whose value is on or off; left out, the program decides


def arguments(options: dict[str, Any]) -> list[str]:
    """Returns options as the command line writes them: `epoch=10` becomes `--epoch 10`.

    A list becomes numbers with commas between them, True an option without a value. None and False are left out. Of
    `flip` and `sync_batch_norm`, True becomes `on` and False `off`.
    """
    words = []
    for name, value in options.items():
        if name in _SWITCHES and isinstance(value, bool):
            value = "on" if value else "off"
        if value is None or value is False:
            continue
        # In one word with the option: values may begin with a dash.
        text = ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
        words.append(f"--{name}" if value is True else f"--{name}={text}")
    return words


def run(command: str, *words: str | os.PathLike[str], options: dict[str, Any] | None = None) -> dict[str, Any]:
    """Runs a command of the program, and returns its results.

    Notes, warnings and progress go to `sys.stderr` as they come. An exception in the meantime, such as an interrupt,
    ends the program after the current step of the training, with a checkpoint, before it is passed on.

    Raises:
        Error: with the program's one line, if it has no results.
    """
    path, environment = program()
    call = [path, command, "--json", *map(os.fspath, words), *arguments(options or {})]
    # A new session, so that an interrupt from the keyboard does not reach the program twice: the second would end it
    # without a checkpoint. The results go to a file, because a full pipe would block the program.
    with tempfile.TemporaryFile() as results, subprocess.Popen(
            call, env=environment, stdin=subprocess.DEVNULL, stdout=results, stderr=subprocess.PIPE, encoding="utf-8",
            errors="replace", start_new_session=True) as process:
        assert process.stderr is not None
        try:
            problem = _pass_on(process.stderr)
        except BaseException:
            process.terminate()
            _pass_on(process.stderr)
            raise
        process.wait()
        results.seek(0)
        text = results.read().decode("utf-8", errors="replace")
    if process.returncode < 0:
        raise Error(f"refine {command}: ended by signal {-process.returncode}"
                    + (", as when the machine is out of memory" if process.returncode == -signal.SIGKILL else ""))
    # 1 means: done, with something to look at. The dynamic loader also ends with 1, without results.
    if process.returncode not in (0, 1) or not text.strip():
        raise Error(problem or f"refine {command}: ended with status {process.returncode}")
    return json.loads(text)


def _pass_on(lines: Iterable[str]) -> str:
    """Writes lines to sys.stderr, except an error, which becomes an exception.

    Returns the error or, without one, the last line.
    """
    error = last = ""
    for line in lines:
        last = line.strip()
        if last.startswith("error: "):
            error = last.removeprefix("error: ")
        else:
            print(line, end="", file=sys.stderr, flush=True)
    return error or last
