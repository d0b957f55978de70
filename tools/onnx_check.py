#!/usr/bin/env python3
"""Checks that ONNX Runtime and OpenVINO compute what refine computes, from the ONNX files that refine writes.

    tools/bazel build //tools:refine //tools:logits
    python3 -m venv venv && venv/bin/pip install onnx onnxruntime openvino
    python3 tools/onnx_check.py --python venv/bin/python
    python3 tools/onnx_check.py --python venv/bin/python --torchvision torch/bin/python --only resnet18

Exports networks of this library and .pt2 and ONNX victims as ONNX, and defends some of them. A fresh Python process
checks each file with onnx.checker, and answers batches of 1, 2 and 5 images with ONNX Runtime, and with OpenVINO if it
is installed, without refine. Prints the largest differences from the logits and alarm scores of the program in
C++, as a share of the largest logit (or 1). Then runs the Python of docs/guide/serving.md that is for ONNX.

With `--torchvision PYTHON`, a Python with torch, torchvision and onnx, each of torchvision's classifiers is exported
with torch.export; refine writes it as ONNX, which is compared with PyTorch's logits. It is also exported with
torch.onnx.export, and refine's logits and gradients of that file are compared with PyTorch's. An activation near the
kink of a ReLU makes a gradient jump by rounding alone, so the gradient is compared with that in double precision, and
PyTorch's own difference from it is in parentheses.

The exit status is 1 if a difference is above 1e-4 (one of gradients also above three times PyTorch's), or a file is
refused for another reason than an operator that refine does not translate. Nothing is installed.
"""

import argparse
import json
import pathlib
import random
import re
import subprocess
import sys
import tempfile

import pt2_check

FIXTURES = pt2_check.FIXTURES
MOST = 1e-4
ONNX_VICTIMS = ["residual", "mobile", "attention", "exported", "legacy"]
DEFENDED = [("mixed", ".pt2"), ("in_place", ".pt2"), ("half", ".pt2"), ("mobile", ".onnx"), ("attention", ".onnx"),
            ("exported", ".onnx"), ("legacy", ".onnx"), ("residual", ".onnx")]

# Runs with onnx and onnxruntime: MODEL SHAPE FOLDER BATCH...; prints a line of JSON.
READER = """
import json, pathlib, sys
import numpy, onnx, onnxruntime
model, shape, folder = sys.argv[1], [int(n) for n in sys.argv[2].split("x")], pathlib.Path(sys.argv[3])
def raw(name, *sizes):
    return numpy.frombuffer((folder / name).read_bytes(), dtype=numpy.float32).reshape(*sizes)
onnx.checker.check_model(model, full_check=True)
options = onnxruntime.SessionOptions()
options.log_severity_level = 3
session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
assert [each.name for each in session.get_inputs()] == ["images"]
names = [each.name for each in session.get_outputs()]
assert names in (["logits"], ["logits", "alarm"]), names
runs = {"ONNX Runtime": lambda images: dict(zip(names, session.run(names, {"images": images})))}
try:
    import openvino
    compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    runs["OpenVINO"] = lambda images: {name: compiled(images)[name] for name in names}
except ImportError:
    pass
result = {}
for program, run in runs.items():
    worst = 0.0
    for n in map(int, sys.argv[4:]):
        found = run(raw(f"images_{n}", n, *shape))["logits"]
        expected = raw(f"logits_{n}", n, -1)
        assert found.shape == expected.shape, (found.shape, expected.shape)
        worst = max(worst, float(abs(found - expected).max() / max(1.0, abs(expected).max())))
    alarm = None
    if (folder / "alarm").exists():
        scores = json.loads((folder / "alarm").read_text())
        alarm = float(abs(run(raw("pictures", len(scores), *shape))["alarm"] - scores).max())
    result[program] = [worst, alarm]
print(json.dumps({"nodes": len(onnx.load(model).graph.node), "differences": result}))
"""

