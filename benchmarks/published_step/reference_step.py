#!/usr/bin/env python3
"""Times the training step of the authors' code in PyTorch, part by part; run by `//benchmarks:versus_reference`.

    reference_step.py --folder DIR [--reference DIR] [--width 64] [--batch 64] [--steps 3] [--threads 2] [--device cpu]

It does what the authors' `refine.py` does, in the same order and the same layout: a loader of four processes that
augments each image by itself, the trained victim in evaluation mode, the U-Net, BCE + 0.1 SupCon over two views, SGD.
The networks are those with which the tests' fixtures are made; with `--reference`, the modules of the authors' code.
Images come from an array instead of files, so that no decoding is timed. The folder of `--folder` holds `images.bin`
(uint8 N x 3 x 32 x 32), `victim.safetensors` and `transform.safetensors`. Prints one JSON object.
"""

import argparse
import importlib.util
import json
import pathlib
import struct
import sys
import time

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

CLASSES = 10
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


class Images(Dataset):
    """Images, each augmented by itself.

    Does what torchvision's RandomResizedCrop(32, (0.8, 1)), flip, RandomGrayscale(0.2) and Normalize do.
    """

    def __init__(self, path, max_images=None):
        images = torch.from_file(str(path), size=path.stat().st_size, dtype=torch.uint8).view(-1, 3, 32, 32)
        self.bytes = images[:max_images]
        self.mean, self.std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)

    def __len__(self):
        return len(self.bytes)

    def __getitem__(self, i):
        image = self.bytes[i].float() / 255
        top, left, height, width = self.box()
        image = image[:, top:top + height, left:left + width].unsqueeze(0)
        image = F.interpolate(image, (32, 32), mode="bilinear", align_corners=False, antialias=True).squeeze(0)
        if torch.rand(1) < 0.5:
            image = image.flip(-1)
        if torch.rand(1) < 0.2:
            weights = torch.tensor([0.2989, 0.587, 0.114]).view(3, 1, 1)
            image = (image * weights).sum(0, keepdim=True).expand(3, 32, 32)
        return (image - self.mean) / self.std, 0

    @staticmethod
    def box():
        for _ in range(10):
            area = 32 * 32 * torch.empty(1).uniform_(0.8, 1).item()
            ratio = torch.exp(torch.empty(1).uniform_(-0.28768207, 0.28768207)).item()
            width, height = round((area * ratio) ** 0.5), round((area / ratio) ** 0.5)
            if 0 < width <= 32 and 0 < height <= 32:
                top = torch.randint(0, 32 - height + 1, (1,)).item()
                return top, torch.randint(0, 32 - width + 1, (1,)).item(), height, width
        return 0, 0, 32, 32


def sup_con(features, labels, temperature=0.07):
    """Computes SupCon of N x 2 x D features as the authors' code does.

    It takes a 2N x 2N matrix, without the pairs of an anchor with itself.
    """
    n = features.shape[0]
    mask = labels.view(-1, 1).eq(labels.view(1, -1)).float()
    both = torch.cat(torch.unbind(features, 1))
    similarity = both @ both.T / temperature
    similarity = similarity - similarity.max(1, keepdim=True)[0].detach()
    mask = mask.repeat(2, 2)
    others = torch.scatter(torch.ones_like(mask), 1, torch.arange(2 * n, device=mask.device).view(-1, 1), 0)
    mask = mask * others
    log_share = similarity - (similarity.exp() * others).sum(1, keepdim=True).log()
    return -((mask * log_share).sum(1) / mask.sum(1)).view(2, n).mean()


