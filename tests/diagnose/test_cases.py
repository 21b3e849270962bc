"""Questions and bug reports from the public record, each rebuilt from nothing, and its finding.

Each case has the shape of the report, with data and sizes of our own; no code is taken over. The
chapter names the sources.
"""

from typing import NamedTuple

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bnbook.diagnose import diagnose
from tests.diagnose.test_diagnose import draws, plain, settled


def photographs(count=8, size=16, shift=0.0, scale=1.0, seed=0):
    """Images whose channels have means and spreads of their own, with a class that can be seen."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        labels = torch.randint(4, (size,), generator=generator)
        x = torch.randn(size, 3, 12, 12, generator=generator) + labels[:, None, None, None]
        found.append((shift + scale * x, labels))
    return found


def convnet(momentum=0.1, **options):
    """Two convolutions with BN, and a linear layer."""
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8, momentum=momentum, **options), nn.ReLU(),
        nn.Conv2d(8, 8, 3, bias=False), nn.BatchNorm2d(8, momentum=momentum, **options), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip


def trained(model, batches, epochs=6, rate=0.05, **options):
    optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), rate, **options)
    for _ in range(epochs):
        for x, labels in batches:
            optimizer.zero_grad()
            F.cross_entropy(model(x), labels).backward()
            optimizer.step()
    return optimizer


def found(model, batches, optimizer=None, loss=F.cross_entropy):
    report = diagnose(model, batches, loss, optimizer)
    return report, {finding.kind: finding for finding in report.findings}


def test_a_network_put_into_eval_before_it_has_trained():
    """pytorch/pytorch#5406: train() and eval() disagree by far on a new network."""
    model = convnet().eval()
    report, kinds = found(model, photographs(shift=2))
    assert kinds["never updated"].layers == ("1", "4")
    assert report.stale > 0.5


def test_eval_gives_a_high_error_after_little_training():
    """pytorch/pytorch#4741, with the small momentum of ported code: the start is still there."""
    model = convnet(momentum=0.001)
    batches = photographs(shift=2, scale=3)
    trained(model, batches)
    report, kinds = found(model.eval(), batches)
    assert set(kinds["momentum too small"].layers) == {"1", "4"}
    assert "95% of the start left after 48 batches" in kinds["momentum too small"].found
    assert report.losses["running"] > 1.2 * report.losses["population"]


def test_all_predictions_the_same_because_the_running_variance_is_nan():
    """pytorch/pytorch#1206: training is fine, evaluation constant; one bad batch did it."""
    model, batches = convnet(), photographs()
    trained(model, batches)
    with torch.no_grad():
        model(torch.full_like(batches[0][0], torch.nan))
    report, kinds = found(model, batches)
    assert kinds["not finite"].layers == ("1", "4")
    assert list(kinds) == ["not finite"]
    assert report.losses["population"] < 1.5


def test_the_last_batch_of_an_epoch_has_one_example():
    """pytorch/pytorch#4534, meetps/pytorch-semseg#214: expected more than 1 value per channel."""
    data = torch.utils.data.TensorDataset(*(torch.cat(p) for p in zip(*draws(5), strict=True)))
    model = settled(plain(), draws())
    loader = torch.utils.data.DataLoader(torch.utils.data.Subset(data, range(129)), batch_size=32)
    _, kinds = found(model, loader)
    assert kinds["batch of one"].layers == ("1", "4")
    assert kinds["batch of one"].severity == "error"
    assert "drop_last=True" in kinds["batch of one"].cure


def test_a_backbone_with_requires_grad_off_still_drifts():
    """pytorch/pytorch#86590: fine-tuning moves the statistics of a backbone that was frozen."""
    model = settled(convnet(), photographs())
    model[:6].requires_grad_(False)
    _, kinds = found(model, photographs())
    assert kinds["frozen but drifting"].layers == ("1", "4")
    before = model[1].running_mean.clone()
    trained(model, photographs(shift=3), epochs=1)
    assert not before.allclose(model[1].running_mean)  # it does drift
    model[:6].eval()
    _, kinds = found(model, photographs(shift=3))
    assert "frozen but drifting" not in kinds


