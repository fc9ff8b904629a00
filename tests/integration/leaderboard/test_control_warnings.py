"""A board whose controls score more than they must warns, and its build can fail."""

from __future__ import annotations

import json

import pytest
from knbench.benchmark.core.files import json_text
from knbench.benchmark.core.records import to_json
from knbench.benchmark.results.controls import LIMITS
from knbench.benchmark.running.run_folder import finish
from knbench.leaderboard.build import build_site

from tests.conftest import called
from tests.factories import manifest, observation, probe, record

GOOD, BAD = observation(-1.0, -9.0), observation(-9.0, -1.0, generated="y")
KEPT = observation(-1.0, -9.0, kl=0.0)


def store(folder, share_of_parrot):
    """Write runs of rome and parrot, of which parrot has a share of the edits right and keeps everything."""
    for editor, share in (("rome", 1.0), ("parrot", share_of_parrot)):
        records = [
            record(
                i,
                [
                    probe("reliability", GOOD if i < 20 * share else BAD, before=BAD),
                    probe("neighbourhood", KEPT, before=KEPT, expect="unchanged"),
                ],
            )
            for i in range(20)
        ]
        target = folder / editor
        target.mkdir(parents=True)
        about = manifest(editor, "capital", "fact", cases=20)
        (target / "manifest.json").write_text(json_text(to_json(about)))
        (target / "records.jsonl").write_text("".join(json.dumps(to_json(line)) + "\n" for line in records))
        finish(target)
    return folder


@pytest.mark.parametrize(("share", "warned"), [(0.0, False), (0.05, False), (0.1, True)])
def test_board_warns_if_a_control_exceeds_its_limit(tmp_path, share, warned):
    found = []
    page = build_site([store(tmp_path / "runs", share)], tmp_path / "site", on_violation=found.append).read_text()
    assert ("Do not trust this order" in page) == warned
    assert bool(found) == warned
    assert not warned or "the control 'parrot' scores 10.0; at most 5 is plausible" in found[0]
    assert LIMITS["parrot"] == 0.05


def test_build_fails_on_request(tmp_path, capsys):
    folder = store(tmp_path / "runs", 1.0)
    status, _, err = called(capsys, "site", "build", folder, "--output", tmp_path / "site")
    assert status == 0
    assert "do not trust the board" in err
    status, _, _ = called(capsys, "site", "build", folder, "--output", tmp_path / "site", "--check-controls")
    assert status == 2
    assert (tmp_path / "site" / "index.html").exists()
