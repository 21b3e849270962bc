"""BN in a small Transformer: batches, reading in both modes, and what is measured."""

from dataclasses import replace

import pytest
import torch

from bnbook.errors import BnbookError
from bnbook.experiments.transformer import claims
from bnbook.experiments.transformer import experiment as module
from bnbook.experiments.transformer.claims import COUNTED, IMAGES, POST, PRE, TEXT, arm
from bnbook.experiments.transformer.experiment import EXPERIMENT
from bnbook.layers.norm import BatchNorm, FusedBatchNorm
from bnbook.networks.transformer import Sizes, TokenNorm, Transformer
from bnbook.setups import sequences
from bnbook.tables import choosing
from bnbook.tables.arms import BN, LAYER_NORM

SMALL = {
    "seeds": (0, 1), "steps": 4, "learning_rates": (0.01,), "width": 4, "heads": 1,
    "batch_size": 2, "length": 8, "shortest": 2, "images": 2, "channels": (2,), "layers": 1,
    "validation": 4, "evaluated": 4,
}  # fmt: skip
IMPOSSIBLE = [
    ({"batch_size": 1}, "batch_size must be 2 or more"),
    ({"length": 8, "shortest": 9}, "shortest at most length"),
    ({"heads": 3}, "width a multiple of heads"),
    ({"arms": ("nothing",)}, "arms must be among"),
    ({"seeds": (1, 100)}, r"\[100\] would do both"),
]
SIZES = Sizes(symbols=7, length=12, width=8, heads=2, layers=2)


@pytest.fixture
def symbols():
    return torch.randint(7, (3, 12), generator=torch.Generator().manual_seed(0))


def network(norm, **options):
    """A Transformer whose norms have seen a few batches."""
    model = Transformer(module.make_norm(norm, 0), 0, SIZES, **options)
    generator = torch.Generator().manual_seed(1)
    for _ in range(20):
        model(torch.randint(7, (6, 12), generator=generator))
    return model


@pytest.mark.parametrize("norm", [BN, LAYER_NORM, claims.POWER_NORM, claims.NONE])
@pytest.mark.parametrize("place", [PRE, POST])
def test_one_symbol_at_a_time_is_the_whole_sequence_with_running_statistics(norm, place, symbols):
    model = network(norm, post=place == POST).double().eval()
    whole = model(symbols)
    torch.testing.assert_close(module.decoded(model, symbols), whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("place", [PRE, POST])
def test_one_symbol_at_a_time_in_training_takes_the_statistics_of_its_step(place, symbols):
    """Which is what a norm gives that takes the statistics of every position apart."""

    class OfEachPosition(torch.nn.Module):
        def __init__(self, width):
            super().__init__()
            self.own = BatchNorm(width)

        def forward(self, x):
            steps = x.view(3, 12, -1).unbind(1)
            return torch.stack([self.own(step) for step in steps], 1).flatten(0, 1)

    one = Transformer(BatchNorm, 0, SIZES, post=place == POST).double().train()
    other = Transformer(OfEachPosition, 0, SIZES, post=place == POST).double().train()
    torch.testing.assert_close(module.decoded(one, symbols), other(symbols), rtol=1e-9, atol=1e-9)
    assert not torch.allclose(module.decoded(one, symbols), one(symbols), atol=1e-2)
    with pytest.raises(BnbookError, match="two or more values"):
        module.decoded(one, symbols[:1])


def test_statistics_of_a_batch_let_the_future_through(symbols):
    """A causal network with BN over time is causal with running statistics alone."""
    changed = symbols.clone()
    changed[:, -1] = (changed[:, -1] + 1) % 7
    model = network(BN)
    for training, same in ((False, True), (True, False)):
        with sequences.mode(model, training):
            first, second = model(symbols)[:, :-1], model(changed)[:, :-1]
        assert torch.equal(first, second) == same


def test_padding_counts_only_where_it_is_said():
    x = torch.randn(4, 5, 3, dtype=torch.float64)
    real = torch.arange(5) < torch.tensor([[5], [2], [3], [1]])
    x[~real] += 100
    masked, counted = (TokenNorm(BatchNorm, 3, m).double() for m in (True, False))
    y = masked(x, real)
    torch.testing.assert_close(y[real].mean(0), torch.zeros(3, dtype=torch.float64))
    torch.testing.assert_close(y[real].var(0, correction=0), torch.ones(3).double(), rtol=1e-3,
                               atol=0)  # fmt: skip
    assert torch.equal(y[~real], x[~real])
    assert (counted(x, real)[real].mean(0) < -0.5).all()


def test_batches_are_windows_of_the_text_of_their_lengths():
    corpus = sequences.text("descriptions")
    batch = next(sequences.batches(corpus, 50, 16, 4, seed=3))
    lengths = batch.real.sum(1)
    assert (lengths.min(), lengths.max()) == (4, 16)
    assert (batch.given[~batch.real] == corpus.symbols - 1).all()
    windows = {tuple(w) for w in corpus.train.unfold(0, 5, 1).tolist()}
    for given, following in zip(batch.given, batch.following, strict=True):
        assert (*given[:4].tolist(), int(following[3])) in windows
        assert torch.equal(given[1:4], following[:3])
    again = next(sequences.batches(corpus, 50, 16, 4, seed=3))
    assert torch.equal(again.given, batch.given)
    for text in (corpus.train, corpus.validation, corpus.test):
        assert text.max() < corpus.symbols - 1
    assert len(corpus.train) + len(corpus.validation) == 37934


def test_words_and_pixels_are_sequences_too():
    words = sequences.words("descriptions")
    rare = words.symbols - 2
    assert 0.02 < (words.train == rare).float().mean() < 0.2
    pixels = sequences.pixels("digits", 17, 100)
    assert pixels.train.shape == (1337, 64)
    assert pixels.validation.shape == (100, 64)
    assert (pixels.test.min(), pixels.test.max()) == (0, 16)
    windows = sequences.windows(pixels.test, 63)
    assert torch.equal(windows.given[:, 1:], windows.following[:, :-1])


def test_read_is_the_mean_over_symbols(symbols):
    model = network(BN)
    found = sequences.Windows(symbols[:, :-1], symbols[:, 1:], torch.ones(3, 11, dtype=torch.bool))
    model.eval()
    scores = model(symbols[:, :-1])
    by_hand = torch.nn.functional.cross_entropy(scores.flatten(0, 1), symbols[:, 1:].flatten())
    before = {name: value.clone() for name, value in model.named_buffers()}
    assert module.read(model, found) == pytest.approx(sequences.bits(by_hand.detach()), rel=1e-5)
    module.read(model, found, of_batches=2)
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())
    assert not model.training


