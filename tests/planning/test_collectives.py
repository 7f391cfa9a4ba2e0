"""What the 8-device step exchanges: all of it, by kind and to the byte."""

import math
from collections import Counter
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import PLAIN, tiny_config

from nsneg_jax.jobs.build import build, placement
from nsneg_jax.parallel import mesh
from nsneg_jax.planning.collectives import payload_by_kind, read_collectives
from nsneg_jax.training.step import abstract_batch, compile_step, shuffle_orders, state_sharding

N, SIZE, DIM = 16, 16, 8


# the exchanges are settled before the machine code is made
FAST = {"xla_backend_optimization_level": 0}


@cache
def compiled(**values):
    """The method, its initial state on 8 devices, and its step."""
    devices = mesh.data_mesh()
    config = tiny_config(**PLAIN | values)
    method, state = build(config, 5)
    place = placement(config, method)
    state = jax.device_put(state, state_sharding(method, devices, place, state))
    batch = abstract_batch(method.views, N, SIZE, place)
    lowered = compile_step(method, devices, place, state).lower(state, batch)
    return method, state, lowered.compile(compiler_options=FAST)


def exchanged(compiled_step) -> Counter:
    """(kind, dtype, bytes) of each array, with the all-reduces of all devices summed up."""
    found = Counter()
    for c in read_collectives(compiled_step.as_text()):
        assert c.group == 8
        for dtype, size in c.arrays:
            if c.kind == "all-reduce":
                found["all-reduce"] += c.times * size
            else:
                found[c.kind, dtype, size] += c.times
    return found


def bytes_of(tree) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def reduced(state) -> int:
    """Gradients, running statistics of group 0 in three passes, means of six metrics."""
    metrics = 4 * 8 + 2 * 4  # two are float32 means of yes and no
    return bytes_of(state.params_q) + 3 * bytes_of(state.stats_q) + metrics


CROPS = ("all-gather", "u8", N * SIZE * SIZE * 3)


def gathered(*shape) -> tuple:
    return ("all-gather", "f64", 8 * math.prod(shape))


def test_step(float64):
    _, state, step = compiled()
    # crops of the queries, for the negatives, and of the keys; the embeddings of both
    expected = {CROPS: 2, gathered(N, 2, DIM): 1, "all-reduce": reduced(state)}
    assert exchanged(step) == expected


def test_step_that_loads_shuffled_crops(float64):
    _, state, step = compiled(**{"moco.shuffle": "data"})
    assert exchanged(step) == {gathered(N, 2, DIM): 1, "all-reduce": reduced(state)}


def test_step_with_a_part_of_the_queue_on_each_device(float64):
    """No N x K logits: queries and their gradients, and some numbers a query."""
    _, state, step = compiled(**{"moco.shard_queue": True})
    found = exchanged(step)
    gradients = N * DIM * 8
    numbers = 4 * N * 8  # a query's maximum, sum of exponentials, sum of similarities, rank
    few = found["all-reduce"] - reduced(state) - gradients
    assert 0 < few <= numbers
    assert found.pop(gathered(N)) <= 4
    del found["all-reduce"]
    assert found == {CROPS: 2, gathered(N, 2, DIM): 1, gathered(N, DIM): 1}


PARTS = {"model.bn_groups": 16, "optimizer.accumulate": 2}


def test_step_in_parts(float64):
    """Not a byte more than at once: gradients and statistics meet once, after the last part."""
    _, state, step = compiled(**PARTS)
    expected = {CROPS: 2, gathered(N, 2, DIM): 1, "all-reduce": reduced(state)}
    assert exchanged(step) == expected
    assert not [c for c in read_collectives(step.as_text()) if c.times > 1]


@pytest.mark.slow
def test_step_in_parts_with_a_part_of_the_queue_on_each_device(float64):
    split = {"moco.shard_queue": True}
    whole, parts = (
        payload_by_kind(read_collectives(compiled(**each)[2].as_text()))
        for each in (split | {"model.bn_groups": 16}, split | PARTS)
    )
    assert parts.keys() == whole.keys()
    assert all(parts[kind] <= whole[kind] for kind in whole)