# Runs with torch and torchvision: FOLDER NAME; writes the classifier in several formats, images, logits and gradient.
TORCHVISION = """
import pathlib, sys, warnings
sys.path.insert(0, sys.argv[3])
warnings.simplefilter("ignore")
import torch, torchvision, operator_survey
folder, name = pathlib.Path(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
net = operator_survey.with_realistic_weights(name).eval()
side = operator_survey.smallest_side(net)
operator_survey.take_statistics(net, side)
images, logits, exact, theirs = operator_survey.answers(net, side)
(folder / "images_4").write_bytes(images.numpy().tobytes())
(folder / "logits_4").write_bytes(logits.numpy().tobytes())
(folder / "gradient").write_bytes(exact.numpy().tobytes())
program = torch.export.export(net, (images[:2],), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
torch.export.save(program, folder / "model.pt2")
for file, choice in (("traced.onnx", {"dynamo": False, "dynamic_axes": {"images": {0: "n"}}}),
                     ("exported.onnx", {"dynamo": True, "dynamic_shapes": ({0: torch.export.Dim.DYNAMIC},)})):
    try:
        torch.onnx.export(net, (images[:2],), str(folder / file), input_names=["images"], output_names=["logits"],
                          opset_version=17 if file == "traced.onnx" else 18, external_data=False, verbose=False,
                          **choice)
    except Exception as error:
        print(f"PyTorch cannot write {file}: {str(error).splitlines()[0]}", file=sys.stderr)
print(f"{theirs} 3x{side}x{side}")
"""


def make_files(refine, logits, scratch):
    """Writes ONNX files and the answers to compare with. Returns (name, file, shape, folder)."""
    cases = []

    def case(name, shape, *command):
        """Writes a file as ONNX and, for the answers, as .pt2."""
        folder = scratch / name.replace(" ", "_")
        folder.mkdir()
        pt2_check.run(refine, *command, "--out", folder / "model.pt2")
        more = []
        if command[0] == "defend":  # the same defense, again
            model = command[command.index("--model") + 1]
            command, more = ["export", "--model", model], ["--defense", folder / "model.safetensors"]
        pt2_check.run(refine, *command, *more, "--out", folder / "model.onnx")
        pt2_check.write_answers(logits, folder / "model.pt2", shape, folder)
        cases.append((name, folder / "model.onnx", shape, folder))
        return folder

    for name, network, shape, *more in pt2_check.NETWORKS:
        weights = pt2_check.write_network(FIXTURES / f"{name}.safetensors", scratch / f"{name}.safetensors")
        case(network, shape, "export", "--model", weights, "--arch", network, "--image", shape, *more)
    for name in pt2_check.VICTIMS:
        output = ["--output", "logits"] if name == "several" else []
        case(f"victim {name}", "3x8x8", "export", "--model", FIXTURES / "exported" / f"{name}.pt2", "--image", "3x8x8",
             *output)
    for name in ONNX_VICTIMS:
        if (FIXTURES / "onnx" / f"{name}.onnx").exists():
            case(f"ONNX victim {name}", "3x8x8", "export", "--model", FIXTURES / "onnx" / f"{name}.onnx")
    pictures, few = scratch / "pictures", scratch / "few"
    pt2_check.write_pictures(pictures, "3x8x8", 64)
    pt2_check.write_pictures(few, "3x8x8", 5)
    for name, ending in DEFENDED:
        model = FIXTURES / ("onnx" if ending == ".onnx" else "exported") / (name + ending)
        if not model.exists():
            continue
        folder = case(f"defended {name}{ending}", "3x8x8", "defend", "--model", model, "--images", pictures, "--epoch",
                      "1", "--batch_size", "16", "--width", "4", "--levels", "2", "--no_scan", "--no_probe")
        pt2_check.write_alarms(refine, folder / "model.pt2", "3x8x8", few, folder)
    return cases


def compare(python, cases, batches):
    """Prints a table. Returns how many files differ."""
    bad = 0
    print("| file | nodes | ONNX Runtime: logits | alarm | OpenVINO: logits | alarm |\n"
          "| --- | ---: | ---: | ---: | ---: | ---: |")
    for name, file, shape, answers in cases:
        done = subprocess.run([python, "-c", READER, file, shape, answers, *map(str, batches)], capture_output=True,
                              text=True)
        if done.returncode != 0:
            print(f"| {name} | {done.stderr.strip().splitlines()[-1:]} | | | | |", flush=True)
            bad += 1
            continue
        found = json.loads(done.stdout.splitlines()[-1])
        cells = []
        for program in ("ONNX Runtime", "OpenVINO"):
            for difference in found["differences"].get(program, [None, None]):
                cells.append("" if difference is None else f"{difference:.0e}")
                bad += (difference or 0) > MOST
        print(f"| {name} | {found['nodes']} | {' | '.join(cells)} |", flush=True)
    return bad


