"""The progress of several runs, from the files that they write."""

import time
from types import SimpleNamespace

from nsneg_jax.comparison.running.chains import Link
from nsneg_jax.comparison.running.progress import RunsProgress, Stage, last_figures


def stage(folder, name, total=100, share=1.0):
    workdir = folder / name
    workdir.mkdir(exist_ok=True)
    return Stage(Link(name, [], workdir / "log", (workdir / "done").exists), workdir, share, total)


def test_progress_counts_what_files_say(tmp_path, capsys, monkeypatch):
    training, probe = stage(tmp_path, "train", share=0.8), stage(tmp_path, "probe", 10, share=0.2)
    other = stage(tmp_path, "other")
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)
    with RunsProgress({"a": [training, probe], "b": [other]}, processes=2) as display:
        lines = ['{"step": 25, "loss": 2.0}', '{"step": 50, "knn_20": 41.26}', '{"step": 75, "lo']
        (training.workdir / "metrics.jsonl").write_text("\n".join(lines))
        clock.now = 30.0
        display.look()
        # (0.8 * 0.5 + 0) / 2 = 20 % in 30 s: four times as long to go
        line = "20 %  0:02:00 left  train 50 % loss 2.00 kNN 41.3 %; other 0 %\n"
        assert capsys.readouterr().out == line.replace("other 0 %", "other")
        (training.workdir / "done").touch()
        (probe.workdir / "metrics.jsonl").write_text('{"step": 400, "epoch": 5}\n')
        clock.now = 31.0
        display.look()
        assert capsys.readouterr().out == ""  # too soon
        clock.now = 60.0
        display.look()
        assert capsys.readouterr().out.startswith("45 %  ")


def test_last_figures_of_a_long_file(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(f'{{"step": {i}, "loss": {i}.5}}\n' for i in range(2000)))
    assert last_figures(path) == {"step": 1999, "loss": 1999.5}
    assert last_figures(tmp_path / "none") == {}
