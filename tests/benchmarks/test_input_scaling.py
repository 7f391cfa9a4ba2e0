"""How the input scales: what a row holds, and that the order of the images is no hand-over."""

import json
import time

import pytest
from photo_folder import write_photos

from benchmarks import input as benchmark
from benchmarks import input_scaling


class SlowOrder:
    """An order that takes 5 ms of processor time per batch."""

    def __getitem__(self, step):
        start = time.process_time()
        while time.process_time() < start + 0.005:
            pass


def test_the_order_is_timed_alone():
    assert 5 <= input_scaling._order_ms(SlowOrder()) < 10


@pytest.mark.slow
def test_rows_of_threads_and_workers(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(input_scaling.os, "cpu_count", lambda: 1)
    monkeypatch.setattr(input_scaling, "_PROFILED_SECONDS", 1.0)
    write_photos(tmp_path)
    flags = ["--scaling", "--batch", "4", "--size", "16", "--seconds", "6"]
    benchmark.main(["--root", str(tmp_path), *flags])
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    (rows,) = line["scaling"].values()
    assert [row.get("threads") for row in rows] == [1, 2, 4, None, None, None]
    assert [row.get("workers") for row in rows] == [None, None, None, 1, 2, 4]
    for row in rows:
        assert row["images_per_second"] > 0 < row["cpu_ms_per_image"]
        if "workers" in row:
            assert row["hand_over_ms_per_image"] < row["parent_ms_per_image"]
            assert row["parent_ms_per_image"] < row["cpu_ms_per_image"]