def test_a_momentum_of_09_carried_over():
    """Cadene/pretrained-models.pytorch#44: 0.9 weighs the new batch, not the old average."""
    model, batches = convnet(momentum=0.9), photographs(size=8)
    trained(model, batches)
    _, kinds = found(model, batches)
    assert kinds["momentum too large"].layers[0] in ("1", "4")
    assert kinds["momentum too large"].value == 0.9


def test_a_momentum_of_0_keeps_the_start():
    """svishwa/crowdcount-mcnn#64: momentum 0 never updates anything."""
    model, batches = convnet(momentum=0.0), photographs(shift=2)
    trained(model, batches)
    assert set(found(model, batches)[1]["never updated"].layers) == {"1", "4"}


class Recurrent(nn.Module):
    """The same cell, BN included, for three steps whose inputs grow."""

    def __init__(self):
        super().__init__()
        self.linear, self.norm = nn.Linear(8, 8, bias=False), nn.BatchNorm1d(8)
        self.out = nn.Linear(8, 3)

    def forward(self, x):
        for step in range(3):
            x = x + torch.relu(self.norm(self.linear(4**step * x)))
        return self.out(x)


def test_one_layer_for_every_step_of_a_recurrent_network():
    """pytorch/pytorch#1738: evaluation is much worse where BN is used several times in a pass."""
    torch.manual_seed(0)
    model = settled(Recurrent(), draws())
    report, kinds = found(model, draws())
    assert kinds["shared"].layer == "norm"
    assert kinds["shared"].found.startswith("3 uses in a pass")
    assert report.stale > 0.1


def test_convolutions_keep_a_bias_before_bn():
    """milesial/Pytorch-UNet#325: the bias before BN is redundant."""
    model = convnet()
    model[0], model[3] = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)
    report, kinds = found(settled(model, photographs()), photographs())
    assert list(kinds) == ["bias cancelled"]
    assert kinds["bias cancelled"].value == 16
    assert report.healthy


class Skipped(nn.Module):
    """A stem whose output a branch normalises and a skip takes as it is."""

    def __init__(self, last=None):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.branch = nn.Sequential(nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8))
        self.last = last or nn.Identity()
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = self.stem(x)
        y = self.last(x + self.branch(self.norm(x))).relu().mean((2, 3))
        return Parted(self.head(y), [y])


class Parted(NamedTuple):
    """What a network returns that has more than one output."""

    logits: torch.Tensor
    features: list


def test_a_skip_may_read_the_bias_that_a_branch_subtracts():
    torch.manual_seed(0)
    model, batches = settled(Skipped(), photographs()), photographs()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report, kinds = found(model, batches, loss=lambda out, y: F.cross_entropy(out.logits, y))
    assert kinds["bias cancelled"].layers == ("branch.2",)
    assert kinds["bias cancelled"].value == 8
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert report.passes < 30


def test_a_last_layer_subtracts_what_the_skip_carried_there():
    torch.manual_seed(0)
    model, batches = settled(Skipped(nn.BatchNorm2d(8)), photographs()), photographs()
    _, kinds = found(model, batches, loss=lambda out, y: F.cross_entropy(out.logits, y))
    assert set(kinds["bias cancelled"].layers) == {"norm", "branch.2"}


def test_a_bias_before_bn_with_nothing_finite_to_see_it_by():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.LazyLinear(4))
    batches = [(x.clone().fill_(torch.nan), y) for x, y in photographs()]
    model(batches[0][0])
    assert "bias cancelled" in found(model, batches)[1]


