"""The known-answer test of the evaluation itself: pictures whose figures are known beforehand.

A network that reads its answer in the colours of a picture stands in for the trained one. All else
is what an evaluation runs: the sets are planned and opened, the pictures read, cropped and
classified, and the figures computed, by the same functions. The pictures show where they are cut:
either everything outside of the right crop votes for a wrong class, or everything but the rim of
the right crop does.
"""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from PIL import Image

from nsneg_jax.errors import RunError
from nsneg_jax.evaluation import summary
from nsneg_jax.evaluation.classifier import Classifier
from nsneg_jax.evaluation.passes import Reading
from nsneg_jax.evaluation.protocols import benchmarks, objectnet
from nsneg_jax.evaluation.protocols.imagenet import listed, wnids
from nsneg_jax.evaluation.sets import EvaluationSet, plan
from nsneg_jax.pretrained import Pretrained
from nsneg_jax.training.progress import Progress

SIDE = 224
_BAND = 8  # pixels of the rim of a view that vote
_AT = (4, SIDE - 5)  # rows and columns where the network looks, 4 pixels from the edge
_SHARP = 3.0  # logit of a vote

# Views as (height, width) of the file, and (height, width) of what Resize(256) and CenterCrop(224)
# leave of it; whole files are as released at 224.
_WHOLE = ((SIDE, SIDE), (SIDE, SIDE))
_WIDE = ((384, 480), (336, 336))
_TALL = ((480, 384), (336, 336))


@dataclass(frozen=True)
class _Reader:
    """A network whose features are votes for classes, read in the colours of five pixels.

    A class is a number of three digits, one per colour; black is not a number.
    """

    def features(self, params: Any, stats: Any, images: jax.Array) -> jax.Array:
        scale, shift = jnp.array([0.229, 0.224, 0.225]), jnp.array([0.485, 0.456, 0.406])
        grey = (images * scale + shift) * 255
        digits = jnp.round((grey - 20) / 20).astype(jnp.int32)
        numbers = digits @ jnp.array([100, 10, 1])
        middle = SIDE // 2
        places = [(y, x) for y in _AT for x in _AT] + [(middle, middle)]
        seen = jnp.stack([numbers[:, y, x] for y, x in places], axis=1)
        votes = jax.nn.one_hot(seen, len(wnids())).sum(axis=1)
        return jnp.where((seen < 0).any(axis=1, keepdims=True), jnp.nan, votes)


def passed(devices: Mesh) -> dict[str, Any]:
    """Runs the test, once per process.

    Args:
        devices: devices to split the batches over.

    Returns:
        'passed', True, and 'checks', the number of figures compared, for results.json.

    Raises:
        RunError: a figure is off; the message lists all that are.
    """
    return dict(_passed(devices))


@cache
def _passed(devices: Mesh) -> dict[str, Any]:
    checks = run(devices)
    return {"passed": True, "checks": checks}


def run(devices: Mesh) -> int:
    """Runs the test and returns the number of figures compared; errors as in `passed`."""
    with tempfile.TemporaryDirectory(prefix="nsneg-self-test-") as folder:
        pictures = _Pictures(Path(folder))
        cases = _cases(pictures)
        sets = {name: settings for name, (settings, _) in cases.items()}
        classify = _classifier(devices)
        expected = {name: figures for name, (_, figures) in cases.items()}
        expected["corruption"] |= {"clean_top1": 100.0}
        try:
            wrong = _differences(_evaluated(sets, classify), expected)
            if not _refuses_no_numbers(pictures, classify):
                wrong.append("logits that are no numbers are counted")
        except Exception as error:  # whatever it is, an evaluation would meet it too
            wrong = [f"{type(error).__name__}: {error}"]
    halves = {name: dict.fromkeys(map(str, range(1, 6)), 50.0) for name in benchmarks.ALEXNET}
    errors = benchmarks.corruption_errors(halves, clean=80.0)
    wrong += _differences({"all errors 50 %": errors}, {"all errors 50 %": _OF_HALVES})
    if wrong:
        raise RunError(
            "The evaluation does not give the known figures of its own test pictures, so nothing "
            f"is reported: {'; '.join(wrong)}. Undo the changes to this installation of "
            "nsneg_jax, or install it anew; if it is unchanged, report this message."
        )
    return sum(map(len, expected.values())) + len(_OF_HALVES) + 1


