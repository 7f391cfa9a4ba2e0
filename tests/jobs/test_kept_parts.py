"""Which parts of an evaluation are kept: those of the same files, by name, size and time."""

import json
import os
import shutil
import signal

import numpy as np
import pytest
from answering import CLASSES, ONE, a_config, answering_probe, run, write_image

from nsneg_jax.jobs import evaluate as job
from nsneg_jax.report.command import main as report
from nsneg_jax.training.progress import Progress

IMAGES = 80  # more than are compared by contents


@pytest.fixture
def config(monkeypatch, tmp_path):
    """Of a set of right answers in files of equal size."""
    probe = answering_probe(monkeypatch, tmp_path)
    for number in range(IMAGES):
        write_image(tmp_path / "a" / CLASSES[4] / f"{number:02}.bmp", 4)
    source = {"sets.a.source": f"folder:{tmp_path / 'a'}", "batch_size": IMAGES}
    return a_config(probe, "a", **source, **{"data.threads": 2, "data.workers": 0})


def results(workdir):
    return json.loads((workdir / "results.json").read_text())


def change(tmp_path, answer=5):
    """Another picture of the same name and size, which is not among those compared by contents."""
    write_image(tmp_path / "a" / CLASSES[4] / "01.bmp", answer)


def test_a_part_is_kept_until_one_of_its_files_changes(config, tmp_path, capsys):
    out = tmp_path / "out"
    assert run(config, out)["a"]["accuracy_top1"] == 100 and results(out)["kept"] == {}
    with np.load(out / "parts" / "a.npz") as part:
        made = str(part["made"])
    assert run(config, out)["a"]["accuracy_top1"] == 100
    assert results(out)["kept"] == {"a": {"parts": 1, "since": made}}
    assert made in capsys.readouterr().out
    assert report([str(out)]) == 0 and made in capsys.readouterr().out
    change(tmp_path)
    assert run(config, out)["a"]["accuracy_top1"] == 100 * (IMAGES - 1) / IMAGES
    assert results(out)["kept"] == {}
    capsys.readouterr()
    assert report([str(out)]) == 0 and "Kept" not in capsys.readouterr().out


def test_a_part_of_an_earlier_version_is_kept_if_it_is_newer_than_its_files(config, tmp_path):
    out = tmp_path / "out"
    path = out / "parts" / "a.npz"
    run(config, out)
    with np.load(path) as part:
        earlier = {name: part[name] for name in part.files if name not in ("files", "made")}
    np.savez(path, **earlier)
    os.utime(path, (2e9, 2e9))
    run(config, out)
    assert results(out)["kept"] == {"a": {"parts": 1, "since": "2033-05-18 03:33 UTC"}}
    change(tmp_path)
    os.utime(path, (1e9, 1e9))
    assert run(config, out)["a"]["accuracy_top1"] < 100
    path.write_bytes(b"")  # as a power cut may leave it
    assert run(config, out)["a"]["accuracy_top1"] < 100 and results(out)["kept"] == {}


def test_a_stopped_evaluation_leaves_no_results_of_other_parts(config, tmp_path, monkeypatch):
    out = tmp_path / "out"
    shutil.copytree(tmp_path / "a", tmp_path / "sketch")
    config.update_from_flattened_dict(
        {"only": "a,sketch", "sets.sketch.source": f"folder:{tmp_path / 'sketch'}"}
    )
    run(config, out)
    for name in ("a", "sketch"):
        write_image(tmp_path / name / CLASSES[4] / "01.bmp", 5)

    class Interrupting(Progress):
        def advance(self, step):
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr(job, "Progress", Interrupting)
        assert job.evaluate(config, out, ONE) is None
    assert not (out / "results.json").exists()
    with monkeypatch.context() as patched:  # in its last part, after which nothing is left to do
        patched.setattr(job, "Progress", Interrupting)
        assert job.evaluate(config, out, ONE) is not None
    assert results(out)["kept"].keys() == {"a"}


def test_results_of_another_config_are_removed(config, tmp_path):
    out = tmp_path / "out"
    run(config, out)
    config.label = "another"
    opened, _ = job.open_frozen(config, out, ONE, job.validate_evaluate)
    opened.claim()
    assert not (out / "results.json").exists()
