"""What a pre-training measures and says: chosen by the data, and at its start and end."""

import json

import jax
import numpy as np
import pytest
from photo_folder import write_photos
from PIL import Image
from tensorboardX.proto import event_pb2
from tiny import tiny_config

from nsneg_jax.errors import UsageError
from nsneg_jax.evaluation.monitoring.monitor import some_of
from nsneg_jax.input.shapes.source import Shapes
from nsneg_jax.input.splits import open_split
from nsneg_jax.jobs.opening import Run, to_json
from nsneg_jax.jobs.pretrain import pretrain
from nsneg_jax.jobs.pretraining import measures, summary
from nsneg_jax.jobs.pretraining.data import open_data
from nsneg_jax.jobs.pretraining.measures import open_measured
from nsneg_jax.jobs.pretraining.validation import validate_pretraining
from nsneg_jax.parallel import mesh

ONE = jax.devices()[:1]


def measured(root, asked, names, **fields):
    write_photos(root, names, "")
    config = tiny_config(
        knn_every_epochs=asked, epochs=25, **{"data.source": f"folder:{root}"} | fields
    )
    return open_measured(config, open_split(config.data, config.data.split), steps_per_epoch=4)


CLASSES = [f"{name}/{i}.png" for name in "ab" for i in range(6)]


def test_labels_and_a_validation_split_decide(tmp_path):
    """Unasked there is a note where something is missing; asked for, it is an error."""
    write_photos(tmp_path / "both", CLASSES, "val")
    both = measured(tmp_path / "both", -1, [f"train/{name}" for name in CLASSES])
    assert (len(both.bank), len(both.queries), both.note) == (12, 12, "")
    assert [step for step in range(1, 101) if both.is_due(step)] == [40, 80, 100]

    parts = {"data.split": "train[:50%]", "data.eval_split": "train[50%:]"}
    halves = measured(tmp_path / "halves", -1, CLASSES, **parts)
    assert (len(halves.bank), len(halves.queries)) == (6, 6)

    alone = measured(tmp_path / "alone", -1, CLASSES)
    assert alone.bank is None and len(alone.queries) == 12 and "left out" in alone.note
    with pytest.raises(UsageError):
        measured(tmp_path / "alone", 3, CLASSES)
    assert measured(tmp_path / "alone", 0, CLASSES) is None

    unlabelled = measured(tmp_path / "unlabelled", 3, [f"{i}.png" for i in range(9)])
    assert unlabelled.bank is None and "no classes" in unlabelled.note
    assert unlabelled.is_due(12) and not unlabelled.is_due(13)


def test_many_images_are_thinned_unasked(monkeypatch):
    monkeypatch.setattr(measures, "_MOST_VOTING", 32)
    images = Shapes("train", image_size=16, size=80)
    for asked, count in ((-1, 32), (2, 80)):
        found = open_measured(tiny_config(knn_every_epochs=asked), images, 5)
        assert len(found.bank) == count and len(found.queries) == 80
    thinned = open_measured(tiny_config(knn_every_epochs=-1), images, 5).bank
    (place,) = some_of(80, 32)[1:2]
    np.testing.assert_array_equal(thinned.image(1), images.image(place))
    assert thinned.labels[1] == images.labels[place]
    assert len(set(thinned.labels)) > 5


def test_values_out_of_range_are_named():
    with pytest.raises(UsageError, match="knn_every_epochs is -2"):
        validate_pretraining(tiny_config(knn_every_epochs=-2), 1)


def fields_considered(tmp_path, **values):
    """The fields that the considerations of a config name, with the values they give."""
    config = tiny_config(**values)
    run = Run(to_json(config), tmp_path, mesh.data_mesh(ONE), "float32", "float32")
    texts = summary.considerations(config, run, open_data(config, tmp_path))
    return [
        word.removeprefix("--config.").strip(":,")
        for text in texts
        for word in text.split()
        if word.startswith("--config.")
    ]


def test_what_to_consider(tmp_path):
    fine = {"epochs": 200, "optimizer.learning_rate": 0.05, "model.bn_groups": 1}
    assert fields_considered(tmp_path, **fine) == []
    for changes, expected in (
        ({"batch_size": 64, "model.bn_groups": 8, "epochs": 600}, ["model.bn_groups=4",
                                                                 "batch_size"]),
        ({"optimizer.learning_rate": 0.8}, ["optimizer.learning_rate=0.025"]),
        ({"optimizer.learning_rate": 0.8, "optimizer.name": "adamw"}, []),
        ({"moco.queue_size": 96}, ["moco.queue_size"]),
        ({"epochs": 4}, ["epochs=246"]),
        ({"epochs": 4, "total_steps": 3}, []),
        ({"data.image_size": 96}, []),
    ):  # fmt: skip
        values = fine | {"data.source": "shapes:80"} | changes
        assert fields_considered(tmp_path, **values) == expected, changes


def events(workdir):
    """The summaries in TensorBoard's files by tag."""
    found = {}
    for path in sorted((workdir / "tensorboard").iterdir()):
        data, place = path.read_bytes(), 0
        while place < len(data):  # TFRecord: length, its CRC, the event, its CRC
            length = int.from_bytes(data[place : place + 8], "little")
            event = event_pb2.Event.FromString(data[place + 12 : place + 12 + length])
            found |= {value.tag: value for value in event.summary.value}
            place += length + 16
    return found


def test_a_run_says_what_it_is(tmp_path, capsys):
    """On the terminal in 80 columns but for commands, and in TensorBoard, with its picture."""
    workdir = tmp_path / "a run"
    # without colours, whose programs take long to compile
    plain = {"views.jitter_probability": 0.0, "views.grayscale_probability": 0.0}
    config = tiny_config(epochs=1, pictures=True, knn_every_epochs=-1, **plain)
    pretrain(config, workdir, ONE)
    lines = capsys.readouterr().out.splitlines()
    labels = [line.split()[0] for line in lines if line[:1].strip()]
    for label in ("data", "encoder", "method", "devices", "rate", "steps", "measured", "files",
                  "consider", "done:", "results", "next"):  # fmt: skip
        assert label in labels, label
    commands = [line for line in lines if "pretrained=" in line or "report" in line]
    assert len(commands) == 2 and all(f"'{workdir}" in command for command in commands)
    assert all(len(line) <= 80 or line in commands or str(workdir) in line for line in lines)
    (results,) = [line for line in lines if line.startswith("results")]
    last = json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-1])
    assert f"probe {last['probe_top1']:.1f} %" in " ".join(lines[lines.index(results) :])

    found = events(workdir)
    assert found["val/rankme"].simple_value == pytest.approx(last["rankme"])
    (text,) = found["config/text_summary"].tensor.string_val
    assert b"| `moco.queue_size` | `72` |" in text
    (text,) = found["summary/text_summary"].tensor.string_val
    assert b"    data     shapes/clean/train: 80 images" in text
    with Image.open(workdir / "pictures" / "views.png") as picture:
        image = found["views"].image
        assert (image.width, image.height) == picture.size
    assert image.encoded_image_string == (workdir / "pictures" / "views.png").read_bytes()
