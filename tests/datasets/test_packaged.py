"""The text and the table that come with scikit-learn."""

import hashlib
from importlib import resources

import numpy as np
import pytest
import torch

from bnbook import datasets
from bnbook.datasets import packaged
from bnbook.errors import BnbookError


def spelled(characters):
    return "".join(datasets.ALPHABET[at] for at in characters.tolist())


def test_the_pieces_of_the_text_make_up_the_descriptions():
    train, test = (spelled(datasets.load_text("descriptions", s)) for s in datasets.SPLITS)
    folder = resources.files("sklearn.datasets.descr")
    names = sorted(f.name for f in folder.iterdir() if f.name.endswith(".rst"))
    whole = "".join((folder / name).read_text("utf-8") for name in names)
    assert len(train) + len(test) == len(whole) == 43054
    assert test[:512] == whole[7 * 512 : 8 * 512]
    assert train[: 7 * 512] == whole[: 7 * 512]
    assert train[7 * 512 :][:512] == whole[8 * 512 : 9 * 512]


def test_the_table_is_scikit_learns():
    from sklearn.datasets import load_breast_cancer

    source = load_breast_cancer()
    train, test = (datasets.load_table("breast-cancer", split) for split in datasets.SPLITS)
    assert train.values.shape == (455, 30)
    assert test.values.shape == (114, 30)
    assert torch.bincount(torch.cat((train.labels, test.labels))).tolist() == [212, 357]
    first = source.data[source.target == 0][0].astype(np.float32)
    np.testing.assert_array_equal(test.values[0].numpy(), first)
    both = np.concatenate([train.values.numpy(), test.values.numpy()])
    assert len(np.unique(both, axis=0)) == 569
    # Columns differ in size by decades: the values are as they are in the table.
    sizes = train.values.abs().mean(0)
    assert sizes.max() / sizes.min() > 1e5


def test_what_was_altered_is_refused(monkeypatch):
    real = packaged._descriptions()
    monkeypatch.setattr(packaged, "_descriptions", lambda: real.replace("wine", "beer", 1))
    split = "test" if packaged._is_test(real.index("wine") // packaged.PIECE) else "train"
    with pytest.raises(BnbookError, match="is altered: its sha256 is"):
        datasets.load_text("descriptions", split)
    reasons = {each.name: each.reason for each in datasets.available()}
    assert "is altered" in reasons["descriptions"]
    assert reasons["breast-cancer"] is None


@pytest.mark.parametrize("load", [datasets.load_text, datasets.load_table])
def test_unknown_names_and_splits(load):
    with pytest.raises(BnbookError, match="no such data set is called 'digits'"):
        load("digits")
    name = "descriptions" if load is datasets.load_text else "breast-cancer"
    with pytest.raises(BnbookError, match="no split is called 'dev'; there are: train, test"):
        load(name, "dev")


def test_digests_of_texts_tables_and_of_sets_together():
    assert datasets.digest("descriptions")[:16] == DIGESTS["descriptions"]
    assert datasets.digest("breast-cancer")[:16] == DIGESTS["breast-cancer"]
    parts = "".join(f"{datasets.digest(n)} {n}\n" for n in ("descriptions", "digits"))
    together = hashlib.sha256(parts.encode()).hexdigest()
    assert datasets.digest("descriptions and digits") == together
    assert datasets.scaling("descriptions") == "descriptions"
    assert datasets.scaling("descriptions and digits").endswith(datasets.scaling("digits"))


DIGESTS = {"descriptions": "79cc01d74e67d285", "breast-cancer": "e242a4fe7050e08a"}


@pytest.mark.parametrize("name", ["descriptions", "breast-cancer"])
def test_texts_and_tables_are_verified_like_images(name, monkeypatch):
    found = datasets.verify(name)
    assert found.digest == packaged.digest_of(name)
    assert found.reason is None
    monkeypatch.setitem(packaged.SHA256, f"{name}/test", "0" * 64)
    with pytest.raises(BnbookError, match=name):
        datasets.verify(name)
