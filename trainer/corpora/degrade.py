# SPDX-License-Identifier: Apache-2.0
"""Degraded copies: the junk of a crawl, made from real documents of the corpus.

A copy keeps the domain, source and (to a character) the length in bytes of its original; its id is
the hash of its own text. So nothing but the text itself tells it from a clean document.
"""

import base64
import random
import re
from collections.abc import Iterator, Sequence

from .documents import MAX_BYTES, Document, cut_text, num_bytes, seeded_hash, text_id

KINDS = ("shuffled", "dump", "boilerplate", "mojibake", "fragments")

_BOILERPLATE = (
    "We use cookies to improve your experience. Accept all | Reject | Settings",
    "Home | Products | Support | Blog | Contact | Login | Register",
    "Share on social media: Like - Tweet - Pin - Email this page to a friend",
    "Copyright. All rights reserved. Terms of use. Privacy policy. Sitemap.",
    "Subscribe to our newsletter and never miss an update!",
    "You must be logged in to post a comment. Click here to log in.",
    "Related articles you may also like: read more >> read more >> read more >>",
    "JavaScript is disabled in your browser. Please enable it to view this page.",
    "Page 1 of 1 - Previous - Next - Back to top - Print this page",
    "ADVERTISEMENT - scroll down to continue reading - ADVERTISEMENT",
    "404 Not Found. The page you are looking for has moved. Search this site:",
    "Loading... please wait... Loading... please wait...",
)
# What a word processor makes of plain ASCII, so that a wrong decoding has something to spoil.
_TYPOGRAPHY = {'"': "\u201d", "'": "\u2019", "-": "\u2013", "*": "\u2022", "|": "\u00a6"}
_ACCENTS = {"a": "\u00e4", "e": "\u00e9", "i": "\u00ee", "o": "\u00f6", "u": "\u00fc"}
# Bytes 0x80..0x9f as windows-1252 shows them; the five it leaves undefined stay as in latin-1.
_WINDOWS = {
    byte: bytes([byte]).decode("cp1252", errors="ignore") or byte for byte in range(128, 160)
}


def degraded_copies(
    documents: Sequence[Document], share: float, seed: int
) -> tuple[list[Document], list[str]]:
    """Make degraded copies so that they are `share` of all documents, originals included.

    Args:
        documents: clean documents; each is copied at most once.
        share: of the documents afterwards, in [0, 0.5].
        seed: chooses originals and kinds.

    Returns:
        The copies and their kinds; no copy equals a document or another copy.
    """
    wanted = round(len(documents) * share / (1.0 - share))
    order = sorted(documents, key=lambda document: seeded_hash("copy/" + document.id, seed))
    seen = {document.id for document in documents}
    copies: list[Document] = []
    kinds: list[str] = []
    for position, original in enumerate(order):
        if len(copies) == wanted:
            break
        partner = order[position - 1].text
        for kind, text in _attempts(original, partner, seed):
            if (copy_id := text_id(text)) not in seen:
                seen.add(copy_id)
                copies.append(original._replace(text=text, id=copy_id))
                kinds.append(kind)
                break
    return copies, kinds


def degrade(text: str, kind: str, rng: random.Random, partner: str = "") -> str:
    """Return a degraded text as long as `text` in bytes (up to three fewer), at most MAX_BYTES.

    Args:
        text: the original, not empty.
        kind: one of KINDS.
        rng: decides every detail.
        partner: another document, whose pieces `fragments` interleaves.
    """
    if kind == "fragments":
        spoilt = _fragments(text, partner or text, rng)
    else:
        spoilt = _MAKERS[kind](text, rng)
    return cut_text(spoilt, min(num_bytes(text), MAX_BYTES))


def _attempts(original: Document, partner: str, seed: int) -> Iterator[tuple[str, str]]:
    """Yield (kind, text) for every kind, starting with a random one; the caller takes one."""
    rng = random.Random(seeded_hash("kind/" + original.id, seed))
    first = rng.randrange(len(KINDS))
    for position in range(len(KINDS)):
        kind = KINDS[(first + position) % len(KINDS)]
        yield kind, degrade(original.text, kind, rng, partner)


def _shuffle_words(text: str, rng: random.Random) -> str:
    """Words in random order; white space stays where it is."""
    parts = re.split(r"(\s+)", text)
    words = parts[::2]
    rng.shuffle(words)
    parts[::2] = words
    return "".join(parts)


def _dump(text: str, rng: random.Random) -> str:
    """The text's bytes as hexadecimal, as an editor's dump with offsets, or as base64."""
    raw = text.encode()
    form = rng.randrange(3)
    if form == 0:
        digits = raw.hex()
        return "\n".join(digits[start : start + 64] for start in range(0, len(digits), 64))
    if form == 1:
        return base64.encodebytes(raw).decode()
    rows = (raw[start : start + 16] for start in range(0, len(raw), 16))
    return "\n".join(f"{16 * row:08x}  {part.hex(' ')}" for row, part in enumerate(rows))


def _boilerplate(text: str, rng: random.Random) -> str:
    """A page's frame, over and over, with two short lines of the document between."""
    lines = [line.strip()[:80] for line in text.splitlines() if line.strip()]
    page = rng.sample(_BOILERPLATE, rng.randint(3, 6)) + rng.sample(lines, min(2, len(lines)))
    rng.shuffle(page)
    frame = "\n".join(page) + "\n"
    return frame * (num_bytes(text) // num_bytes(frame) + 1)


def _mojibake(text: str, rng: random.Random) -> str:
    """UTF-8 read as windows-1252, once or twice, after typographic marks and one accent."""
    letter = rng.choice(sorted(_ACCENTS))
    text = text.translate({ord(plain): mark for plain, mark in _TYPOGRAPHY.items()})
    text = text.replace(letter, _ACCENTS[letter])
    for _ in range(rng.randint(1, 2)):
        text = text.encode().decode("latin-1").translate(_WINDOWS)
    return text


def _fragments(text: str, partner: str, rng: random.Random) -> str:
    """Pieces of two documents, cut in the middle of words and laid one after the other."""
    pieces: list[str] = []
    left = num_bytes(text)
    while left > 0:
        origin = (text, partner)[len(pieces) % 2]
        length = rng.randint(20, 160)
        start = rng.randrange(max(1, len(origin) - length))
        pieces.append(origin[start : start + length] + rng.choice(("", " ", "\n", "...")))
        left -= num_bytes(pieces[-1])
    return "".join(pieces)


_MAKERS = {
    "shuffled": _shuffle_words,
    "dump": _dump,
    "boilerplate": _boilerplate,
    "mojibake": _mojibake,
}
