"""Estimates of weak scaling: the arithmetic of a row, and the message for a mistake."""

from benchmarks import scaling
from configs import patch
from nsneg_jax.planning.collectives import Collective
from nsneg_jax.planning.compile import Program


def test_row_is_the_arithmetic_that_the_text_says():
    exchanges = {
        "crops": Collective("all-gather", (("", 8_000_000),), 8, 1),  # sends 7 MB
        "gradients": Collective("all-reduce", (("", 4_000_000),), 8, 1),  # sends 7 MB
        "embeddings": Collective("all-gather", (("", 800),), 8, 1),  # sends 700 bytes
    }
    program = Program(1, 1, 1, 1, 2_000_000_000, 1e12, exchanges, None, 8)
    row = scaling.row(program, 8, "device", [1e9, 14e7], 50e12)
    assert row == [
        "8", "device", "2.0", "20", "7 MB", "7 MB", "700 B",
        # 14 MB, beside 20 ms of computing
        "14.0 ms, 59 %", "100.0 ms, 17 %",
    ]  # fmt: skip


def test_each_device_has_its_images_and_its_group():
    config = scaling.scaled(patch.get_config(), 512, 64, "data")
    assert (config.batch_size, config.model.bn_groups, config.moco.shuffle) == (32768, 512, "data")
    assert config.moco.queue_size >= config.batch_size
    assert patch.get_config().batch_size == 512  # the original is as it was


def test_config_is_asked_for(capsys):
    assert scaling.main(["scaling"]) == 2
    assert "--config is missing" in capsys.readouterr().err
