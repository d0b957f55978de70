#!/usr/bin/env python3
"""Compares torchvision's classifiers, exported with torch.export, with what refine computes from the .pt2 files.

    pip install torch==2.14.1 torchvision==0.29.1
    tools/bazel build //tools:logits
    python tools/exported_program_survey.py --program bazel-bin/tools/logits

Each classifier has random weights, and BatchNorm statistics of random images (operator_survey.py). It is exported in
evaluation mode, for any batch size ("dynamic") and for batches of two ("fixed"), and answers four images of the smallest
usual size that it accepts. Prints the largest difference of a logit, divided by the largest distance of a logit from
its row's mean, and that of the gradient of the sum of squared logits from the one in double precision, divided by its largest value;
PyTorch's own difference from it is in parentheses. An activation near the kink of a ReLU makes a gradient jump by
rounding alone. Where the difference is above 1e-4 and above three times PyTorch's, the gradient is therefore compared
with those of 30 images that differ by rounding, in double precision, and the smallest difference is printed behind
"kink:". The exit status is 1 if a difference of logits or the last one of gradients is above 1e-4, or a file was refused.

`--time` also prints how long logits and gradient take, compared with the same classifier as TorchScript. `--only NAME`
(repeatable) selects classifiers. `--versions 2.9.1+0.24.1 ...` builds a virtual environment for each pair of releases of
PyTorch and torchvision, runs itself in it, and prints a table for each.
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile
import venv
import warnings


def environment(pair, folder):
    """Returns the Python of an environment with these releases."""
    torch_version, torchvision_version = pair.split("+")
    python = folder / pair / "bin" / "python"
    if not python.exists():
        venv.create(folder / pair, with_pip=True)
        index = "https://download.pytorch.org/whl/cpu"
        subprocess.run([python, "-m", "pip", "install", "-q", "--extra-index-url", index, f"torch=={torch_version}",
                        f"torchvision=={torchvision_version}", "numpy"], check=True)
    return python


def off(actual, expected, scale):
    import torch

    answer = torch.frombuffer(bytearray(actual.read_bytes()), dtype=torch.float32)
    return ((answer.view(expected.shape) - expected).abs().max() / scale).item()


def gradients_nearby(net, images):
    """Yields the gradient in double precision at images that differ by no more than rounding does."""
    import copy
    import torch

    exact_net = copy.deepcopy(net).double()
    generator = torch.Generator().manual_seed(0)
    for number in range(30):
        size = (1e-7, 3e-7, 1e-6)[number % 3]
        noise = size * torch.randn(images.shape, dtype=torch.float64, generator=generator)
        nearby = (images.double() + noise).requires_grad_()
        yield torch.autograd.grad(exact_net(nearby).square().sum(), nearby)[0]


def survey(program, names, folder, timed):
    """Prints a table. Returns how many files answer otherwise than PyTorch, or not at all."""
    import operator_survey
    import torch

    bad, worst = 0, 0.0
    columns = ["classifier", "side", "dynamic: logits", "gradient", "fixed: logits", "gradient"]
    if timed:
        columns += ["ms", "ms as TorchScript"]
    print(f"\nPyTorch {torch.__version__}\n\n| " + " | ".join(columns) + " |")
    print("| --- |" + " ---: |" * (len(columns) - 1))
    for name in names:
        net = operator_survey.with_realistic_weights(name).eval()
        side = operator_survey.smallest_side(net)
        operator_survey.take_statistics(net, side)
        images, expected, exact, theirs = operator_survey.answers(net, side)
        scale = (expected - expected.mean(1, keepdim=True)).abs().max()
        (folder / "images").write_bytes(images.numpy().tobytes())
        cells, times = [], []

        def answer(path):
            command = [program, path, f"3x{side}x{side}", folder / "images", folder / "logits", folder / "gradient"]
            run = subprocess.run(command, capture_output=True, text=True)
            path.unlink()
            if run.returncode == 0:
                times.append(run.stdout.strip())
            return run

        for form, shapes in (("dynamic", ({0: torch.export.Dim.DYNAMIC},)), ("fixed", None)):
            path = folder / f"{name}.{form}.pt2"
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    torch.export.save(torch.export.export(net, (images[:2],), dynamic_shapes=shapes), path)
            except Exception as error:  # a failure of PyTorch is a cell of the table, too
                cells += [f"PyTorch: {str(error).splitlines()[0][:60]}", ""]
                continue
            run = answer(path)
            if run.returncode:
                bad += 1
                cells += [run.stderr.strip(), ""]
                continue
            logits_off = off(folder / "logits", expected, scale)
            gradient_off = off(folder / "gradient", exact, exact.abs().max())
            worst = max(worst, logits_off)
            cells += [f"{logits_off:.1e}", f"{gradient_off:.1e} ({theirs:.1e})"]
            is_close = gradient_off < max(1e-4, 3 * theirs)
            if not is_close:
                nearest = min(off(folder / "gradient", nearby, nearby.abs().max()) for nearby in gradients_nearby(net, images))
                cells[-1] += f", kink: {nearest:.1e}"
                is_close = nearest < 1e-4
            bad += not (logits_off < 1e-4 and is_close)
        if timed:
            operator_survey.write("traced", net, images, folder / f"{name}.pt")
            answer(folder / f"{name}.pt")
            cells += [times[0] if times else "", times[-1] if len(times) > 1 else ""]
        print("| " + " | ".join([name, str(side), *cells]) + " |", flush=True)
    print(f"\nlargest difference of logits {worst:.1e}; {bad} files with larger differences or refused")
    return bad


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default="bazel-bin/tools/logits", help="//tools:logits")
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--time", action="store_true")
    parser.add_argument("--versions", nargs="+", default=[], metavar="TORCH+TORCHVISION")
    parser.add_argument("--environments", type=pathlib.Path, help="folder that keeps them; left out: a temporary one")
    options = parser.parse_args()
    if options.versions:
        folder = options.environments or pathlib.Path(tempfile.mkdtemp())
        rest = ["--program", options.program] + ["--time"] * options.time
        rest += [part for name in options.only for part in ("--only", name)]
        runs = [subprocess.run([environment(pair, folder), __file__, *rest]) for pair in options.versions]
        return max(run.returncode for run in runs)
    import torch
    import torchvision

    torch.set_num_threads(1)
    names = torchvision.models.list_models(module=torchvision.models)
    assert not set(options.only) - set(names), f"one of {names}"
    with tempfile.TemporaryDirectory() as folder:
        program = str(pathlib.Path(options.program).resolve())
        names = [name for name in names if name in (options.only or names)]
        return 1 if survey(program, names, pathlib.Path(folder), options.time) else 0


if __name__ == "__main__":
    sys.exit(main())