# Of a network with an error of 50 % at every setting and of 20 % on clean images.
_OF_HALVES = {"mce": 64.67257299919942, "relative_mce": 97.7633458132223}
Case = tuple[EvaluationSet, dict[str, Any]]


def _cases(pictures: "_Pictures") -> dict[str, Case]:
    """Writes the pictures of all sets; returns each set's settings and figures."""
    return {
        "clean": _clean(pictures),
        "numbered": _numbered(pictures),
        "restricted_all": _restricted(pictures, "all"),
        "restricted_present": _restricted(pictures, "present"),
        "restricted_a": _restricted(pictures, "imagenet-a"),
        "corruption": _corruption(pictures),
        "corruption_bar": _corruption_bar(pictures),
        "cue_conflict": _cue_conflict(pictures),
        "real": _real(pictures),
        "objectnet": _objectnet(pictures),
    }


def _clean(pictures: "_Pictures") -> Case:
    """Resize(256), CenterCrop(224) of wide and tall pictures; ranks, and ties by lower index."""
    own, other = wnids()[7], 3
    for name, view in (("wide", _WIDE), ("tall", _TALL)):
        pictures.inside(f"clean/{own}/{name}-in.png", 7, other, view)
        pictures.rim(f"clean/{own}/{name}-rim.png", 7, other, view)
    pictures.rim(f"clean/{wnids()[2]}/second.png", 900, 2, _WIDE)  # its own class has one vote
    pictures.rim(f"clean/{wnids()[0]}/tied.png", 900, 901, _WIDE)  # no vote, first of the rest
    pictures.rim(f"clean/{wnids()[999]}/last.png", 900, 901, _WIDE)  # no vote, last of the rest
    figures = {
        "images": 7, "classes": 4, "ways": 1000,
        "accuracy_top1": 400 / 7, "accuracy_top5": 600 / 7,
    }  # fmt: skip
    return pictures.settings("clean"), figures


def _numbered(pictures: "_Pictures") -> Case:
    """Folders named by index, as in ImageNetV2."""
    pictures.inside("numbered/12/a.png", 12, 13, _WIDE)
    pictures.inside("numbered/130/a.png", 12, 13, _WIDE)
    figures = {"images": 2, "classes": 2, "accuracy_top1": 50.0}
    return pictures.settings("numbered", names="index"), figures


def _restricted(pictures: "_Pictures", answers: str) -> Case:
    """One picture votes most for a class outside of ImageNet-A, one for another one in it."""
    inside = [index for index, wnid in enumerate(wnids()) if wnid in listed("imagenet-a")]
    outside = next(index for index in range(1000) if index not in inside)
    own, absent = inside[4], inside[9]
    folder = f"restricted/{wnids()[own]}"
    pictures.rim(f"{folder}/outside.png", outside, own, _WIDE)
    pictures.rim(f"{folder}/absent.png", absent, own, _WIDE)
    pictures.rim(f"{folder}/right.png", own, outside, _WIDE)
    right, ways = {"all": (1, 1000), "present": (3, 1), "imagenet-a": (2, 200)}[answers]
    figures = {"images": 3, "ways": ways, "accuracy_top1": 100 * right / 3}
    return pictures.settings("restricted", answers=answers), figures


def _corruption(pictures: "_Pictures") -> Case:
    """Released pictures of 224 pixels, seen whole; the fourth corruption is outside of the mean."""
    own = 7
    for place, answers in {"fog/1": (own, own), "fog/5": (own, 1), "snow/3": (1, 1)}.items():
        for number, answer in enumerate(answers):
            pictures.rim(f"c/{place}/{wnids()[own]}/{number}.png", answer, 5, _WHOLE)
    pictures.rim(f"c/spatter/2/{wnids()[own]}/0.png", own, 5, _WHOLE)
    figures = {
        "images": 6, "accuracy_top1": 50.0, "settings": 3, "settings_expected": 75,
        "files_seen": 6, "files_expected": 75 * 50 * 1000, "mean_15": None, "mce": None,
    }  # fmt: skip
    return pictures.settings("c", split="", protocol="corruption", resize=0), figures


