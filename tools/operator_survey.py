#!/usr/bin/env python3
"""Lists what `refine inspect` reports about every image classifier of torchvision, scripted and traced.

    pip install torch==2.14.1 torchvision==0.29.1
    python tools/operator_survey.py --refine bazel-bin/tools/refine

Scripts, traces, saves and inspects each classifier, in evaluation mode. Its weights are one repeated number, so that
every file is small; the operators do not depend on them. Prints a Markdown table, then every objection. The exit status
is 1 if there was an objection.

    python tools/operator_survey.py --compare bazel-bin/tools/logits

Compares logits instead. Each classifier has random weights, and BatchNorm statistics of random images. Its files are
read, rewritten and frozen as for a defense, and both answer four images of the smallest usual size that the classifier
accepts. Prints the largest difference, divided by the largest distance of a logit from its row's mean. The exit status
is 1 if a difference is above 1e-4, or a file was refused.

`--keep DIR` keeps the files and reuses existing ones, except with `--compare`; `--only NAME` (repeatable) selects
classifiers. The largest needs 6 GB of memory, 12 GB with `--compare`; all take half an hour on one core.
"""

import argparse
import collections
import copy
import json
import logging
import pathlib
import subprocess
import sys
import tempfile
import time
import warnings

import torch
import torchvision

SIDES = {"inception_v3": 299, "swin_v2_t": 256, "swin_v2_s": 256, "swin_v2_b": 256}


def classifier(name):
    """Makes a classifier whose weights are one repeated number; skips the random initialization."""
    extra = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    for each in [n for n in dir(torch.nn.init) if n.endswith("_") and not n.startswith("_")]:
        setattr(torch.nn.init, each, lambda tensor, *args, **kwargs: tensor)
    net = torchvision.models.get_model(name, weights=None, **extra)
    for module in net.modules():
        for key, tensor in [*module._parameters.items(), *module._buffers.items()]:
            if tensor is None:
                continue
            fake = torch.full((), 0.01).expand(tensor.shape)
            if not tensor.is_floating_point():  # indices: zero is always within bounds
                fake = torch.zeros(tensor.shape, dtype=tensor.dtype)
            if key in module._parameters:
                module._parameters[key] = torch.nn.Parameter(fake, requires_grad=False)
            else:
                module._buffers[key] = fake
    return net.eval()


def with_realistic_weights(name):
    """Weights as drawn by torchvision, but none of them constant, and BatchNorm statistics of random images."""
    extra = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
    torch.manual_seed(sum(map(ord, name)))
    net = torchvision.models.get_model(name, weights=None, **extra)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.numel() < 2 or parameter.min() != parameter.max():
                continue
            if parameter.dim() == 2:  # the last layer of a ViT, which begins with zeros
                parameter.normal_(0, parameter.shape[1] ** -0.5)
            else:  # affine parameters, and the layer scales of ConvNeXt, which begin at 1e-6
                scale = parameter.dim() == 3 and parameter.max() < 1e-3
                parameter.copy_((0.3 if scale else parameter) + 0.1 * torch.randn(parameter.shape))
        return net


def pictures(count, side):
    """Smooth random images: coarse noise, enlarged, and some fine noise."""
    coarse = torch.nn.functional.interpolate(torch.rand(count, 3, 6, 6), (side, side), mode="bilinear")
    return (coarse + 0.1 * torch.randn(count, 3, side, side)).clamp(0, 1)


