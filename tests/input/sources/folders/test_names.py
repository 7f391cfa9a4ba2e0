"""The compact list of names, and how it is copied to other processes."""

import os
import pickle

import numpy as np
import pytest

from nsneg_jax.input.sources.folders.names import Names

LISTS = [
    [],
    [""],
    ["a/1.jpg", "", "b/Größe 漢字.png", os.fsdecode(b"c/\xff\xfe.jpg"), "a/1.jpg"],
]


@pytest.mark.parametrize("names", LISTS)
def test_it_is_the_list(names):
    ours = Names.of(iter(names))
    assert list(ours) == names and len(ours) == len(names)
    assert [ours[i] for i in range(-len(names), len(names))] == names * 2
    assert [ours[i] for i in np.arange(len(names))] == names
    for index in (len(names), -len(names) - 1):
        with pytest.raises(IndexError):
            ours[index]
    assert list(ours[::-2]) == names[::-2]
    assert ours == Names.of(names) != Names.of([*names, "another"])
    assert ours.data.dtype == np.uint8 and ours.offsets.dtype == np.int64
    assert Names.joined([Names.of(names), Names.of(["x"]), Names.of(())]) == Names.of([*names, "x"])
    text = "".join(f"{name}\n" for name in names).encode("utf-8", "surrogateescape")
    assert Names.of_lines(text) == ours


def test_some_of_them():
    names = Names.of(LISTS[2])
    assert list(names.take(np.array([3, 0, 3]))) == [LISTS[2][3], "a/1.jpg", LISTS[2][3]]
    assert len(names.take(np.array([], np.int64))) == 0
    assert len(Names.joined([])) == 0


def test_the_arrays_are_pickled_out_of_band():
    names = Names.of(f"class/{i}.jpg" for i in range(5000))
    buffers = []
    rest = pickle.dumps(names, protocol=5, buffer_callback=buffers.append)
    assert len(rest) < 500
    assert [len(each.raw()) for each in buffers] == [names.data.nbytes, names.offsets.nbytes]
    assert pickle.loads(rest, buffers=buffers) == names == pickle.loads(pickle.dumps(names))