def test_groups_that_span_devices_exchange_statistics(float64):
    _, state, step = compiled(**{"model.bn_groups": 2})
    collectives = read_collectives(step.as_text())
    spans = [c for c in collectives if c.group == 4]
    # mean and variance of three passes forward; of the query pass two sums a channel backward
    assert payload_by_kind(spans) == {"all-reduce": 4 * bytes_of(state.stats_q)}
    # gradients of batch norms are whole within a group, and are summed over the groups
    others = payload_by_kind([c for c in collectives if c.group != 4])
    images_and_embeddings = 2 * CROPS[2] + gathered(N, 2, DIM)[2]
    assert others == {"all-reduce": reduced(state), "all-gather": images_and_embeddings}


@pytest.fixture
def crops():
    return np.random.default_rng(0).integers(0, 256, (2, N, SIZE, SIZE, 3), np.uint8)


def run(values, batch, steps=3):
    method, state, step = compiled(**values)
    split = mesh.split_batch(mesh.data_mesh())
    state = jax.tree.map(jnp.copy, state)
    for s in range(steps):
        state, metrics = step(state, jax.device_put(batch(method, s), split))
    return jax.device_get((state, metrics))


def assert_close(a, b):
    close = partial(np.testing.assert_allclose, rtol=1e-12, atol=1e-12)
    jax.tree.map(close, a, b)


def in_order(crops):
    return lambda method, step: {"query": crops[0], "key": crops[1]}


def test_crops_loaded_in_order_or_shuffled_are_the_same_step(crops, float64):
    def shuffled(method, step):
        orders = shuffle_orders(method.views, N)(step)
        negatives = np.stack([crops[0][order] for order in orders[1:]], axis=1)
        return {"query": crops[0], "key": crops[1][orders[0]], "negatives": negatives}

    assert_close(run({}, in_order(crops)), run({"moco.shuffle": "data"}, shuffled))


def test_queue_whole_or_in_parts_is_the_same_step(crops, float64):
    whole, parts = run({}, in_order(crops)), run({"moco.shard_queue": True}, in_order(crops))
    assert_close(whole, parts)


@pytest.mark.slow
def test_optimizer_whole_or_in_parts_is_the_same_step(crops, float64):
    whole, parts = run({}, in_order(crops)), run({"optimizer.shard": True}, in_order(crops))
    assert_close(whole, parts)


def test_each_device_holds_its_part_of_the_optimizer(float64):
    _, whole, step = compiled(**{"optimizer.shard": True})
    state = jax.tree.map(jnp.copy, whole)
    momenta = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim]
    held = sum(leaf.addressable_shards[0].data.nbytes for leaf in momenta)
    assert held < bytes_of(momenta) / 4  # arrays that eight devices cannot share stay whole
    # Each device gets the parts of the updates that the others compute, and nothing else.
    found, before = exchanged(step), exchanged(compiled()[2])
    more = found - before
    norms = 8 * len(jax.tree.leaves(state.params_q))  # of the gradient's parts
    assert not before - found and more.pop("all-reduce", 0) <= norms
    assert {kind for kind, _, _ in more} == {"all-gather"}
    assert sum(size * times for (_, _, size), times in more.items()) <= bytes_of(state.params_q)