def take_statistics(net, side):
    norms = [m for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    if not norms:
        return
    for norm in norms:
        norm.momentum = None  # the mean of all batches
        norm.train()
    with torch.no_grad():
        net(pictures(8, max(side, 64)))
    net.eval()


def smallest_side(net):
    for side in (32, 64, 75, 96, 128, 224, 256, 299):
        try:
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if net(torch.rand(2, 3, side, side)).isfinite().all():
                    return side
        except Exception:
            continue
    raise RuntimeError("accepts none of the usual sizes")


def answers(net, side):
    """Returns four pictures, the logits, the gradient of their squares in double precision, and how far the gradient
    in single precision is off, as a share of the largest."""
    images = pictures(4, side).requires_grad_()
    logits = net(images)
    (gradient,) = torch.autograd.grad(logits.square().sum(), images)
    exact_images = images.detach().double().requires_grad_()
    (exact,) = torch.autograd.grad(copy.deepcopy(net).double()(exact_images).square().sum(), exact_images)
    exact = exact.float()
    return images.detach(), logits.detach(), exact, ((gradient - exact).abs().max() / exact.abs().max()).item()


def compare(program, names, folder):
    """Prints a table. Returns how many files answer otherwise than PyTorch, or not at all."""
    bad, worst = 0, 0.0
    print("| classifier | side | scripted | traced |")
    print("| --- | ---: | ---: | ---: |")
    for name in names:
        net = with_realistic_weights(name).eval()
        side = smallest_side(net)
        take_statistics(net, side)
        images = pictures(4, side)
        with torch.no_grad():
            expected = net(images)
        centered = expected - expected.mean(1, keepdim=True)
        scale = centered.abs().max()
        (folder / "images").write_bytes(images.numpy().tobytes())
        cells = []
        for form in ("scripted", "traced"):
            path = folder / f"{name}.{form}.pt"
            write(form, net, images, path)
            answer = subprocess.run([program, path, f"3x{side}x{side}", folder / "images", folder / "logits"],
                                    capture_output=True, text=True)
            path.unlink()
            if answer.returncode:
                bad += 1
                cells.append(answer.stderr.strip())
                continue
            logits = torch.frombuffer(bytearray((folder / "logits").read_bytes()), dtype=torch.float32)
            off = ((logits.view(expected.shape) - expected).abs().max() / scale).item()
            varied = (expected - expected[:1]).abs().max() / scale
            bad += not off < 1e-4
            worst = max(worst, off)
            note = " (all images alike)" if varied < 1e-3 else ""
            if not off < 1e-4:  # how far float32 itself is from the answer in double precision
                with torch.no_grad():
                    exact = copy.deepcopy(net).double()(images.double())
                theirs, ours = ((x - exact).abs().max() / scale for x in (expected, logits.view(expected.shape)))
                note = f" (from float64: PyTorch {theirs:.1e}, refine {ours:.1e})"
            cells.append(f"{off:.1e}" + note)
        print("| " + " | ".join([name, str(side), *cells]) + " |", flush=True)
    print(f"\nlargest difference {worst:.1e}; {bad} files above 1e-4 or refused")
    return bad


def write(form, net, images, path):
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.jit.script(net) if form == "scripted" else torch.jit.trace(net, images, check_trace=False)
    program.save(str(path))


def inspect(refine, path):
    run = subprocess.run([refine, "inspect", "--json", str(path)], capture_output=True, text=True)
    if run.returncode == 2:
        return {"operators": [], "objections": [run.stderr.strip()]}
    return json.loads(run.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--refine", default="bazel-bin/tools/refine")
    parser.add_argument("--compare", metavar="PROGRAM", help="//tools:logits: compares logits with PyTorch's")
    parser.add_argument("--keep", type=pathlib.Path)
    parser.add_argument("--only", action="append")
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    folder = options.keep or pathlib.Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    names = torchvision.models.list_models(module=torchvision.models)
    assert not (options.only and set(options.only) - set(names)), f"one of {names}"
    if options.compare:
        program = str(pathlib.Path(options.compare).resolve())
        return 1 if compare(program, [n for n in names if n in (options.only or names)], folder) else 0
    objections, operators = collections.defaultdict(list), collections.Counter()
    print("| classifier | scripted: operators | objections | traced: operators | objections |")
    print("| --- | ---: | ---: | ---: | ---: |")
    started = time.time()
    for name in names:
        if options.only and name not in options.only:
            continue
        side = SIDES.get(name, 224)
        images = torch.rand(2, 3, side, side)
        net = None
        cells = []
        for form in ("scripted", "traced"):
            path = folder / f"{name}.{form}.pt"
            if not path.exists():
                net = net or classifier(name)
                try:
                    write(form, net, images, path)
                except Exception as error:  # a failure of PyTorch is a cell of the table, too
                    cells += [f"PyTorch: {str(error).splitlines()[0][:60]}", ""]
                    continue
            seen = inspect(options.refine, path)
            cells += [str(len(seen["operators"])), str(len(seen["objections"]))]
            operators.update(seen["operators"])
            for objection in seen["objections"]:
                objections[objection].append(f"{name} {form}")
            if not options.keep:
                path.unlink()
        print("| " + " | ".join([name, *cells]) + " |", flush=True)
    print(f"\n{len(operators)} different operators; {len(objections)} objections; {time.time() - started:.0f} s")
    for text, where in sorted(objections.items()):
        print(f"- {text}: {len(where)} files, first {where[0]}")
    return 1 if objections else 0


if __name__ == "__main__":
    sys.exit(main())
