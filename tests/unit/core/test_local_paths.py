"""Local paths lose their folders in published values."""

from __future__ import annotations

from pathlib import Path

import pytest
from knbench.benchmark.core.local_paths import public_value, without_folders


@pytest.mark.parametrize(
    ("text", "public"),
    [
        ("/home/me/wiki.txt", "wiki.txt"),
        ("~/data/wiki.txt", "wiki.txt"),
        ("../shared/wiki.txt", "wiki.txt"),
        ("./wiki.txt", "wiki.txt"),
        ("/home/me/a folder/", "a folder"),
        ("C:\\Users\\me\\wiki.txt", "wiki.txt"),
        ("D:/me/wiki.txt", "wiki.txt"),
        ("\\\\server\\share\\wiki.txt", "wiki.txt"),
        ("file:///home/me/wiki.txt", "file://wiki.txt"),
        ("datasets:/home/me/wiki", "datasets:wiki"),
        ("datasets:/home/me/wiki#en", "datasets:wiki#en"),
    ],
)
def test_a_path_loses_its_folders(text, public):
    assert without_folders(text) == public


@pytest.mark.parametrize(
    "text",
    [
        *(
            "self",
            "wiki.txt",
            "org/name",
            "datasets:org/name#20220301.en",
            "https://example.org/a/b",
            "",
            "/",
            "~",
            ".",
        ),
        *("{}", "The/a. {}", "/usr/bin says. {}", "a\n/home/me", "and/or", "km/h"),
    ],
)
def test_other_texts_are_unchanged(text):
    assert without_folders(text) == text


def test_a_relative_path_counts_if_it_exists(tmp_path, monkeypatch):
    (tmp_path / "people" / "me").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert without_folders("people/me") == "me"
    assert without_folders("people/you") == "people/you"
    assert without_folders("datasets:people/me") == "datasets:me"


def test_nested_values_are_converted():
    value = {"a": ("/home/me/x", 1), "b": {2: [Path("/home/me/y"), None, True, 0.5]}}
    assert public_value(value) == {"a": ["x", 1], "b": {"2": ["y", None, True, 0.5]}}