def test_weight_decay_on_gamma_and_beta():
    """ultralytics/yolov5#4104: why are BN's weights in a group without decay?"""
    model, batches = settled(convnet(), photographs()), photographs()
    every = torch.optim.SGD(model.parameters(), 0.01, weight_decay=5e-4)
    assert set(found(model, batches, every)[1]["decay on gamma and beta"].layers) == {"1", "4"}
    groups = [{"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
              {"params": [p for p in model.parameters() if p.ndim > 1]}]  # fmt: skip
    apart = torch.optim.SGD(groups, 0.01, weight_decay=5e-4)
    assert found(model, batches, apart)[1] == {}


def test_averaged_weights_with_the_statistics_of_none_of_them():
    """mosaicml/composer#624: averaged weights do poorly, for no network ever had them."""
    batches = photographs()
    model = convnet()
    mean = torch.optim.swa_utils.AveragedModel(model)
    for _ in range(3):
        mean.update_parameters(model)
        trained(model, batches, epochs=2, rate=1.0)
    mean.update_parameters(model)  # averages parameters, and takes the last network's buffers
    _, kinds = found(mean, batches)
    assert {"module.1", "module.4"} & set(kinds["other statistics"].layers)
    torch.optim.swa_utils.update_bn(batches, mean)
    assert found(mean, batches)[1] == {}


def test_two_processes_with_two_images_each_are_not_one_with_four():
    """fundamentalvision/BEVFormer#136, pytorch/pytorch#2584: small batches on each GPU."""
    model = plain(width=16)
    whole = draws(16, size=16, width=16)
    apart = [(x[i : i + 2], y[i : i + 2]) for x, y in whole[:8] for i in range(0, 16, 2)][:32]
    settled(model, whole)
    assert found(model, whole)[1] == {}
    report, kinds = found(model, apart)
    assert set(kinds["batches too small"].layers) == {"1", "4"}
    assert "SyncBatchNorm" in kinds["batches too small"].cure
    assert report.noise > 3 * found(model, whole)[0].noise


def test_accuracy_depends_on_the_order_of_the_test_set():
    """pytorch/pytorch#58986, xu-ji/IIC#49: with shuffling off at test time the score changes."""
    torch.manual_seed(0)
    model = convnet(track_running_stats=False)
    batches = photographs()
    trained(model, batches)
    _, kinds = found(model.eval(), batches)
    assert set(kinds["depends on companions"].layers) == {"1", "4"}


def test_statistics_of_one_domain_in_another():
    """Britefury/self-ensemble-visual-domain-adapt-photo#3: statistics for each domain."""
    model = convnet()
    trained(model, photographs())
    _, kinds = found(model, photographs(shift=4, scale=2, seed=1))
    assert "1" in kinds["other statistics"].layers
    assert found(model, photographs())[1].keys() <= {"momentum too small"}


def test_images_of_one_class_after_the_other():
    """happynear/NormFace#4, facebookarchive/C3D#277: batches that are not shuffled."""
    x, labels = (torch.cat(part) for part in zip(*photographs(16), strict=True))
    order = labels.argsort(stable=True)
    model = settled(convnet(), photographs(16))
    batches = list(zip(x[order].split(16), labels[order].split(16), strict=True))
    _, kinds = found(model, batches)
    assert kinds["batches unlike each other"].layer == "1"


@pytest.mark.parametrize("share", [0.5, 0.3])
def test_dropout_shifts_the_variance(share):
    """luigibonati/mlcolvar#205 and Li et al. 2018: dropout before BN."""
    model = plain(width=16)
    model.insert(3, nn.Dropout(share))
    batches = draws(16, width=16)
    _, kinds = found(settled(model, batches), batches)
    assert kinds["dropout before"].layer == "5"
    # kept units are divided by 1 - p, which adds p / (1 - p) E[x^2] to the variance of each
    x = torch.cat([model[:3](x) for x, _ in batches]).detach()
    weight = model[4].weight.detach()
    more = share / (1 - share) * x.square().mean(0) @ weight.T.square()
    factor = (1 + more / (x @ weight.T).var(0)).log().median().exp()
    assert kinds["dropout before"].value == pytest.approx(float(factor), rel=0.1)
