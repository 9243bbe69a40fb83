"""Parameters of builds that cannot be meant are refused by name, before anything is hashed."""

from __future__ import annotations

import pytest

from flows.checks import check_beam_options, check_sources
from flows.tokenizer import pipeline_of
from tests.flows.commands import FIXTURE
from uio2.pipeline.stage import UsageError
from uio2.pipeline.store import Store


def test_folders_are_what_their_parameters_say(tmp_path):
    images, annotations = str(FIXTURE / "images"), str(FIXTURE / "annotations")
    check_sources({"images": images, "annotations": annotations})
    (tmp_path / "empty").mkdir()
    for given, words in (
        ({"images": images, "annotations": str(tmp_path / "none")}, "annotations = .*none: no such file or folder"),
        ({"images": str(tmp_path / "empty")}, "images = .*empty: it holds no files"),
        ({"images": annotations}, "images = .*annotations: its files are .json; expected something other than texts"),
        ({"annotations": images}, "annotations = .*images: its files are .*; expected some of .json"),
    ):
        with pytest.raises(UsageError, match=words):
            check_sources(given)
    with pytest.raises(UsageError, match=r"(?s)images = .*\nannotations = "):
        check_sources({"images": annotations, "annotations": images})


def test_beam_is_asked_whether_it_takes_the_options():
    check_beam_options("--runner=FnApiRunner --direct_running_mode=in_memory")
    for options, words in (
        ("DataflowRunner", "expected Beam's flags"),
        ("--runner='FnApiRunner", "No closing quotation"),
        ("--runner=FnApiRuner", "FnApiRuner"),
        ("--runner=DataflowRunner", "Missing required option: project"),
        ("--direct_running_mode=multi_threading", "loses records"),
    ):
        with pytest.raises(UsageError, match=words):
            check_beam_options(options)


def test_a_tokenizer_needs_datasets_that_are_there(tmp_path):
    store = Store(tmp_path / "store").prepare()
    for names, folders, words in (
        ((), {}, "datasets: none given"),
        (("coko",), {}, "there is no 'coko'"),
        (("alpaca",), {}, "'alpaca' is not in the store .*uio2 build alpaca"),
        ((), {"alpaca": str(tmp_path)}, "holds no dataset_info.json"),
    ):
        with pytest.raises(UsageError, match=words):
            pipeline_of(names, folders, store=store, settings={})
