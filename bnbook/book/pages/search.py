"""The search tells a transformer from a transform.

Sphinx's stemmer makes one word of both. Here a word in -er, which names who or what does
something, only loses the s of its plural; all others are stemmed as before.
"""

from __future__ import annotations

import re

from sphinx.application import Sphinx
from sphinx.search.en import SearchEnglish

SCRIPT = """
const Porter = Stemmer;
Stemmer = function () {
  const porter = new Porter();
  this.stemWord = (word) =>
    /ers?$/.test(word) ? word.replace(/s$/, "") : porter.stemWord(word);
};
"""
"""The same in the reader's browser."""


class Words(SearchEnglish):
    """English, in which what does something is another word than what it does."""

    js_stemmer_code = SearchEnglish.js_stemmer_code + SCRIPT

    def stem(self, word: str) -> str:
        """Return what a word is found by."""
        word = word.lower()
        return word.removesuffix("s") if re.search("ers?$", word) else super().stem(word)


def setup(app: Sphinx) -> None:
    """Take the place of Sphinx's English."""
    app.add_search_language(Words)