def test_each_device_holds_its_part_of_the_queue(float64):
    _, state, _ = compiled(**{"moco.shard_queue": True})
    assert {shard.data.shape for shard in state.queue.addressable_shards} == {(72 // 8, DIM)}


# as the compiler prints it, but for operands and the rest of the line
HLO = """HloModule jit_step, is_scheduled=true, num_partitions=8

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%a, %b)
}

%body (arg: (s32[], f32[4,2])) -> (s32[], f32[4,2]) {
  %moved = f32[4,2]{1,0} collective-permute(%x), channel_id=1, source_target_pairs={{0,1},{1,0}}
  ROOT %next = (s32[], f32[4,2]{1,0}) tuple(%i, %moved)
}

%wrapped (p: bf16[16]) -> bf16[16] {
  ROOT %all-to-all = bf16[16]{0} all-to-all(%p), replica_groups={{0,1,2,3},{4,5,6,7}}
}

ENTRY %main (p0: f32[4,2], p1: f64[]) -> f32[4,2] {
  %loop = (s32[], f32[4,2]{1,0}) while(%t), body=%body, {"known_trip_count":{"n":"3"}}
  %pair = (f32[4,2]{1,0}, /*index=1*/f64[]) all-reduce(%a, %b), replica_groups=[2,4]<=[8]
  %begun = (f32[4,2], f32[32,2]) all-gather-start(%a), replica_groups=mesh['x'=2,'y'=8] {'y'}
  %ended = f32[32,2]{1,0} all-gather-done(%begun)
  %lone = f32[4,2]{1,0} all-reduce(%a), replica_groups=mesh['x'=8,'y'=1] {'y'}
  %part = f32[1,2]{1,0} reduce-scatter(%a), replica_groups={{0,1,2,3},{4,5,6,7}}
  %apart = ((bf16[16]{0}), bf16[16]{0}) async-start(%c), calls=%wrapped
  %after = bf16[16]{0} async-done(%apart), calls=%wrapped
  ROOT %result = f32[4,2]{1,0} get-tuple-element(%loop), index=1
}
"""


def test_reader_counts_loops_tuples_and_pairs_as_they_run():
    found = {c.kind: c for c in read_collectives(HLO)}
    assert len(read_collectives(HLO)) == len(found) == 5
    assert found["collective-permute"].times == 3
    assert payload_by_kind(found.values()) == {
        "collective-permute": 3 * 32,
        "all-reduce": 32 + 8,
        "all-gather": 32 * 8,
        "reduce-scatter": 32,
        "all-to-all": 32,
    }
    groups = {"all-reduce": 4, "all-gather": 8, "reduce-scatter": 4, "all-to-all": 4}
    assert {kind: found[kind].group for kind in groups} == groups
    # by the ring algorithms: twice three quarters, seven eighths, three quarters
    assert found["all-reduce"].sent == 60 and found["all-gather"].sent == 224
    assert found["reduce-scatter"].sent == 24 and found["collective-permute"].sent == 96


def test_reader_refuses_what_it_cannot_count():
    with pytest.raises(ValueError, match="unknown length"):
        read_collectives(HLO.replace('{"known_trip_count":{"n":"3"}}', "{}"))
    with pytest.raises(ValueError, match="no ENTRY"):
        read_collectives("nothing")


# a collective that a compiler for TPUs spreads over fusions, and one in a loop without a note
SPREAD = """HloModule jit_step, num_partitions=8

%part1 (p: u8[4]) -> u8[32] {
  %p = u8[4]{0} parameter(0)
  ROOT %begin = u8[32]{0} all-gather(%p), channel_id=2, replica_groups=[1,8]<=[8]
}

%part2 (p: u8[4]) -> u8[32] {
  %p = u8[4]{0} parameter(0)
  ROOT %end = u8[32]{0} all-gather(%p), channel_id=2, replica_groups=[1,8]<=[8]
}

%condition (t: (s32[], f32[4])) -> pred[] {
  %t = (s32[], f32[4]{0}) parameter(0)
  %i = s32[] get-tuple-element(%t), index=0
  %n = s32[] constant(5)
  ROOT %lt = pred[] compare(%i, %n), direction=LT
}

%body (t: (s32[], f32[4])) -> (s32[], f32[4]) {
  %t = (s32[], f32[4]{0}) parameter(0)
  %i = s32[] get-tuple-element(%t), index=0
  %one = s32[] constant(1)
  %next = s32[] add(%i, %one)
  %x = f32[4]{0} get-tuple-element(%t), index=1
  %sum = f32[4]{0} all-reduce(%x), channel_id=3, replica_groups=[1,8]<=[8], to_apply=%add
  ROOT %r = (s32[], f32[4]{0}) tuple(%next, %sum)
}

ENTRY %main (a: u8[4], b: f32[4]) -> f32[4] {
  %a = u8[4]{0} parameter(0)
  %b = f32[4]{0} parameter(1)
  %f = u8[32]{0} fusion(%a), kind=kCustom, calls=%part1
  %g = u8[32]{0} fusion(%a), kind=kCustom, calls=%part2
  %zero = s32[] constant(0)
  %init = (s32[], f32[4]{0}) tuple(%zero, %b)
  %w = (s32[], f32[4]{0}) while(%init), condition=%condition, body=%body
  ROOT %r = f32[4]{0} get-tuple-element(%w), index=1
}
"""


def test_reader_counts_parts_in_fusions_once_and_loops_by_their_condition():
    assert payload_by_kind(read_collectives(SPREAD)) == {"all-gather": 32, "all-reduce": 5 * 16}
