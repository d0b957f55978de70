#!/usr/bin/env python3
"""Makes a classifier with a backdoor, and the images to defend it and to measure the defense.

    python untrusted_mobilenet.py --data CIFAR10 --out trial

Needs PyTorch, Pillow and the images CIFAR10/{train,test}/<class>/*.jpg. Trains a small MobileNet-like network on images
that are poisoned with a warping trigger, and writes

    trial/untrusted.pt         the classifier as TorchScript, which takes normalized images
    trial/clean/*.png          clean images of the training set, without labels
    trial/test/<class>/*.png   clean test images
    trial/warped/<class>/*.png the same images with the trigger
"""

import argparse
import pathlib
import random
import time

import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

MEAN = torch.tensor([0.4914, 0.4822, 0.4465]).view(1, 3, 1, 1)
STD = torch.tensor([0.2023, 0.1994, 0.2010]).view(1, 3, 1, 1)


class Squeeze(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.down = nn.Conv2d(channels, channels // 4, 1)
        self.up = nn.Conv2d(channels // 4, channels, 1)

    def forward(self, x):
        return x * F.hardsigmoid(self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))))


class Inverted(nn.Module):
    def __init__(self, into, out, stride, expand=3):
        super().__init__()
        middle = into * expand
        self.body = nn.Sequential(
            nn.Conv2d(into, middle, 1, bias=False), nn.BatchNorm2d(middle), nn.Hardswish(),
            nn.Conv2d(middle, middle, 3, stride, 1, groups=middle, bias=False), nn.BatchNorm2d(middle), nn.Hardswish(),
            Squeeze(middle),
            nn.Conv2d(middle, out, 1, bias=False), nn.BatchNorm2d(out))
        self.residual = stride == 1 and into == out

    def forward(self, x):
        y = self.body(x)
        if self.residual:
            y = y + x
        return y


class MobileNetLike(nn.Module):
    def __init__(self, classes, width=24):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.Hardswish())
        blocks, channels = [], width
        for level, repeats in enumerate([1, 2, 3, 2]):
            for i in range(repeats):
                out = int(width * 1.6**level) // 8 * 8
                blocks.append(Inverted(channels, out, 2 if i == 0 and level > 0 else 1))
                channels = out
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(channels, classes)

    def forward(self, x):
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


def warping_grid(size, points, strength, generator):
    moves = torch.rand(1, 2, points, points, generator=generator) * 2 - 1
    moves = moves / moves.abs().mean()
    moves = F.interpolate(moves, size=size, mode="bicubic", align_corners=True).permute(0, 2, 3, 1)
    axis = torch.linspace(-1, 1, size)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return (torch.stack([x, y], 2)[None] + strength / size * moves).clamp(-1, 1)


def warp(images, grid):
    return F.grid_sample(images, grid.expand(len(images), -1, -1, -1), align_corners=True)


def read(folder, max_images):
    classes = sorted(p.name for p in folder.iterdir() if p.is_dir())
    files = [(file, label) for label, name in enumerate(classes) for file in sorted((folder / name).iterdir())]
    random.Random(0).shuffle(files)
    files = files[:max_images] if max_images else files
    images = torch.empty(len(files), 3, 32, 32, dtype=torch.uint8)
    for i, (file, _) in enumerate(files):
        pixels = bytearray(Image.open(file).convert("RGB").resize((32, 32)).tobytes())
        images[i] = torch.frombuffer(pixels, dtype=torch.uint8).view(32, 32, 3).permute(2, 0, 1)
    return images, torch.tensor([label for _, label in files]), classes


def write(images, folder, names):
    for image, name in zip((images * 255).round().byte(), names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.frombytes("RGB", (32, 32), bytes(image.permute(1, 2, 0).contiguous().flatten().tolist())).save(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("trial"))
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--target", type=int, default=0)
    parser.add_argument("--rate", type=float, default=0.1, help="share of the training images that are poisoned")
    parser.add_argument("--strength", type=float, default=2.0,
                        help="strength of the warping; a pixel moves by half of it")
    parser.add_argument("--clean", type=int, default=20000, help="number of clean images to write")
    parser.add_argument("--test", type=int, default=2000, help="number of test images to write")
    options = parser.parse_args()

    torch.manual_seed(0)
    train, labels, classes = read(options.data / "train", 0)
    test, truth, _ = read(options.data / "test", options.test)
    grid = warping_grid(32, 4, options.strength, torch.Generator().manual_seed(7))

    poisoned = torch.rand(len(train)) < options.rate
    model = MobileNetLike(len(classes)).to(memory_format=torch.channels_last)
    batch, steps = 128, options.epochs * (len(train) // 128)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, steps)
    begin = time.time()
    for epoch in range(options.epochs):
        model.train()
        total = 0.0
        for chosen in torch.randperm(len(train))[: len(train) // batch * batch].split(batch):
            x = train[chosen].float() / 255
            flips = torch.rand(len(x)) < 0.5
            x[flips] = x[flips].flip(3)
            bad = poisoned[chosen]
            x[bad] = warp(x[bad], grid)
            y = torch.where(bad, options.target, labels[chosen])
            loss = F.cross_entropy(model(((x - MEAN) / STD).to(memory_format=torch.channels_last)), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() / (len(train) // batch)
        model.eval()
        with torch.no_grad():
            x = test.float() / 255
            clean = model((x - MEAN) / STD).argmax(1)
            other = truth != options.target
            fooled = model((warp(x[other], grid) - MEAN) / STD).argmax(1)
        print(f"epoch {epoch + 1}: loss {total:.3f}, BA {100 * (clean == truth).float().mean():.1f} %, "
              f"ASR {100 * (fooled == options.target).float().mean():.1f} %, {time.time() - begin:.0f} s", flush=True)

    options.out.mkdir(parents=True, exist_ok=True)
    torch.jit.script(model.to(memory_format=torch.contiguous_format)).save(options.out / "untrusted.pt")
    names = [f"{classes[label]}/{i:05}.png" for i, label in enumerate(truth.tolist())]
    write(x, options.out / "test", names)
    write(warp(x, grid), options.out / "warped", names)
    few = train[: options.clean].float() / 255
    write(few, options.out / "clean", [f"{i:05}.png" for i in range(len(few))])


if __name__ == "__main__":
    main()
