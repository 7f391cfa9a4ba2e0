"""benchmarks.input on data sets side by side."""

import json

import pytest
from photo_folder import write_photos

from benchmarks import input as benchmark
from data import arrayrecord


def test_data_sets_take_turns(tmp_path, capsys):
    write_photos(tmp_path)
    packed = tmp_path / "packed"
    places = ["--source", str(tmp_path), "--out", str(packed), "--splits", "train"]
    assert arrayrecord.main(places) == 0
    capsys.readouterr()
    specs = [f"folder:{tmp_path}", f"arrayrecord:{packed}"]
    flags = [flag for spec in specs for flag in ("--source", spec)]
    benchmark.main([*flags, "--seconds", "0.2", "--batch", "4", "--size", "16", "--threads", "1"])
    found = json.loads(capsys.readouterr().out)["sources"]
    assert list(found) == specs and found[specs[0]]["ratio"] == 1
    for each in found.values():
        assert each["images"] == 18 and len(each["turns"]) == 5
        assert min(each["turns"]) > 0 and each["cpu_ms_per_image"] > 0
    with pytest.raises(SystemExit):  # one or the other
        benchmark.main(["--root", str(tmp_path), "--source", specs[0]])
