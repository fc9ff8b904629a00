"""The sentences below a table of results."""

from __future__ import annotations

from knbench.benchmark.commands.result_tables import explanation

from tests.factories import observation, probe, record, result


def linguistic_result(before, **protocol):
    """The result of three cases, with an observation of the unedited model."""
    records = [
        record(
            i,
            [
                probe("reliability", observation(-1.0, -9.0), before=before),
                probe("neighbourhood", observation(kl=0.1), expect="unchanged", before=observation(kl=0.0)),
            ],
        )
        for i in range(3)
    ]
    return result(records, kind="linguistic", **protocol)


def test_a_missing_edit_score_is_explained():
    prefers_new, prefers_true = observation(-1.0, -9.0), observation(-9.0, -1.0)
    undefined = linguistic_result(prefers_new)
    assert undefined.edit_score is None
    text = "No edit score: before any edit, the model fulfils each criterion that an edit is meant to fulfil."
    assert f"{text} --known-only leaves such cases out." in explanation([undefined])
    known = linguistic_result(prefers_new, known_only=True, known_by="success")
    assert text in explanation([known])
    assert "leaves such cases out" not in explanation([known])
    defined = linguistic_result(prefers_true)
    assert defined.edit_score is not None
    assert "No edit score" not in explanation([defined])
