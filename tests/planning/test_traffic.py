"""What a program reads and writes: of texts made by hand, and of programs as compiled."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nsneg_jax.planning.hlo import read_module
from nsneg_jax.planning.traffic import Move, Traffic, entry_bytes, read_traffic

KB = 1024  # f32[256]


def module(entry: str, *computations: str) -> str:
    """The text of a module; `entry` is the lines of its entry, which has f32[256] %a and %b."""
    head = "%{} (p: f32[256]) -> f32[256] {{"
    parts = [
        head.format(text.partition(":")[0]) + text.partition(":")[2] + "}" for text in computations
    ]
    lines = """ENTRY %main (a: f32[256], b: f32[256]) -> f32[256] {
  %a = f32[256]{0} parameter(0)
  %b = f32[256]{0} parameter(1)
  %zero = s32[] constant(0)
  %one = s32[] constant(1)
"""
    return "\n".join(["HloModule jit_test", *parts, lines + entry + "}", ""])


def moves(entry: str, *computations: str) -> list[Move]:
    return read_traffic(module(entry, *computations)).moves


def only(entry: str, *computations: str) -> Move:
    (move,) = moves(entry, *computations)
    return move


def test_plain_instruction_reads_its_operands_and_writes_its_result():
    move = only("  ROOT %sum = f32[256]{0} add(%a, %b)\n")
    assert (move.kind, move.times, move.read, move.written) == ("add:sum", 1, 2 * KB, KB)
    assert not move.transposes and move.total == 3 * KB


@pytest.mark.parametrize(
    "line",
    [
        "%t = (f32[256]{0}, s32[]) tuple(%a, %zero)",
        "%t = f32[16,16]{1,0} bitcast(%a)",
        "%t = f32[256]{0} opt-barrier(%a)",
        '%t = f32[256]{0} custom-call(), custom_call_target="AllocateBuffer"',
    ],
)
def test_names_and_buffers_move_nothing(line):
    assert sum(move.total for move in moves(f"  {line}\n")) == 0


@pytest.mark.parametrize(
    ("line", "read", "written"),
    [
        # the index has 4 bytes
        ("%t = f32[8]{0} dynamic-slice(%a, %zero), dynamic_slice_sizes={8}", 32 + 4, 32),
        ("%t = f32[8]{0} slice(%a), slice={[0:8]}", 32, 32),
        ("%t = f32[256]{0} dynamic-update-slice(%a, %u, %zero)", 16 + 4, 16),
        ("%t = f32[4,2]{1,0} gather(%m, %i), offset_dims={1}", 32 + 16, 32),
        # adds to what is there
        ("%t = f32[128,2]{1,0} scatter(%m, %i, %n), to_apply=%add", 16 + 32 + 32, 32),
        ("%t = f32[256]{0} broadcast(%one), dimensions={}", 4, KB),
    ],
)
def test_parts_of_arrays(line, read, written):
    entry = f"""
  %u = f32[4]{{0}} parameter(2)
  %m = f32[128,2]{{1,0}} parameter(3)
  %i = s32[4]{{0}} parameter(4)
  %n = f32[4,2]{{1,0}} parameter(5)
  {line}
"""
    move = only(entry)
    assert (move.read, move.written) == (read, written)


# instructions of a fused computation, of f32[256] %p; bytes read and written
FUSED = {
    "whole": (["f32[256] negate(%p)"], KB, KB),
    "slice": (["f32[8] slice(%p), slice={[0:8]}"], 32, 32),
    "slice of what is computed of it": (
        ["%x = f32[256] negate(%p)", "f32[8] slice(%x), slice={[8:16]}"], 32, 32,
    ),
    "slices that overlap read it once": (
        ["%x = f32[200] slice(%p), slice={[0:200]}", "%y = f32[200] slice(%p), slice={[56:256]}",
         "f32[200] add(%x, %y)"], KB, 800,
    ),
    "slice and whole": (
        ["%x = f32[1] slice(%p), slice={[0:1]}", "%y = f32[256] broadcast(%x), dimensions={0}",
         "f32[256] add(%p, %y)"], KB, KB,
    ),
    "update in place": (
        ["%u = f32[4] constant({1, 2, 3, 4})", "%z = s32[] constant(0)",
         "f32[256] dynamic-update-slice(%p, %u, %z)"], 0, 16,
    ),
    "update of something else": (
        ["%x = f32[256] negate(%p)", "%u = f32[4] constant({1, 2, 3, 4})", "%z = s32[] constant(0)",
         "f32[256] dynamic-update-slice(%x, %u, %z)"], KB, KB,
    ),
    "sum": (
        ["%z = f32[] constant(0)", "f32[] reduce(%p, %z), dimensions={0}, to_apply=%add"], KB, 4,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FUSED)
def test_fusion_reads_what_its_results_need(case):
    (*lines, last), read, written = FUSED[case]
    body = "".join(f"  {line}\n" for line in ["%p = f32[256] parameter(0)", *lines])
    result = last.partition(" ")[0]
    move = only(
        f"  ROOT %f = {result} fusion(%a), kind=kLoop, calls=%fused\n",
        f"fused:\n{body}  ROOT %r = {last}\n",
    )
    assert (move.read, move.written) == (read, written)


def test_fusion_of_several_results():
    fused = """fused:
  %p = f32[256]{0} parameter(0)
  %q = f32[256]{0} parameter(1)
  %x = f32[256]{0} negate(%p)
  %y = f32[] bitcast(%p)
  ROOT %r = (f32[256]{0}, f32[256]{0}) tuple(%x, %q)
"""
    entry = "  ROOT %f = (f32[256]{0}, f32[256]{0}) fusion(%a, %b), kind=kLoop, calls=%fused\n"
    move = only(entry, fused)
    # %q is handed on
    assert (move.read, move.written) == (KB, KB)


def test_fusion_of_an_instruction_with_several_results():
    fused = """fused:
  %p = f32[256]{0} parameter(0)
  %q = s32[256]{0} iota(), iota_dimension=0
  %z = f32[] constant(0)
  %y = s32[] constant(0)
  ROOT %r = (f32[], s32[]) reduce(%p, %q, %z, %y), dimensions={0}, to_apply=%least
"""
    move = only("  ROOT %f = (f32[], s32[]) fusion(%a), kind=kInput, calls=%fused\n", fused)
    assert (move.read, move.written) == (KB, 8)


def test_results_of_a_fusion_in_a_fusion():
    inner = """inner:
  %p = f32[256]{0} parameter(0)
  %x = f32[8]{0} slice(%p), slice={[0:8]}
  ROOT %r = (f32[256]{0}, f32[8]{0}) tuple(%p, %x)
"""
    outer = """outer:
  %p = f32[256]{0} parameter(0)
  %f = (f32[256]{0}, f32[8]{0}) fusion(%p), kind=kLoop, calls=%inner
  %x = f32[256]{0} get-tuple-element(%f), index=0
  %y = f32[8]{0} get-tuple-element(%f), index=1
  ROOT %r = (f32[8]{0}, f32[256]{0}) tuple(%y, %x)
"""
    entry = "  ROOT %f = (f32[8]{0}, f32[256]{0}) fusion(%a), kind=kOutput, calls=%outer\n"
    move = only(entry, inner, outer)
    assert (move.read, move.written) == (32, 32)


def test_fusion_in_a_fusion():
    inner = (
        "inner:\n  %p = f32[256]{0} parameter(0)\n  ROOT %r = f32[8]{0} slice(%p), slice={[0:8]}\n"
    )
    outer = """outer:
  %p = f32[256]{0} parameter(0)
  %x = f32[8]{0} fusion(%p), kind=kLoop, calls=%inner
  ROOT %r = f32[8]{0} negate(%x)
"""
    move = only("  ROOT %f = f32[8]{0} fusion(%a), kind=kOutput, calls=%outer\n", inner, outer)
    assert (move.read, move.written) == (32, 32)


def test_arrays_in_other_memories_are_left_out():
    entry = """
  %s = (f32[256]{0:T(256)S(1)}, f32[256]{0:T(256)}, u32[]{:S(2)}) copy-start(%a)
  %d = f32[256]{0:T(256)S(1)} copy-done(%s)
  %n = f32[256]{0:T(256)S(1)} negate(%d)
  ROOT %r = f32[256]{0:T(256)} negate(%n)
"""
    assert [(m.read, m.written) for m in moves(entry)] == [(KB, 0), (0, 0), (0, KB)]


def loop(start: str, trips: str, limit: int = 5, step: int = 1) -> Traffic:
    body = f"""body:
  %t = (s32[], f32[256]{{0}}) parameter(0)
  %i = s32[] get-tuple-element(%t), index=0
  %k = s32[] constant({step})
  %j = s32[] add(%i, %k)
  %x = f32[256]{{0}} get-tuple-element(%t), index=1
  %y = f32[256]{{0}} negate(%x)
  ROOT %next = (s32[], f32[256]{{0}}) tuple(%j, %y)
"""
    condition = f"""condition:
  %t = (s32[], f32[256]{{0}}) parameter(0)
  %i = s32[] get-tuple-element(%t), index=0
  %n = s32[] constant({limit})
  ROOT %lt = pred[] compare(%i, %n), direction=LT
"""
    entry = f"""
  %from = s32[] copy({start})
  %init = (s32[], f32[256]{{0}}) tuple(%from, %a)
  %w = (s32[], f32[256]{{0}}) while(%init), condition=%condition, body=%body{trips}
  ROOT %r = f32[256]{{0}} get-tuple-element(%w), index=1
"""
    return read_traffic(module(entry, body, condition))


KNOWN = ', backend_config={"known_trip_count":{"n":"7"}}'


@pytest.mark.parametrize(
    ("arguments", "times", "unknown"),
    [
        (("%zero", KNOWN), 7, 0),
        (("%zero", ""), 5, 0),
        (("%one", ""), 1, 1),
        (("%zero", "", 5, 2), 1, 1),
    ],
    ids=["noted", "counted", "starts elsewhere", "in steps of two"],
)
def test_loops_count_as_often_as_they_run(arguments, times, unknown):
    traffic = loop(*arguments)
    assert [m.total for m in traffic.moves if m.kind == "negate:y"] == [times * 2 * KB]
    assert traffic.unknown_loops == unknown


def test_of_branches_the_one_that_moves_most():
    little = (
        "little:\n  %p = f32[256]{0} parameter(0)\n  ROOT %n = f32[8]{0} slice(%p), slice={[0:8]}\n"
    )
    much = "much:\n  %p = f32[256]{0} parameter(0)\n  ROOT %n = f32[256]{0} negate(%p)\n"
    entry = """
  ROOT %c = f32[256]{0} conditional(%zero, %a, %a), branch_computations={%little, %much}
"""
    assert [m.total for m in moves(entry, little, much)] == [2 * KB]


def test_calls_are_followed():
    called = "called:\n  %p = f32[256]{0} parameter(0)\n  ROOT %n = f32[256]{0} negate(%p)\n"
    entry = """
  %c = f32[256]{0} call(%a), to_apply=%called
  %s = ((f32[256]{0}), f32[256]{0}) async-start(%c), calls=%called
  ROOT %d = f32[256]{0} async-done(%s), calls=%called
"""
    assert [m.total for m in moves(entry, called)] == [2 * KB, 2 * KB]


def test_collectives_and_their_parts_in_fusions_count_once():
    part = """part{0}:
  %p = f32[256]{{0}} parameter(0)
  %g = f32[1024]{{0}} all-gather(%p), channel_id=3, dimensions={{0}}
  %c = (f32[1024]{{0:S(1)}}, u32[]{{:S(2)}}) custom-call(%g), custom_call_target="Part"
  %h = f32[1024]{{0}} get-tuple-element(%c), index=0
  ROOT %r = (f32[1024]{{0}}, f32[256]{{0}}) tuple(%h, %p)
"""
    entry = """
  %s = (f32[256]{0}, f32[1024]{0}) all-gather-start(%a), channel_id=2, dimensions={0}
  %d = f32[1024]{0} all-gather-done(%s)
  %f = (f32[1024]{0}, f32[256]{0}) fusion(%b), kind=kCustom, calls=%part1
  ROOT %l = (f32[1024]{0}, f32[256]{0}) fusion(%b), kind=kCustom, calls=%part2
"""
    found = moves(entry, part.format(1), part.format(2))
    assert [(m.read, m.written) for m in found] == [(KB, 4 * KB), (KB, 4 * KB), (0, 0)]


TRANSPOSES = {
    "transpose": ("%t = f32[16,8]{1,0} transpose(%m), dimensions={1,0}", True),
    "transpose of the names alone": ("%t = f32[16,8]{0,1} transpose(%m), dimensions={1,0}", False),
    "of a side of one": ("%t = f32[8,1,16]{2,1,0} transpose(%v), dimensions={1,0,2}", False),
    "copy": ("%t = f32[8,16]{1,0} copy(%m)", False),
    "copy to another layout": ("%t = f32[8,16]{0,1} copy(%m)", True),
    "fused": ("%t = f32[16,8]{1,0} fusion(%m), kind=kInput, calls=%turned", True),
    "fused, not the result": ("%t = f32[] fusion(%m), kind=kInput, calls=%summed", False),
}  # fmt: skip


@pytest.mark.parametrize("case", TRANSPOSES)
def test_what_counts_as_transposed(case):
    line, expected = TRANSPOSES[case]
    turned = """turned:
  %p = f32[8,16]{1,0} parameter(0)
  %n = f32[8,16]{1,0} negate(%p)
  %t = f32[16,8]{1,0} transpose(%n), dimensions={1,0}
  ROOT %c = f32[16,8]{1,0} multiply(%t, %t)
"""
    summed = """summed:
  %p = f32[8,16]{1,0} parameter(0)
  %t = f32[16,8]{1,0} transpose(%p), dimensions={1,0}
  %z = f32[] constant(0)
  ROOT %r = f32[] reduce(%t, %z), dimensions={0,1}, to_apply=%add
"""
    entry = f"""
  %m = f32[8,16]{{1,0}} parameter(2)
  %v = f32[1,8,16]{{2,1,0}} parameter(3)
  {line}
"""
    traffic = read_traffic(module(entry, turned, summed))
    assert traffic.transposed == (traffic.moved if expected else 0)


def test_kinds_are_summed_and_sorted():
    entry = """
  %loop_add_fusion.3 = f32[256]{0} fusion(%a), kind=kLoop, calls=%negated
  %loop_add_fusion = f32[256]{0} fusion(%a), kind=kLoop, calls=%negated
  ROOT %sort.1 = f32[256]{0} sort(%b), dimensions={0}
"""
    negated = "negated:\n  %p = f32[256]{0} parameter(0)\n  ROOT %n = f32[256]{0} negate(%p)\n"
    traffic = read_traffic(module(entry, negated))
    assert traffic.largest(2) == [("fusion:loop_add_fusion", 2, 4 * KB), ("sort", 1, 2 * KB)]
    assert traffic.largest(1) == [("fusion:loop_add_fusion", 2, 4 * KB)]


def test_rougher_count_takes_operands_as_a_whole_and_loops_once():
    sliced = "  ROOT %s = f32[8]{0} slice(%a), slice={[0:8]}\n"
    assert entry_bytes(read_module(module(sliced))) == KB + 32
    looped = """
  %init = (s32[], f32[256]{0}) tuple(%zero, %a)
  ROOT %w = (s32[], f32[256]{0}) while(%init), condition=%c, body=%b
"""
    assert entry_bytes(read_module(module(looped))) == 2 * (KB + 4)


def test_text_must_be_a_module():
    with pytest.raises(ValueError, match="no ENTRY"):
        read_traffic("nothing")


def compiled(function, *arrays) -> Traffic:
    return read_traffic(jax.jit(function).lower(*arrays).compile().as_text())


def test_elementwise_program_as_it_is_compiled():
    x = np.zeros((64, 256), np.float32)
    assert compiled(lambda x: jnp.sin(x) + 1, x).moved == 2 * x.nbytes


def test_scan_as_it_is_compiled():
    """Ten iterations each read a row and update a sum; none reads all rows."""
    x = np.zeros((10, 4096), np.float32)
    traffic = compiled(
        lambda x: jax.lax.scan(lambda s, row: (s + jnp.sin(row), None), x[0], x)[0], x
    )
    row = x[0].nbytes
    moved = sum(m.total for m in traffic.moves if m.times == 10)
    # row and sum read, sum written; counters and conditions are a few bytes
    assert 10 * 3 * row <= moved <= 10 * (3 * row + 64)
    assert traffic.unknown_loops == 0


def test_loop_that_data_ends_is_reported():
    def halve(x):
        return jax.lax.while_loop(lambda x: x.max() > 1, lambda x: x / 2, x)

    assert compiled(halve, np.ones(64, np.float32)).unknown_loops == 1


def test_update_of_a_row_as_it_is_compiled():
    """Replacing a row of a donated queue does not copy the queue."""
    queue, row = np.zeros((1024, 128), np.float32), np.zeros((1, 128), np.float32)
    put = jax.jit(lambda q, r, i: jax.lax.dynamic_update_slice(q, r, (i, 0)), donate_argnums=0)
    moved = read_traffic(put.lower(queue, row, 3).compile().as_text()).moved
    assert 2 * row.nbytes <= moved <= 2 * row.nbytes + 64
