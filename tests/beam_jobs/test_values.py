"""Rows and records that went over the disk are what they were, in their own types."""

from __future__ import annotations

import pickle

import msgpack
import pytest

from beam_jobs.job import Record
from beam_jobs.values import pack, unpack


def test_a_value_comes_back_in_its_own_types():
    value = (
        7,
        ("caption", {"box": [1, 2.5], "size": (640, 480), "rle": b"\x00\xff", 3: None, "flag": True, "lone": "\udcff"}),
        [2**63, -(2**63), 2**80, -(2**80), float("inf"), ""],
        ((), ([],)),
    )

    back = unpack(pack(value))

    assert repr(back) == repr(value)  # repr tells lists from tuples and 1 from 1.0 and True


def test_a_record_comes_back_whole():
    pair = (2**64 - 1, Record("train", "7/a", {"texts": ("a", "b"), "rows": [{"id": 1}]}, {"caption": 2}, "a.json"))

    back = unpack(pack(pair))

    assert back == pair
    assert isinstance(back[1], Record)
    assert isinstance(back[1].value["texts"], tuple)


def test_what_is_no_plain_value_is_refused_by_name():
    with pytest.raises(TypeError, match="a complex"):
        pack((1, {"place": complex(1, 2)}))


def test_a_pickle_is_not_read():
    with pytest.raises((ValueError, msgpack.UnpackException)):
        unpack(pickle.dumps(("key", [1])))