def _corruption_bar(pictures: "_Pictures") -> Case:
    pictures.rim(f"bar/sparkles/1/{wnids()[7]}/0.png", 7, 5, _WHOLE)
    pictures.rim(f"bar/perlin_noise/4/{wnids()[7]}/0.png", 6, 5, _WHOLE)
    figures = {
        "images": 2, "accuracy_top1": 50.0, "settings": 2, "settings_expected": 50,
        "files_expected": None,
    }  # fmt: skip
    changes: dict[str, Any] = {"benchmark": "imagenet-c-bar", "resize": SIDE}
    return pictures.settings("bar", split="", protocol="corruption", **changes), figures


def _cue_conflict(pictures: "_Pictures") -> Case:
    """Pictures of 224 pixels, seen whole, and decided by the mean over a category's classes."""
    cat, truck, bird = (wnids().index(wnid) for wnid in ("n02123045", "n03796401", "n01514859"))
    pictures.rim("cues/cat/cat1-truck1.png", cat, bird, _WHOLE)
    pictures.rim("cues/cat/cat2-bird1.png", bird, cat, _WHOLE)
    pictures.rim("cues/truck/truck1-bird2.png", truck, cat, _WHOLE)
    pictures.rim("cues/truck/truck2-cat3.png", bird, truck, _WHOLE)
    pictures.rim("cues/bird/bird3-bird4.png", bird, cat, _WHOLE)  # no conflict
    figures = {
        "images": 4, "shape_decisions": 2, "texture_decisions": 1, "shape_bias": 200 / 3,
        "shape_accuracy": 50.0, "texture_accuracy": 25.0, "restricted": False,
    }  # fmt: skip
    return pictures.settings("cues", protocol="cue_conflict", resize=SIDE), figures


def _real(pictures: "_Pictures") -> Case:
    """An answer is right if it is one of the labels; a picture without a label does not count."""
    labels = [[7, 20], [7, 20], [8, 20], [], [9]]
    for number, answer in enumerate((7, 20, 7, 7), 1):
        name = f"real/{wnids()[7]}/ILSVRC2012_val_{number:08}.png"
        pictures.inside(name, answer, 3, _WIDE)
    pictures.write("real.json", labels)
    figures = {"images": 3, "accuracy_top1": 200 / 3}
    path = str(pictures.root / "real.json")
    return pictures.settings("real", protocol="real", labels=path), figures


def _objectnet(pictures: "_Pictures") -> Case:
    """A border of 2 pixels is cut; each class of a category is right; others are left out."""
    view = ((68, 68), (56, 56))  # 64 pixels without the border
    pictures.inside("objectnet/images/alarm_clock/first.png", 409, 3, view)
    pictures.rim("objectnet/images/alarm_clock/second.png", 530, 3, view)
    pictures.rim("objectnet/images/banana/wrong.png", 409, 3, view)
    pictures.inside("objectnet/images/airbag/other.png", 7, 3, view)
    names = {"analog clock": 409, "digital clock": 530, "banana": 954}
    pictures.write(
        "objectnet/mappings/folder_to_objectnet_label.json",
        {"alarm_clock": "Alarm clock", "airbag": "Airbag", "banana": "Banana"},
    )
    pictures.write(
        "objectnet/mappings/objectnet_to_imagenet_1k.json",
        {"Alarm clock": "analog clock; digital clock", "Banana": "banana"},
    )
    pictures.write(
        "objectnet/mappings/pytorch_to_imagenet_2012_id.json",
        {str(index): line for line, index in enumerate(names.values())},
    )
    (pictures.root / "objectnet/mappings/imagenet_to_label_2012_v2").write_text("\n".join(names))
    settings = pictures.settings(
        "objectnet", split="images", protocol="objectnet", border=objectnet.BORDER
    )
    return settings, {"images": 3, "classes": 2, "ways": 1000, "accuracy_top1": 200 / 3}