def survey(options, scratch):
    """Prints a table of torchvision's classifiers. Returns how many files differ or are refused."""
    import array
    bad = 0
    refine, logits = options.bin / "refine", options.bin / "logits"
    listed = subprocess.run([options.torchvision, "-c", "import torchvision; print(*torchvision.models.list_models("
                             "module=torchvision.models))"], capture_output=True, text=True, check=True).stdout.split()
    floats = lambda path: array.array("f", path.read_bytes())

    def off(found, expected):
        largest = max(1.0, max(map(abs, expected)))
        return max(abs(a - b) for a, b in zip(found, expected, strict=True)) / largest

    def off_gradient(found, expected):
        return max(abs(a - b) for a, b in zip(found, expected, strict=True)) / max(map(abs, expected))

    print("| classifier | ONNX Runtime | OpenVINO | traced: logits | gradient | exported: logits | gradient |\n"
          "| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name in listed:
        if options.only and name not in options.only:
            continue
        folder = scratch / name
        folder.mkdir()
        made = subprocess.run([options.torchvision, "-c", TORCHVISION, folder, name, pt2_check.ROOT / "tools"],
                              capture_output=True, text=True)
        if made.returncode != 0:
            print(f"| {name} | PyTorch: {made.stderr.strip().splitlines()[-1:]} | | | | | |", flush=True)
            continue
        theirs, shape = made.stdout.split()[-2:]
        cells = []
        done = subprocess.run([refine, "export", "--model", folder / "model.pt2", "--image", shape, "--out",
                               folder / "model.onnx"], capture_output=True, text=True)
        if done.returncode == 0:
            done = subprocess.run([options.python, "-c", READER, folder / "model.onnx", shape, folder, "4"],
                                  capture_output=True, text=True)
        if done.returncode == 0:
            differences = json.loads(done.stdout.splitlines()[-1])["differences"]
            for program in ("ONNX Runtime", "OpenVINO"):
                difference = differences.get(program, [None])[0]
                cells.append("" if difference is None else f"{difference:.0e}")
                bad += (difference or 0) > MOST
        else:
            cells += [(done.stderr.strip().splitlines() or ["?"])[-1], ""]
            bad += 1
        for file in ("traced.onnx", "exported.onnx"):
            if not (folder / file).exists():
                cells += ["PyTorch cannot write it", ""]
                continue
            done = subprocess.run([logits, folder / file, shape, folder / "images_4", folder / "found",
                                   folder / "found_gradient"], capture_output=True, text=True)
            if done.returncode == 0:
                found = [off(floats(folder / "found"), floats(folder / "logits_4")),
                         off_gradient(floats(folder / "found_gradient"), floats(folder / "gradient"))]
                cells += [f"{found[0]:.0e}", f"{found[1]:.0e} ({float(theirs):.0e})"]
                bad += found[0] > MOST or found[1] > max(MOST, 3 * float(theirs))
            else:
                unknown = re.search(r"the operator (\w+), which refine does not know", done.stderr)
                cells += [f"refused: {unknown[1]}" if unknown else done.stderr.strip(), ""]
                bad += not unknown
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
        for file in folder.iterdir():
            file.unlink()
    return bad


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=pathlib.Path, default=pt2_check.ROOT / "bazel-bin" / "tools")
    parser.add_argument("--python", default=sys.executable, help="a Python with onnx and onnxruntime")
    parser.add_argument("--torchvision", help="a Python with torch, torchvision and onnx: compare its classifiers")
    parser.add_argument("--only", action="append", help="one of these classifiers; repeatable")
    options = parser.parse_args()
    random.seed(0)
    with tempfile.TemporaryDirectory() as folder:
        scratch = pathlib.Path(folder)
        if options.torchvision:
            bad = survey(options, scratch)
        else:
            cases = make_files(options.bin / "refine", options.bin / "logits", scratch)
            bad = compare(options.python, cases, pt2_check.BATCHES)
            bad += not pt2_check.guide_works(options.python, cases[-1][1], scratch, lambda code: "onnxruntime" in code)
    print(f"{bad} of the answers differ, or files are refused" if bad else "all files agree")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
