"""Pickles are read as plain values; nothing that they name is called."""

import pickle
import struct

import array_sets as made
import numpy as np
import pytest

from nsneg_jax.input.sources.arrays.pickles import Refused, read_pickle

VALUES = np.arange(12, dtype=np.uint8).reshape(3, 4)


def test_of_python_2():
    found = read_pickle(
        made.pickled(data=made.array(VALUES), labels=made.listed([made.number(300)]))
    )
    assert found[b"labels"] == [300]
    np.testing.assert_array_equal(found[b"data"], VALUES)


@pytest.mark.parametrize("protocol", [2, 3, 4])  # of 5 NumPy asks for more
def test_of_python_3(protocol):
    """As somebody may have written them again."""
    for values in (VALUES, np.asfortranarray(VALUES)):
        found = read_pickle(pickle.dumps({"data": values, "names": ["a"]}, protocol))
        assert found["names"] == ["a"]
        np.testing.assert_array_equal(found["data"], values)


class Runs:
    """A value whose pickle calls something."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def test_nothing_runs(tmp_path):
    import os

    target = tmp_path / "ran"
    calls = [
        Runs(os.system, f"touch {target}"), Runs(eval, f"open({str(target)!r}, 'w')"),
        Runs(np.load, str(target)), Runs(getattr, "x", "upper"), Runs(target.touch),
    ]  # fmt: skip
    for value in (*calls, [calls[0]], {"data": calls[1]}):
        for protocol in (0, 2, 4):
            with pytest.raises(Refused, match="could run code"):
                read_pickle(pickle.dumps(value, protocol))
    assert not target.exists()


def state_of(function: bytes, state: bytes) -> bytes:
    """A pickle that sets the state of what it names."""
    return b"\x80\x02" + function + state + b"b."


@pytest.mark.parametrize(
    "function",
    [b"cnumpy.core.multiarray\n_reconstruct\n", b"c_codecs\nencode\n", b"cnumpy\ndtype\n",
     b"cnumpy\nndarray\n"],
)  # fmt: skip
def test_the_stand_ins_cannot_be_changed(function):
    before = read_pickle(made.pickled(data=made.array(VALUES)))[b"data"]
    for state in (b"}U\x01aK\x01s", b"NN}U\x0c__defaults__K\x01s\x86"):
        with pytest.raises(Refused):
            read_pickle(state_of(function, state))
    np.testing.assert_array_equal(
        read_pickle(made.pickled(data=made.array(VALUES)))[b"data"], before
    )


@pytest.mark.parametrize(
    "values",
    [np.ones((2, 2), np.float32), np.array([[None]]), np.array([["a"]])],
    ids=["float32", "object", "text"],
)
def test_arrays_of_something_else(values):
    with pytest.raises(Refused, match="bytes"):
        read_pickle(pickle.dumps({"data": values}, 2))


def test_damage():
    whole = made.pickled(data=made.array(VALUES))
    for data in (b"", b"x", whole[:-20], whole[:5], b"\x80\x02]", b"<html></html>", b"\x80\x02Q."):
        with pytest.raises(Refused):
            read_pickle(data)
    too_few = whole.replace(struct.pack("<I", 12) + VALUES.tobytes(), struct.pack("<I", 1) + b"x")
    with pytest.raises(Refused, match="damaged"):
        read_pickle(too_few)
    with pytest.raises(Refused, match="other files"):
        read_pickle(b"\x80\x02K\x01Q.")