def module_from(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def networks(options):
    if options.reference is None:
        folder = pathlib.Path(__file__).absolute().parent
        ours = module_from(folder.parent.parent / "tests" / "fixtures" / "networks.py")
        return ours.ResNet18(options.width, CLASSES), ours.LittleUNet(options.width), sup_con
    if options.width != 64:
        sys.exit(f"reference_step.py: the authors' ResNet-18 has width 64, got {options.width}; leave out --reference")
    resnet = module_from(options.reference / "core" / "models" / "resnet.py")
    unet = module_from(options.reference / "utils" / "unet.py")
    losses = module_from(options.reference / "utils" / "losses.py")
    return (resnet.ResNet(18, CLASSES),
            unet.UNetLittle(args=None, n_channels=3, n_classes=3, first_channels=options.width),
            losses.SupConLoss())


def read_tensors(path):
    """Reads a safetensors file of float32 and int64 tensors."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8:8 + length])
    types = {"F32": torch.float32, "I64": torch.int64}
    found = {}
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            part = bytearray(data[8 + length + begin:8 + length + end])
            found[name] = torch.frombuffer(part, dtype=types[entry["dtype"]]).view(entry["shape"])
    return found


class Clock:
    """Measures the seconds between calls of `take`, by part, and waits for a GPU.

    If `wanted` is not empty, other parts are ignored.
    """

    def __init__(self, device, wanted=()):
        self.device, self.wanted, self.parts = device, wanted, {}
        self.last = self.now()

    def now(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def take(self, part):
        if self.wanted and part not in self.wanted:
            return
        now = self.now()
        self.parts.setdefault(part, []).append(now - self.last)
        self.last = now


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=pathlib.Path, required=True)
    parser.add_argument("--reference", type=pathlib.Path)
    parser.add_argument("--permutation", required=True)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--epoch_images", type=int, default=0)
    options = parser.parse_args()
    if options.threads > 0:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)

    victim, transform, supcon = networks(options)
    for module, name in ((victim, "victim"), (transform, "transform")):
        missing, unexpected = module.load_state_dict(read_tensors(options.folder / f"{name}.safetensors"), strict=False)
        if unexpected or any(not tensor.endswith("num_batches_tracked") for tensor in missing):
            sys.exit(f"reference_step.py: {name}.safetensors does not match the network "
                     f"(missing {missing}, unexpected {unexpected})")
    victim.to(device).eval()
    transform.to(device).train()
    for parameter in victim.parameters():
        parameter.requires_grad = False
    permutation = torch.tensor([int(name) for name in options.permutation.split(",")], device=device)
    bce = nn.BCELoss()
    optimizer = torch.optim.SGD(transform.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    images = Images(options.folder / "images.bin")

    def remapped(logits):
        probabilities = F.softmax(logits, 1)
        return torch.zeros_like(probabilities).scatter(1, permutation.repeat(len(probabilities), 1), probabilities)

    def step(x, clock):
        teacher = victim(x)
        labels = teacher.argmax(1)
        truth = torch.zeros_like(teacher).scatter_(1, labels.view(-1, 1), 1)
        clock.take("teacher")
        rewritten = torch.clamp(transform(x), 0, 1)
        clock.take("transform, forward")
        answer = remapped(victim(rewritten))
        clock.take("victim, forward")
        features = F.normalize(rewritten.view(len(x), -1), dim=1)
        loss = bce(answer, truth) + 0.1 * supcon(torch.stack([features, features], 1), labels)
        clock.take("losses")
        optimizer.zero_grad()
        loss.backward()
        clock.take("backward")
        optimizer.step()
        clock.take("optimiser")
        return loss

    plain = images.bytes[:options.batch].float().div(255).sub(images.mean).div(images.std).to(device)
    # The loss before any training shows that both sides do the same arithmetic. In full float32, because the other side
    # computes it on the CPU.
    allow_tf32, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
    first_loss = step(plain, Clock(device)).item()
    torch.backends.cudnn.allow_tf32 = allow_tf32

    def loader_of(dataset):
        return DataLoader(dataset, options.batch, shuffle=True, num_workers=4, drop_last=True,
                          pin_memory=device.type == "cuda")

    def epoch(*wanted):
        clock = None
        for i, (batch, _) in enumerate(loader_of(images)):
            if i > 0:
                x = batch.to(device)
                clock.take("batch")
                step(x, clock)
                clock.take("step")
            if i == options.steps:
                return clock.parts
            clock = clock or Clock(device, wanted)  # from here on: the loader has started its processes
        sys.exit(f"reference_step.py: {len(images)} images are too few for {options.steps} steps")

    # On a GPU, each part waits for the previous one. A step by itself waits once.
    parts = {**epoch("batch", "teacher", "transform, forward", "victim, forward", "losses", "backward", "optimiser"),
             **epoch("step")}

    if options.epoch_images > 0:
        loader = loader_of(Images(options.folder / "images.bin", options.epoch_images))
        untimed = Clock(device, ["no part"])
        for _ in range(2):
            clock = Clock(device)
            for batch, _ in loader:
                step(batch.to(device), untimed)
            clock.take("epoch")
        parts.update(clock.parts)

    transform.eval()
    with torch.no_grad():
        clock = Clock(device)
        for i in range(options.steps + 1):
            remapped(victim(torch.clamp(transform(plain), 0, 1)))
            clock.take("inference")
    parts["inference"] = clock.parts["inference"][1:]
    print(json.dumps({"torch": torch.__version__, "threads": torch.get_num_threads(), "first_loss": first_loss,
                      "seconds": parts}))


if __name__ == "__main__":
    main()
