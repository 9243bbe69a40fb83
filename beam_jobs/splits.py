"""Which split a record belongs to: what its file's name or folder says, else a hash of its key.

annotations/aokvqa_v1p0_val.json -> validation      train-clean-100/84/84.trans.txt -> train
alpaca.json -> no word of a split: 5% of the records, the same ones on every machine, are `validation`
"""

from __future__ import annotations

import hashlib
import re

WORDS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "eval": "validation",
    "test": "test",
}
_WORD = re.compile(r"[a-z]+")


def named_split(name: str) -> str:
    """The split a relative path names, by its last word that is one; "" where none is."""
    found = [WORDS[word] for word in _WORD.findall(name.lower()) if word in WORDS]
    return found[-1] if found else ""


def hashed_split(key: str, *, validation_fraction: float) -> str:
    """`validation` for this share of all keys, else `train`; depends on the key alone."""
    digest = hashlib.blake2b(f"split/{key}".encode(), digest_size=8).digest()
    return "validation" if int.from_bytes(digest, "big") < validation_fraction * 2**64 else "train"


def number_of(key: str) -> int:
    """A positive 63-bit integer for a key, where a dataset wants numbers and the source has names."""
    return int.from_bytes(hashlib.blake2b(f"id/{key}".encode(), digest_size=8).digest(), "big") >> 1