def _evaluated(
    sets: Mapping[str, EvaluationSet], classify: Classifier
) -> dict[str, dict[str, Any]]:
    """Evaluates the sets as the job does."""
    parts, _ = plan(sets, wnids(), require_all=True, image_size=SIDE)
    outputs: dict[str, summary.Parts] = {}
    for part in parts:
        outputs.setdefault(part.set_name, []).append((part, classify(part, _Quiet())))
    return summary.summarise(outputs, wnids(), seed=0)


def _classifier(devices: Mesh) -> Classifier:
    batch = -(-8 // devices.size) * devices.size
    classes, dtype = wnids(), np.float32
    network = Pretrained(
        encoder=_Reader(),  # type: ignore[arg-type]
        params={"none": np.zeros(1, dtype)},
        stats={},
        model={},
        dtype="float32",
        classifier={
            "kernel": _SHARP * np.eye(len(classes), dtype=dtype),
            "bias": np.zeros(len(classes), dtype),
        },
        classes=classes,
        image_size=SIDE,
        origin="self-test",
        encoder_origin="self-test",
    )
    reading = Reading(batch, SIDE, 0, threads=2, workers=0)
    return Classifier(network, reading, "float32", 0, devices)


def _refuses_no_numbers(pictures: "_Pictures", classify: Classifier) -> bool:
    Image.new("RGB", (SIDE, SIDE)).save(pictures.place(f"black/{wnids()[0]}/a.png"))
    (part,), _ = plan({"black": pictures.settings("black", resize=0)}, wnids(), image_size=SIDE)
    try:
        classify(part, _Quiet())
    except RunError:
        return True
    return False


def _differences(
    found: Mapping[str, Mapping[str, Any]], expected: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """Lists the figures that are not as expected."""
    wrong = []
    for name, figures in expected.items():
        for figure, value in figures.items():
            got = found.get(name, {}).get(figure)
            same = got == value
            if isinstance(value, float) and isinstance(got, float):
                same = abs(got - value) < 1e-6
            if not same:
                wrong.append(f"{name}: {figure} is {got}, not {value}")
    return wrong


class _Pictures:
    """Writes the pictures of the test below a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def settings(self, folder: str, **changes: Any) -> EvaluationSet:
        """Returns the settings of a set in a folder."""
        fields: dict[str, Any] = {
            "source": f"folder:{self.root / folder}", "split": ".", "resize": 256,
            "protocol": "top1", "answers": "all", "names": "class", "generate": False,
            "extra": False,
        }  # fmt: skip
        return EvaluationSet(**(fields | changes))

    def inside(self, name: str, answer: int, wrong: int, view: tuple) -> None:
        """Writes a picture that is `answer` within its view and `wrong` around it."""
        self._save(name, answer, wrong, view, hollow=False)

    def rim(self, name: str, answer: int, wrong: int, view: tuple) -> None:
        """Writes a picture that is `answer` at the rim of its view and `wrong` elsewhere."""
        self._save(name, answer, wrong, view, hollow=True)

    def write(self, name: str, content: Any) -> None:
        """Writes a JSON file."""
        self.place(name).write_text(json.dumps(content))

    def place(self, name: str) -> Path:
        """Returns the path of a file, whose folder is made."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _save(self, name: str, answer: int, wrong: int, view: tuple, hollow: bool) -> None:
        (height, width), (tall, broad) = view
        picture = np.empty((height, width, 3), np.uint8)
        picture[:] = _colour(wrong)
        top, left = (height - tall) // 2, (width - broad) // 2
        picture[top : top + tall, left : left + broad] = _colour(answer)
        if hollow:
            band = round(_BAND * tall / SIDE)
            inner = picture[top + band : top + tall - band, left + band : left + broad - band]
            inner[:] = _colour(wrong)
        Image.fromarray(picture).save(self.place(name), compress_level=1)


def _colour(number: int) -> tuple[int, int, int]:
    return 20 + 20 * (number // 100), 20 + 20 * (number // 10 % 10), 20 + 20 * (number % 10)


class _Quiet(Progress):
    """Shows nothing."""

    def __init__(self) -> None:
        pass

    def compiling(self, what: str) -> None:
        pass

    def first(self, what: str, figures: str = "") -> None:
        pass

    def is_due(self) -> bool:
        return False

    def note(self, text: str) -> None:
        pass
