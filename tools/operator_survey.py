#!/usr/bin/env python3
"""Lists what `refine inspect` says about every image classifier of torchvision, scripted and traced.

    pip install torch==2.14.1 torchvision==0.29.1
    python tools/operator_survey.py --refine bazel-bin/tools/refine

Each classifier is made with random weights, in evaluation mode, scripted and traced, saved and inspected.
The weights are stored as one number that is repeated, so that every file is small; the operators do not
depend on them. Prints a Markdown table, and after it every objection. Exit status 1 if there was one.

`--keep DIR` keeps the files, and takes those that are there already; `--only NAME` (repeatable) restricts the
run to some classifiers. The largest needs 6 GB of memory; all take half an hour of one core.
"""

import argparse
import collections
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
    """Without drawing its weights: each becomes one number that is repeated."""
    extra = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    for each in [n for n in dir(torch.nn.init) if n.endswith("_") and not n.startswith("_")]:
        setattr(torch.nn.init, each, lambda tensor, *args, **kwargs: tensor)
    net = torchvision.models.get_model(name, weights=None, **extra)
    for module in net.modules():
        for key, tensor in [*module._parameters.items(), *module._buffers.items()]:
            if tensor is None:
                continue
            fake = torch.full((), 0.01).expand(tensor.shape)
            if not tensor.is_floating_point():  # indices: zeros are always within bounds
                fake = torch.zeros(tensor.shape, dtype=tensor.dtype)
            if key in module._parameters:
                module._parameters[key] = torch.nn.Parameter(fake, requires_grad=False)
            else:
                module._buffers[key] = fake
    return net.eval()


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
    parser.add_argument("--keep", type=pathlib.Path)
    parser.add_argument("--only", action="append")
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.CRITICAL)
    folder = options.keep or pathlib.Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    names = torchvision.models.list_models(module=torchvision.models)
    assert not (options.only and set(options.only) - set(names)), f"one of {names}"
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
                except Exception as error:  # PyTorch's own refusal is a line of the table, too
                    cells += [f"PyTorch: {str(error).splitlines()[0][:60]}", ""]
                    continue
            seen = inspect(options.refine, path)
            cells += [str(len(seen["operators"])), str(len(seen["objections"]))]
            operators.update(seen["operators"])
            for objection in seen["objections"]:
                text = objection if isinstance(objection, str) else objection["text"]
                objections[text].append(f"{name} {form}")
            if not options.keep:
                path.unlink()
        print("| " + " | ".join([name, *cells]) + " |", flush=True)
    print(f"\n{len(operators)} different operators; {len(objections)} objections; {time.time() - started:.0f} s")
    for text, where in sorted(objections.items()):
        print(f"- {text}: {len(where)} files, first {where[0]}")
    return 1 if objections else 0


if __name__ == "__main__":
    sys.exit(main())
