"""The evaluation's test of itself: it passes, and notices each kind of fault."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nsneg_jax.cli import main
from nsneg_jax.errors import RunError
from nsneg_jax.evaluation import classifier, cue_conflict, passes, self_test, sets, summary
from nsneg_jax.evaluation.protocols import benchmarks, imagenet, objectnet, real
from nsneg_jax.input.sources import derived
from nsneg_jax.parallel import mesh

ONE = mesh.data_mesh(jax.devices()[:1])


def test_it_passes_once_per_process(capsys):
    start = time.process_time()
    first = self_test.passed(ONE)
    assert first["passed"] and first["checks"] > 40
    assert time.process_time() - start < 20  # a second or two; the machine may be busy
    start = time.process_time()
    assert self_test.passed(ONE) == first and time.process_time() - start < 0.1
    assert main(["evaluate", "--self-test", "--config=evaluate"]) == 2
    assert "--self-test" in capsys.readouterr().err


def sized(change):
    """Central batches of another geometry."""
    original = passes.labelled.scaled_resize

    def altered(resize, image_size):
        return change(original(resize, image_size))

    return passes.labelled, "scaled_resize", altered


def first_accepted_only(outputs, accepted):
    return classifier.ranks(outputs, accepted.argmax(axis=-1))


def all_allowed(settings, source, classes, accepted):
    return np.ones(len(classes), bool)


def uncut(self, index):
    return self._source.image(self._of(index))


def reversed_ties(outputs, labels):
    own = jnp.take_along_axis(outputs, labels[:, None], axis=-1)
    return (outputs >= own).sum(axis=-1) - 1


_CUES_OF = cue_conflict.cues_of
FAULTS = {
    "a crop without the resize": sized(lambda side: 0),
    "a resize 8 pixels too small": sized(lambda side: side and side - 8),
    "a resize 12 pixels too large": sized(lambda side: side and side + 12),
    "a resize of released pictures": sized(lambda side: side or 256),
    "only the first of several labels": (classifier, "best_ranks", first_accepted_only),
    "no class mask": (sets, "_answers", all_allowed),
    "no border cut": (derived.Derived, "image", uncut),
    "ties to the last": (classifier, "ranks", reversed_ties),
    "index and wnid mixed up": (imagenet, "wnids", lambda: tuple(reversed(real.wnids()))),
    "other ReaL labels": (real, "read_real", lambda path: [[7]] * 5),
    "no check for NaN": (classifier, "check_finite", lambda *arguments: None),
    "another mean": (summary, "tested", lambda parts: parts),
    "swapped cues": (cue_conflict, "cues_of", lambda path: _CUES_OF(path)[::-1]),
    "another AlexNet": (benchmarks, "ALEXNET_CLEAN", 0.0),
    "a wrong mapping": (
        objectnet,
        "_shared",
        lambda mapping, ours: {"alarm_clock": frozenset([409])},
    ),
}


@pytest.fixture(scope="module")
def compiled():
    return self_test._classifier(ONE)


@pytest.mark.parametrize("fault", FAULTS)
def test_it_notices(fault, monkeypatch, compiled):
    where, name, instead = FAULTS[fault]
    monkeypatch.setattr(where, name, instead)
    if where is not classifier:  # else the fault is in the program
        monkeypatch.setattr(self_test, "_classifier", lambda devices: compiled)
    with pytest.raises(RunError, match="nothing is reported"):
        self_test.run(ONE)
