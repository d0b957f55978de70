"""Defends image classifiers that may carry a backdoor, with the program `refine`.

    import refine_defense

    defended = refine_defense.defend(model, images, out="defended.pt2")
    print(defended.report["decision"])
    logits, suspicious = defended(batch), defended.alarm(batch) > defended.threshold

The functions write the model and the images to files, run the program and load what it wrote. docs/guide/from_python.md
in the repository says more.
"""

from __future__ import annotations

import contextlib
import copy
import ctypes
import fcntl
import json
import os
import pathlib
import shutil
import tempfile
from typing import TYPE_CHECKING, Any, Iterator, Union

from ._program import Error, run

if TYPE_CHECKING:  # importing torch takes seconds, which the command `refine` does not need
    import torch

    Path = Union[str, os.PathLike[str]]
    Model = Union[torch.nn.Module, torch.export.ExportedProgram, Path]

__all__ = ["Defended", "Error", "defend", "export", "inspect", "load"]


class Defended:
    """A file that serves, loaded with torch by `defend` or `load`.

    A call returns logits N×classes of images N×C×H×W in [0, 1], in the victim's order of classes, for any N.

    Attributes:
        path: the file.
        about: what the file has in `refine.json`: `image`, `classes`, `class_names`, `answer`, `alarm` and more.
        report: the figures, as in `metrics.json`; None if `load` made this.
    """

    def __init__(self, path: Path, kind: str, report: dict[str, Any] | None = None) -> None:
        import torch

        self.path = pathlib.Path(path)
        self.report = report
        about = {"refine.json": ""}
        if kind == "torch.export":
            self._model = torch.export.load(self.path, extra_files=about).module()
        else:
            self._model = torch.jit.load(self.path, map_location="cpu", _extra_files=about)
        self._details: Any = None
        text = about["refine.json"]
        self.about: dict[str, Any] = json.loads(text.decode() if isinstance(text, bytes) else text or "{}")

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        return self._model(images)

    @property
    def threshold(self) -> float:
        """The score of `alarm` above which an image is suspicious.

        Raises:
            Error: if the file has none, as one that `refine defend` did not write.
        """
        if "alarm" not in self.about:
            raise Error(f"{self.path}: has no threshold of an alarm; refine defend calibrates one")
        return self.about["alarm"]["threshold"]

    def alarm(self, images: torch.Tensor) -> torch.Tensor:
        """Returns N scores in [0, 1], or infinity, high where an image is likely to have a trigger."""
        return self.answers(images)["alarm"]

    def answers(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Returns everything that the file computes.

        `logits` are the defended ones, `undefended` the victim's, `gated` the victim's where `alarm` is at most the
        threshold and else the defended ones; `transformed` are the images that the victim sees.

        Raises:
            Error: if the file has no threshold.
        """
        import torch

        self.threshold
        if isinstance(self._model, torch.jit.ScriptModule):
            model = self._model
            return {"logits": model.defended(images), "alarm": model.alarm(images), "gated": model.gated(images),
                    "undefended": model.undefended(images), "transformed": model.transform(images)}
        if self._details is None:
            from torch.export.pt2_archive._package import load_pt2

            self._details = load_pt2(self.path).exported_programs["details"].module()
        return self._details(images)


def defend(module: Model, images: torch.Tensor | Path, out: Path = "defended.pt2", **options: Any) -> Defended:
    """Defends a classifier with clean images, and writes a file that serves.

    Args:
        module: the classifier: a `torch.nn.Module` from images N×C×H×W in [0, 1] to logits N×classes, a program of
            `torch.export`, a TorchScript module, or the path of a file that `refine defend` reads.
        images: clean images, without labels: uint8 N×C×H×W, or floats in [0, 1]; or the path of a folder.
        out: the file to write, `.pt2` or TorchScript. `report.html` and the other results go to the folder of the same
            name that ends in `.report`.
        options: those of `refine defend`, by their names: `epoch=10`, `mean=(0.485, 0.456, 0.406)`, `no_scan=True`.

    Returns:
        The file that serves, on the CPU, with its report.

    Raises:
        Error: if the program refuses the model, an image or an option.
        TypeError, ValueError: if an argument has a wrong type or shape, before any work.
    """
    out = _writable(out, {".pt", ".pt2"}, "defend writes .pt2 or .pt; export makes an ONNX file of the defense")
    # In the folder of the report, where they are still found by the command that continues an interrupted run.
    with _inputs(out.with_suffix(".report") / "inputs", module, images, options) as (model, folder):
        report = run("defend", options={**options, "model": model, "images": folder, "out": out})
    return Defended(out, "torch.export" if out.suffix == ".pt2" else "TorchScript", report)


def export(module: Model, out: Path, images: torch.Tensor | None = None, **options: Any) -> pathlib.Path:
    """Writes a defense that `defend` has trained as a file of another kind, or a classifier alone.

    Args:
        module: the classifier, as for `defend`.
        out: the file to write: `.pt2`, `.onnx`, or `.pt` for TorchScript.
        images: two images or more, if `module` is a `torch.nn.Module`: what it is exported with.
        options: those of `refine export`, by their names: `defense="defended.safetensors"`, `answer="gated"`.

    Returns:
        The path of the file.

    Raises:
        Error, TypeError, ValueError: as for `defend`.
    """
    out = _writable(out, {".pt", ".pt2", ".onnx"}, "export writes .pt2, .onnx or .pt")
    with tempfile.TemporaryDirectory(prefix="refine-") as work:
        with _inputs(pathlib.Path(work) / "inputs", module, images, options, keep_images=False) as (model, _):
            run("export", options={**options, "model": model, "out": out})
    return out


def inspect(path: Path) -> dict[str, Any]:
    """Returns what a model's file contains, as `refine inspect --json` prints it. Nothing in the file runs.

    Raises:
        Error: if the file cannot be read, or would run programs when Python loads it.
    """
    return run("inspect", path)


def load(path: Path) -> Defended:
    """Loads a file that `defend` or `export` has written, after checking that nothing in it but arithmetic runs.

    Raises:
        Error: if the file cannot be read, contains anything else, or is of a kind that torch does not load.
    """
    found = inspect(path)
    kind = found.get("kind", "a folder")
    if kind == "ONNX":
        raise Error(f"{path}: torch does not run ONNX; use ONNX Runtime, or export the defense as .pt2")
    if kind not in ("torch.export", "TorchScript"):
        raise Error(f"{path}: not a program (got {kind}); load takes what defend and export have written")
    if not found["accepted"]:
        raise Error(f"{path}: refused: {'; '.join(found['objections'])}")
    return Defended(path, kind)


def _writable(path: Path, suffixes: set[str], hint: str) -> pathlib.Path:
    path = pathlib.Path(path)
    if path.suffix not in suffixes:
        raise ValueError(f"out: unknown kind of file (got {str(path)!r}); {hint}")
    return path


@contextlib.contextmanager
def _inputs(folder: pathlib.Path, module: Model, images: torch.Tensor | Path | None, options: dict[str, Any],
            keep_images: bool = True) -> Iterator[tuple[str, str | None]]:
    """Writes what is not a file yet to `folder`, and removes it after the work, unless that can be resumed.

    Yields the paths of the model and of the folder of images. A list of `class_names` becomes a file, too. Files of an
    interrupted call that are in `folder` may be given again; then it stays.

    Raises:
        Error: if another process uses the folder above it, or files in it and values that are written there are given.
    """
    names = options.get("class_names")
    is_path = lambda value: isinstance(value, (str, os.PathLike))
    has_values = any(value is not None and not is_path(value) for value in (module, images, names))
    paths = [pathlib.Path(value) for value in (module, images, *options.values()) if is_path(value)]
    root = folder.resolve()
    inside = [path for path in paths if root == path.resolve() or root in path.resolve().parents]
    around = [path for path in paths if path.resolve() in root.parents]
    if around and folder.exists():
        raise Error(f"{around[0]}: contains {folder}, which is written anew; give its images alone, or another out")
    if inside and has_values:
        raise Error(f"{inside[0]}: is in {folder}, which is written anew; copy it elsewhere first")
    is_new = not folder.parent.exists()
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder.parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise Error(f"cannot write {folder.parent}: {error.strerror}; choose another out") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise Error(f"{folder.parent}: another process writes to it; wait for it, or choose another out") from None
    if not inside:
        shutil.rmtree(folder, ignore_errors=True)
    example = None
    try:
        if images is not None and not isinstance(images, (str, os.PathLike)):
            pixels = _pixels(images)
            example = pixels[:2].float() / 255
            images = folder / "images"
            if keep_images:
                _write_images(pixels, images)
        if not isinstance(module, (str, os.PathLike)):
            module = _write_program(module, example, folder)
        if isinstance(names, (list, tuple)):
            folder.mkdir(parents=True, exist_ok=True)
            options["class_names"] = folder / "class_names.txt"
            options["class_names"].write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
        yield os.fspath(module), None if images is None else os.fspath(images)
    finally:
        with contextlib.suppress(OSError):
            # The command that continues an interrupted training reads them again.
            if not inside and not any((folder.parent / "checkpoints").glob("*.safetensors")):
                shutil.rmtree(folder, ignore_errors=True)
            if is_new and not any(folder.parent.iterdir()):
                folder.parent.rmdir()
        os.close(lock)
    with contextlib.suppress(OSError):
        folder.parent.rmdir()  # if nothing else was written there


def _pixels(images: torch.Tensor) -> torch.Tensor:
    """Returns images as uint8 N×C×H×W on the CPU."""
    import torch

    images = torch.as_tensor(images).detach().cpu()
    if images.dim() != 4 or images.shape[1] not in (1, 3) or len(images) < 2:
        raise ValueError(f"images: wrong shape (got {tuple(images.shape)}, expected N×3×H×W or N×1×H×W, N at least 2)")
    if images.is_floating_point():
        low, high = images.min().item(), images.max().item()
        if not (low >= 0 and high <= 1):
            raise ValueError(f"images: must be in [0, 1] (got {low:.3g} to {high:.3g}); "
                             "pass them without normalization, and its mean= and std= as options")
        images = (images * 255).round().byte()
    if images.dtype != torch.uint8:
        raise TypeError(f"images: wrong type (got {images.dtype}, expected torch.uint8, or floats in [0, 1])")
    return images


def _write_images(pixels: torch.Tensor, folder: pathlib.Path) -> None:
    """Writes uint8 images N×C×H×W as PNM files, which are not compressed."""
    folder.mkdir(parents=True)
    channels, height, width = pixels.shape[1:]
    header = f"P{6 if channels == 3 else 5} {width} {height} 255\n".encode()
    for number, image in enumerate(pixels):
        rows = image.permute(1, 2, 0).contiguous()
        # torch does not need numpy, and neither does this.
        (folder / f"{number:08}.pnm").write_bytes(header + ctypes.string_at(rows.data_ptr(), rows.numel()))


def _write_program(module: torch.nn.Module | torch.export.ExportedProgram, example: torch.Tensor | None,
                   folder: pathlib.Path) -> pathlib.Path:
    """Writes a model as a program that takes any number of images, in evaluation mode, and returns its file."""
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(module, torch.jit.ScriptModule):
        module.save(str(folder / "model.pt"))
        return folder / "model.pt"
    if isinstance(module, torch.nn.Module):
        if example is None:
            raise TypeError("images: needed as a tensor, which a torch.nn.Module is exported with (got no tensor)")
        module = copy.deepcopy(module).cpu().eval()  # the caller's stays unchanged
        try:
            module = torch.export.export(module, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},))
        except Exception as error:
            why = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise Error(f"module: torch.export cannot export it ({why}); "
                        "pass torch.jit.trace(model.eval(), images[:2]), with images in [0, 1]") from error
    if not isinstance(module, torch.export.ExportedProgram):
        raise TypeError("module: wrong type (got "
                        f"{type(module).__name__}, expected a torch.nn.Module, a program of torch.export or a path)")
    torch.export.save(module, folder / "model.pt2")
    return folder / "model.pt2"
