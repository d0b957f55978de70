#!/usr/bin/env python3
"""Checks that PyTorch reads the .pt2 files that refine writes, and computes what refine computes.

    tools/bazel build //tools:refine //tools:logits
    python3 tools/pt2_check.py                           # in the PyTorch that refine is linked with
    python3 tools/pt2_check.py --python venv/bin/python  # repeatable: in other ones

Exports networks of this library and .pt2 victims, and defends some of them. A fresh Python process loads each file with
torch.export.load, without refine, and answers batches of 1, 2 and 5 images. Prints the largest difference from the
logits and alarm scores of the program in C++, and the time to load. The exit status is 1 if one is above 1e-5 times the
largest logit (or 1), or a file cannot be loaded. Nothing is installed.
"""

import argparse
import json
import pathlib
import random
import struct
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
FIXTURES = ROOT / "tests" / "fixtures"
BATCHES = (1, 2, 5)
MOST = 1e-5

# Weights of this library's networks, with the images that they take.
NETWORKS = [
    ("resnet18_large", "ResNet18", "3x64x64", "--stem", "7x7-pool"),
    ("resnet50_small", "ResNet50", "3x32x32"),
    ("vgg16_small", "VGG16", "3x32x32"),
    ("densenet121", "DenseNet121", "3x32x32"),
    ("inception_v3", "InceptionV3", "3x75x75"),
    ("vit", "ViT", "3x32x16"),
]
VICTIMS = ["mixed", "decomposed", "in_place", "several", "half", "no_grad", "probabilities", "resizable", "linear"]
DEFENDED = ["mixed", "probabilities", "half"]

# Runs in PyTorch: MODEL SHAPE FOLDER BATCH...; prints a line of JSON.
READER = """
import json, pathlib, sys, time, torch
model, shape, folder = sys.argv[1], [int(n) for n in sys.argv[2].split("x")], pathlib.Path(sys.argv[3])
def raw(name, *sizes):
    return torch.frombuffer(bytearray((folder / name).read_bytes()), dtype=torch.float32).view(*sizes)
start, extra = time.time(), {"refine.json": ""}
program = torch.export.load(model, extra_files=extra)
seconds, classes, worst = time.time() - start, json.loads(extra["refine.json"])["classes"], 0.0
run = program.module()
for n in map(int, sys.argv[4:]):
    expected = raw(f"logits_{n}", n, classes)
    with torch.no_grad():
        found = run(raw(f"images_{n}", n, *shape))
    assert found.shape == expected.shape, (found.shape, expected.shape)
    worst = max(worst, ((found - expected).abs().max() / max(1.0, expected.abs().max().item())).item())
alarm = None
if (folder / "alarm").exists():
    from torch.export.pt2_archive._package import load_pt2
    details = load_pt2(model).exported_programs["details"].module()
    scores = torch.tensor(json.loads((folder / "alarm").read_text()))
    with torch.no_grad():
        answers = details(raw("pictures", len(scores), *shape))
    assert list(answers) == ["logits", "alarm", "undefended", "transformed", "gated"], list(answers)
    alarm = (answers["alarm"] - scores).abs().max().item()
    silent = answers["alarm"] <= json.loads(extra["refine.json"])["alarm"]["threshold"]
    gated = torch.where(silent[:, None], answers["undefended"], answers["logits"])
    assert torch.allclose(answers["gated"], gated, 1e-4, 1e-5), (answers["gated"], gated)
print(json.dumps({"torch": torch.__version__, "seconds": seconds, "logits": worst, "alarm": alarm}))
"""


def guide_works(python, file, scratch, is_wanted):
    """Runs those blocks of Python of docs/guide/serving.md that serve a kind of file, and prints why they fail."""
    folder = scratch / "guide"
    folder.mkdir(exist_ok=True)
    (folder / f"defended{file.suffix}").write_bytes(file.read_bytes())
    blocks = (ROOT / "docs" / "guide" / "serving.md").read_text().split("```python\n")[1:]
    code = "".join(filter(is_wanted, (block.split("```")[0] for block in blocks)))
    check = "\nassert classes.shape == suspicious.shape == (8,), (classes, suspicious)"
    done = subprocess.run([python, "-c", code + check], cwd=folder, capture_output=True, text=True)
    if done.returncode != 0:
        print(f"the Python of docs/guide/serving.md fails:\n{done.stderr}")
    return done.returncode == 0


def serves_pt2(code):
    return "torch.jit" not in code and "onnxruntime" not in code


def sizes_of(shape):
    return [int(n) for n in shape.split("x")]


def count_of(shape):
    channels, height, width = sizes_of(shape)
    return channels * height * width


def run(*command):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode not in (0, 1) or (done.returncode == 1 and "refine" not in pathlib.Path(command[0]).name):
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def write_network(fixture, file):
    """Writes the network of a fixture, which also has images and logits, as a file of weights."""
    content = fixture.read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    header, data = json.loads(content[8:8 + size]), content[8 + size:]
    entries, parts, end = {}, [], 0
    for name, entry in sorted(header.items()):
        if name.startswith("network."):
            first, last = entry["data_offsets"]
            parts.append(data[first:last])
            entries[name.removeprefix("network.")] = dict(entry, data_offsets=[end, end + last - first])
            end += last - first
    text = json.dumps(entries).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(parts))
    return file