def test_adam_is_torchs_with_the_rate_that_is_said():
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(model.weight, 3.0)
    seen = []

    def look(step, losses):
        assert len(losses) == step
        seen.append(model.weight.detach().item())

    sequences.train(model, lambda: model.weight.sum(), 0.1, 20, look)
    shares = [0.5, 1.0, *(1 - k / 19 for k in range(1, 19))]
    expected = 3 - 0.1 * torch.tensor(shares).cumsum(0)  # with one gradient Adam steps by its rate
    torch.testing.assert_close(torch.tensor(seen), expected, rtol=1e-4, atol=1e-4)


def test_a_small_run_has_every_arm_and_what_belongs_to_it(small_table):
    ends = choosing.ends(small_table, "test")
    assert set(ends) == set(claims.ARMS)
    rows = choosing.last(small_table).set_index("arm")
    assert rows.loc[[claims.CONVNET], "test_batch"].isna().all()
    assert rows.loc[[arm(TEXT, LAYER_NORM, PRE)], "mean_distance"].isna().all()
    assert (rows.loc[[arm(TEXT, BN, POST), claims.CONVNET], "mean_distance"] > 0).all()
    assert rows["tunes"].equals(rows["seed"] == 100)
    assert claims.decode_difference(small_table) < 1e-5
    spread = (rows["test"] - rows["test_batch"]).abs()
    assert spread[arm(TEXT, BN, POST)].max() > 1e-3


def test_without_norm_the_batch_does_not_matter(small_table):
    rows = choosing.last(small_table).set_index("arm").loc[arm(TEXT, claims.NONE, PRE)]
    torch.testing.assert_close(
        torch.tensor(rows["decode"].to_numpy()), torch.tensor(rows["test"].to_numpy()), rtol=1e-5,
        atol=0,
    )  # fmt: skip


def test_claims_are_differences_and_ratios_of_what_is_chosen(small_table):
    best = {norm: claims.best(small_table, norm) for norm in (BN, LAYER_NORM)}
    ends = choosing.ends(small_table, "test")
    assert claims.gap(small_table).equals(ends[best[BN]] - ends[best[LAYER_NORM]])
    facts = EXPERIMENT.facts(small_table)
    bn = arm(TEXT, BN, POST)
    assert facts["test_characters_bn_post"]["value"] == pytest.approx(ends[bn].mean())
    rates = choosing.chosen(small_table)
    assert facts["rate_words_bn_pre"]["value"] == rates[arm(claims.WORDS, BN, PRE)]
    assert facts["rate_images_bn_convnet"]["value"] == rates[claims.CONVNET]
    ratio = claims.text_over_images(small_table)
    assert (ratio > 0).all()
    assert len(ratio) == 2


def test_arms_have_names_that_can_be_read():
    for name in claims.ARMS:
        read, norm, place = claims.parts(name)
        assert arm(read, norm, place) == name
    assert set(claims.NEEDED) <= set(claims.ARMS)
    assert claims.read(claims.CONVNET) == IMAGES
    assert module.make_norm(COUNTED, 0) is FusedBatchNorm


def test_a_run_depends_on_nothing_of_the_others(small):
    alone = replace(small, arms=(arm(TEXT, BN, POST),), seeds=(1,), learning_rates=(0.01,))
    first, second = (module.measure(alone, "cpu") for _ in range(2))
    assert first.equals(second)
