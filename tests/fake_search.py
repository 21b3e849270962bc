"""An experiment with a plan, without torch: a second round about the best of the first."""

from dataclasses import dataclass, replace

from bnbook.experiments.experiment import Experiment
from tests import fake


@dataclass(frozen=True)
class Config(fake.Config):
    """Each rate with the first seed; then the rate with the largest value, with the others."""

    seeds: tuple = (0, 1, 2)
    rates: tuple = (3.5, 3.6, 3.7, 3.8, 3.9)
    places: tuple = ("here",)


def split(config):
    return [replace(config, seeds=(s,), rates=(r,)) for s in config.seeds for r in config.rates]


def rounds(config, table):
    done = set() if table.empty else set(zip(table["seed"], table["rate"], strict=True))
    first = [run for run in split(config) if run.seeds == config.seeds[:1]]
    if missing := [run for run in first if (run.seeds[0], run.rates[0]) not in done]:
        return missing
    last = table[(table["step"] > 0) & (table["seed"] == config.seeds[0])]
    best = last.set_index("rate")["value"].idxmax()
    rest = [run for run in split(config) if run.rates == (best,)]
    return [run for run in rest if (run.seeds[0], best) not in done]


def train(parts, session):
    return fake.train(parts, session)


EXPERIMENT = Experiment(
    name="fake_search", title="A search", profiles={"quick": Config()}, columns={}, claims=(),
    facts=lambda table: {}, figures={}, axes=("seeds", "rates"), fused=("seeds", "rates"),
    train=train, split=split, rounds=rounds,
)  # fmt: skip