def write_answers(logits, model, shape, folder):
    """Writes images, and the logits that the C++ program has for them."""
    for n in BATCHES:
        numbers = [random.random() for _ in range(n * count_of(shape))]
        (folder / f"images_{n}").write_bytes(struct.pack(f"<{len(numbers)}f", *numbers))
        run(logits, model, shape, folder / f"images_{n}", folder / f"logits_{n}")


def write_pictures(folder, shape, n):
    """Writes pictures as files. Returns their pixels."""
    channels, height, width = sizes_of(shape)
    folder.mkdir()
    pictures = []
    for i in range(n):
        pixels = bytes(random.randrange(256) for _ in range(height * width * channels))
        (folder / f"{i:03}.ppm").write_bytes(f"P6 {width} {height} 255\n".encode() + pixels)
        pictures.append(pixels)
    return pictures


def write_alarms(refine, model, shape, pictures, folder):
    """Writes pictures as numbers, and the alarm scores that `refine predict` has for them."""
    channels, height, width = sizes_of(shape)
    lines = run(refine, "predict", "--json", "--model", model, pictures).splitlines()
    answers = sorted((json.loads(line) for line in lines), key=lambda answer: answer["file"])
    (folder / "alarm").write_text(json.dumps([answer["alarm_score"] for answer in answers]))
    numbers = []
    for answer in answers:
        pixels = pathlib.Path(answer["file"]).read_bytes()[-height * width * channels:]
        for channel in range(channels):
            numbers += [pixel / 255 for pixel in pixels[channel::channels]]
    (folder / "pictures").write_bytes(struct.pack(f"<{len(numbers)}f", *numbers))


def make_files(refine, logits, scratch):
    """Writes the .pt2 files and the answers to compare with. Returns (name, file, shape, folder)."""
    cases = []

    def case(name, shape, *command):
        folder = scratch / name.replace(" ", "_")
        folder.mkdir()
        file = folder / "model.pt2"
        run(refine, *command, "--out", file)
        write_answers(logits, file, shape, folder)
        cases.append((name, file, shape, folder))
        return file, folder

    for name, network, shape, *more in NETWORKS:
        weights = write_network(FIXTURES / f"{name}.safetensors", scratch / f"{name}.safetensors")
        case(network, shape, "export", "--model", weights, "--arch", network, "--image", shape, *more)
    for name in VICTIMS:
        output = ["--output", "logits"] if name == "several" else []
        case(f"victim {name}", "3x8x8", "export", "--model", FIXTURES / "exported" / f"{name}.pt2", "--image", "3x8x8",
             *output)
    pictures = scratch / "pictures"
    write_pictures(pictures, "3x8x8", 64)
    few = scratch / "few"
    write_pictures(few, "3x8x8", 5)
    for name in DEFENDED:
        file, folder = case(f"defended {name}", "3x8x8", "defend", "--model", FIXTURES / "exported" / f"{name}.pt2",
                            "--images", pictures, "--epoch", "1", "--batch_size", "16", "--width", "4", "--levels", "2",
                            "--no_scan", "--no_probe")
        write_alarms(refine, file, "3x8x8", few, folder)
    return cases


def linked_python(program):
    """Returns the Python of the PyTorch that a program is linked with."""
    for line in run("ldd", program).splitlines():
        if "libtorch_cpu.so" in line:
            library = pathlib.Path(line.split("=>")[1].split("(")[0].strip()).resolve()
            return library.parents[5] / "bin" / "python3"
    sys.exit(f"{program} is not linked with LibTorch; give --python")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=pathlib.Path, default=ROOT / "bazel-bin" / "tools")
    parser.add_argument("--python", action="append", help="a Python with PyTorch")
    options = parser.parse_args()
    random.seed(0)
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        cases = make_files(options.bin / "refine", options.bin / "logits", pathlib.Path(folder))
        for python in options.python or [linked_python(options.bin / "refine")]:
            print("| file | PyTorch | load | logits | alarm |\n| --- | --- | ---: | ---: | ---: |")
            for name, file, shape, answers in cases:
                command = [python, "-c", READER, file, shape, answers, *map(str, BATCHES)]
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode != 0:
                    print(f"| {name} | cannot be loaded: {done.stderr.strip().splitlines()[-1:]} | | | |")
                    bad += 1
                    continue
                found = json.loads(done.stdout.splitlines()[-1])
                alarm = "" if found["alarm"] is None else f"{found['alarm']:.0e}"
                print(f"| {name} | {found['torch']} | {found['seconds']:.1f} s | {found['logits']:.0e} | {alarm} |")
                bad += found["logits"] > MOST or (found["alarm"] or 0) > MOST
            bad += not guide_works(python, cases[-1][1], pathlib.Path(folder), serves_pt2)
    print(f"{bad} of the files differ or cannot be loaded" if bad else "all files agree")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
