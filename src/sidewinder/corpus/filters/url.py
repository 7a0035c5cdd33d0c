"""datatrove's URL filter on small memory and without the network.

Its own lists hold 4.6 million domains: as Python strings 0.7 GB, here 8 bytes each. They are read from the package's
archive, not unpacked into a cache folder.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterable, Iterator

import numpy as np
import xxhash
from datatrove.data import Document
from datatrove.pipeline.filters import URLFilter
from datatrove.pipeline.filters.url_filter import get_list
from datatrove.utils._import_utils import ASSETS_PATH

from sidewinder.config.filters import Url
from sidewinder.corpus.filters.block import Decision
from sidewinder.corpus.filters.lists import read_list

ARCHIVE = "url_filterblacklistsv0_3_0.tar.gz"
WORD_LISTS = ("banned_words", "banned_subwords", "soft_banned_words")


class Hashes:
    """A set of texts kept as sorted 64-bit hashes: one foreign text in 10¹² is taken for a member of five million."""

    def __init__(self, texts: Iterable[bytes]) -> None:
        self.hashes = np.sort(np.fromiter(map(xxhash.xxh3_64_intdigest, texts), np.uint64))

    def __contains__(self, text: str) -> bool:
        key = np.uint64(xxhash.xxh3_64_intdigest(text.encode()))
        place = int(np.searchsorted(self.hashes, key))
        return place < len(self.hashes) and bool(self.hashes[place] == key)


class UrlFilter(URLFilter):
    """Decides by metadata `url`."""

    def __init__(self, config: Url) -> None:
        from tldextract import TLDExtract

        lists = {name: read_list(getattr(config, name)) for name in WORD_LISTS}
        super().__init__(config.soft_word_threshold, **lists, use_integrated_lists=config.use_integrated_lists)
        self.without_url, self._downloaded = config.without_url, False
        # The list of public suffixes that the package brings along; by default it would fetch a new one.
        self.tldextractor = TLDExtract(suffix_list_urls=(), cache_dir=None)
        self.block_listed_domains = Hashes(self._blocked(config.domains, "domains"))
        self.block_listed_url = Hashes(self._blocked(config.urls, "urls"))

    def download_data(self) -> None:
        """Called by datatrove before the first document: the word lists it brings along."""
        if self._downloaded or not self.use_integrated_lists:
            return
        for name in WORD_LISTS:
            setattr(self, name, get_list(ASSETS_PATH, f"{name}.txt", getattr(self, name)))
        for word in sorted(self.banned_subwords):
            self.banned_subwords_automaton.add_word(word, len(self.banned_subwords_automaton))
        self.banned_subwords_automaton.make_automaton()
        self._downloaded = True

    def filter(self, document: Document) -> Decision:
        if not document.metadata.get("url"):
            return True if self.without_url == "keep" else (False, "no_url")
        return super().filter(document)

    def _blocked(self, path: str | None, name: str) -> Iterator[bytes]:
        """Entries of the user's list, then of the integrated one."""
        for entry in read_list(path):
            yield entry.encode()
        if not self.use_integrated_lists:
            return
        with tarfile.open(os.path.join(ASSETS_PATH, ARCHIVE), "r:gz") as archive:
            stream = archive.extractfile(name)
            assert stream is not None
            for line in stream:
                if not line.startswith(b"#"):
                    yield line.strip()
