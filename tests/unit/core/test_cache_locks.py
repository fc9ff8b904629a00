"""A file of a cache is computed by one of several processes, and a killed one blocks no other."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest
from knbench.benchmark.core.files import compute_once, exclusive

CHILD = """
import os, sys, time
from pathlib import Path
from knbench.benchmark.core.files import compute_once, write_text

folder = Path(sys.argv[1])

def compute():
    with (folder / "computed").open("a") as stream:
        stream.write(f"{os.getpid()}\\n")
    while not (folder / "go").exists():
        time.sleep(0.01)
    write_text(folder / "cache" / "value", str(os.getpid()))

print(compute_once(folder / "cache" / "value", compute).read_text())
"""


def start(folder):
    return subprocess.Popen([sys.executable, "-c", CHILD, str(folder)], stdout=subprocess.PIPE, text=True)


def computed(folder):
    path = folder / "computed"
    return path.read_text().split() if path.exists() else []


def wait_for(condition):
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_one_of_several_processes_computes_and_the_others_read(tmp_path):
    children = [start(tmp_path) for _ in range(3)]
    wait_for(lambda: computed(tmp_path))
    time.sleep(0.5)  # the others wait meanwhile
    assert [child.poll() for child in children] == [None] * 3
    (tmp_path / "go").touch()
    found = {child.communicate(timeout=60)[0].strip() for child in children}
    assert len(computed(tmp_path)) == 1
    assert found == set(computed(tmp_path))


def test_a_killed_process_does_not_block_the_others(tmp_path):
    first = start(tmp_path)
    wait_for(lambda: computed(tmp_path))
    second = start(tmp_path)
    first.kill()
    first.communicate()
    wait_for(lambda: len(computed(tmp_path)) == 2)
    (tmp_path / "go").touch()
    assert second.communicate(timeout=60)[0].strip() == str(second.pid)
    assert computed(tmp_path) == [str(first.pid), str(second.pid)]


def test_a_computation_that_fails_releases_the_lock(tmp_path):
    path = tmp_path / "value"
    with pytest.raises(ZeroDivisionError):
        compute_once(path, lambda: 1 / 0)
    assert compute_once(path, lambda: path.write_text("7")).read_text() == "7"
    with exclusive(path):
        pass


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="the administrator can write everywhere")
def test_a_cache_that_is_not_writable_can_be_read(tmp_path):
    path = tmp_path / "value"
    path.write_text("7")
    tmp_path.chmod(0o500)
    try:
        assert compute_once(path, lambda: pytest.fail("computed")).read_text() == "7"
    finally:
        tmp_path.chmod(0o700)
