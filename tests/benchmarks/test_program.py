"""What a program costs on accelerators: the command line, the line printed, and one compilation."""

import json
from pathlib import Path

import pytest

from benchmarks import program
from nsneg_jax.errors import UsageError
from nsneg_jax.planning.collectives import Collective
from nsneg_jax.planning.cost import Cost
from nsneg_jax.planning.targets import CHIPS, read_target

ROOT = Path(program.__file__).parents[1]
PATCH = f"--config={ROOT / 'configs' / 'patch.py'}"
LINEAR = f"--config={ROOT / 'configs' / 'linear.py'}"
FIELDS = {
    "benchmark", "target", "devices", "program", "config", "compile_seconds", "arguments_GB",
    "temporary_GB", "moved_GB", "transposed_GB", "entry_GB", "unknown_loops", "compiler_bytes_GB",
    "flops", "collectives", "largest", "flags", "fell_back",
}  # fmt: skip
COST = Cost(
    seconds=12.34,
    arguments=2_000_000,
    results=1_000_000,
    aliased=1_000_000,
    temporary=3_000_000_000,
    moved=505_000_000_000,
    transposed=157_250_000_000,
    entry=504_000_000_000,
    unknown_loops=1,
    compiler_bytes=None,
    flops=None,
    collectives=[
        Collective("all-gather", (("u8", 100),), 8, 1),
        Collective("all-gather", (("u8", 100), ("f32", 8)), 8, 3),
        Collective("all-reduce", (("f32", 4), ("f32", 40)), 8, 1),
    ],
    largest=[("fusion:loop_add_fusion", 7, 1_500_000_000)],
    options={"xla_gpu_enable_triton_gemm": False},
)


def parse(*argv: str) -> program.Options:
    return program.parse(["program", *argv])


def test_command_line():
    options = parse("--target=h100:8", f"{PATCH}:tiny", "--config.model.dtype=bfloat16")
    assert options.target == read_target("h100:8") and options.program == "step"
    assert (options.config.model.dtype, options.config.batch_size) == ("bfloat16", 96)
    assert options.config_name.endswith("patch.py:tiny")
    assert (options.encoder.model.arch, options.classes) == ("resnet50", 100)


def test_encoder_of_a_job_that_has_one():
    encoder = PATCH.replace("--config=", "--encoder=")
    options = parse(
        "--target=v5e:2x4", "--program=probe", f"{LINEAR}:tiny", "--classes=10",
        f"{encoder}:tiny", "--encoder.model.width=8",
    )  # fmt: skip
    assert (options.program, options.config.job, options.classes) == ("probe", "linear", 10)
    assert (options.encoder.model.arch, options.encoder.model.width) == ("resnet8", 8)


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        ([PATCH], "--target"),
        (["--target=h100:1"], "--config"),
        (["--target=h100:1", "--config=nowhere.py"], "nowhere.py"),
        (["--target=h100:1", f"{PATCH}:huge"], "huge"),
        (["--target=h100:1", PATCH, "--config.nothing=1"], "nothing"),
        (["--target=h100:1", PATCH, "--config.batch_size=many"], "many"),
        (["--target=a100:1", PATCH], "a100:1"),
        (["--target=v5e:8", PATCH], "v5e:8"),
        (["--target=h100:1", PATCH, "--program=nothing"], "nothing"),
        (["--target=h100:1", PATCH, "word"], "word"),
    ],
)
def test_mistakes_are_named(argv, named):
    with pytest.raises(UsageError) as refused:
        parse(*argv)
    assert named in str(refused.value)


def test_program_of_another_job(capsys):
    assert program.main(["program", "--target=h100:1", "--program=probe", PATCH]) == 2
    assert "'pretrain'" in capsys.readouterr().err


@pytest.mark.parametrize(("target", "kind"), [("h100:1", "h100"), ("v5e:2x4", "v5e")])
def test_compiler_that_is_not_installed(target, kind, monkeypatch, capsys):
    monkeypatch.setitem(CHIPS, kind, CHIPS[kind]._replace(module="no_such_module_of_that_name"))
    assert program.main(["program", f"--target={target}", f"{PATCH}:tiny"]) == 2
    message = " ".join(capsys.readouterr().err.split())
    assert f"pip install '{CHIPS[kind].package}==" in message


def test_line():
    options = parse("--target=h100:8", f"{PATCH}:tiny")
    line = program.line(options, "step", 8, COST)
    assert line.keys() == FIELDS
    assert (line["target"], line["devices"], line["compile_seconds"]) == ("h100:8", 8, 12.3)
    assert (line["arguments_GB"], line["temporary_GB"]) == (0.002, 3.0)
    assert (line["moved_GB"], line["transposed_GB"], line["entry_GB"]) == (505.0, 157.2, 504.0)
    assert line["compiler_bytes_GB"] is line["flops"] is None
    assert line["largest"] == [{"kind": "fusion:loop_add_fusion", "count": 7, "GB": 1.5}]
    assert line["flags"] == ["--xla_gpu_enable_triton_gemm=false"] and line["fell_back"]
    found = {(c["kind"], c["dtype"]): (c["count"], c["bytes"]) for c in line["collectives"]}
    assert found == {
        ("all-gather", "u8"): (4, 400),
        ("all-gather", "f32"): (3, 24),
        ("all-reduce", "f32"): (1, 44),
    }


def lines(capsys, *argv: str) -> list[dict]:
    status = program.main(["program", *argv])
    captured = capsys.readouterr()
    assert status == 0, captured.err
    return [json.loads(line) for line in captured.out.splitlines()]


def target_here(gpu: str, tpu: str) -> str:
    """One of the targets whose compiler is installed."""
    for name in (gpu, tpu):
        if read_target(name).is_installed:
            return name
    pytest.skip("neither jax[cuda13] nor jax[tpu] is installed")


def test_step_as_an_accelerator_compiles_it(capsys):
    """A small step on 8 devices: crops and embeddings gathered, everything else in sums."""
    target = target_here("h100:8", "v5e:2x4")
    (line,) = lines(
        capsys, f"--target={target}", f"{PATCH}:tiny", "--config.model.bn_groups=8",
        "--config.model.width=8", "--config.data.image_size=16", "--config.model.arch=resnet18",
        "--config.views.jitter_probability=0", "--config.negatives.kind=none",
        "--config.negatives.alpha=0", "--config.negatives.num=0", "--config.model.stem=small",
    )  # fmt: skip
    assert line.keys() == FIELDS and (line["target"], line["devices"]) == (target, 8)
    assert 0 < line["transposed_GB"] < line["moved_GB"] and line["temporary_GB"] > 0
    gathered = {c["dtype"]: c["bytes"] for c in line["collectives"] if c["kind"] == "all-gather"}
    assert gathered == {"u8": 96 * 16 * 16 * 3, "f32": 96 * 64 * 4}
    assert {c["kind"] for c in line["collectives"]} == {"all-gather", "all-reduce"}
    assert (line["flops"] is None) == target.startswith("h100")


def test_search_as_an_accelerator_compiles_it(capsys):
    target = target_here("h100:1", "v5e:1x1")
    encoder = PATCH.replace("--config=", "--encoder=")
    (line,) = lines(
        capsys, f"--target={target}", "--program=knn", f"{LINEAR}:tiny", f"{encoder}:tiny"
    )
    assert line["program"] == "knn: search" and line["collectives"] == []
    # similarities of 1,024 queries and 8,192 images, in float32, once written and once read
    assert line["moved_GB"] > 2 * 1024 * 8192 * 4 / 1e9
