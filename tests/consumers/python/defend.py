# What a user of the wheel writes; tools/check_consumers runs it in a new virtual environment.
import refine_defense
import torch
from torch import nn

model = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
images = torch.rand(300, 3, 32, 32)
defended = refine_defense.defend(model, images, out="defended.pt2", epoch=1, width=4, levels=2, no_probe=True)
served = refine_defense.load("defended.pt2").answers(images[:5])
assert torch.equal(served["logits"], defended(images[:5])) and served["alarm"].shape == (5,)
assert torch.allclose(served["undefended"], model.eval()(images[:5]), atol=1e-5)
print(defended.report["decision"], defended.threshold, refine_defense.inspect(defended.path)["accepted"])
