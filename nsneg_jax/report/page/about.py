"""The parts of a page that say what the runs are, and what else could be known of them."""

import json
import shlex
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from nsneg_jax.errors import UsageError
from nsneg_jax.report.charts.panels import short
from nsneg_jax.report.page import html
from nsneg_jax.report.page.runs import Run, differences
from nsneg_jax.training.described import of_two_views
from nsneg_jax.training.workdir import CHECKPOINTS

_MOST_OPEN = 3  # runs whose cards are open at first
_ENCODER = "pretrained"

# Columns of the table of pre-trainings: title, split and metric, factor, format.
_FIGURES = (
    ("loss", "train", "loss", ".3f"),
    ("contrast top-1, %", "train", "accuracy_top1", ".2f"),
    ("contrast top-5, %", "train", "accuracy_top5", ".2f"),
    ("to key", "train", "positive_similarity", ".3f"),
    ("to non-semantic", "train", "nonsemantic_similarity", ".3f"),
    ("to other images", "train", "negative_similarity", ".3f"),
    ("kNN, k = 20, %", "val", "knn_20", ".2f"),
    ("probe, %", "val", "probe_top1", ".2f"),
    ("RankMe", "val", "rankme", ".1f"),
    ("images/s", "train", "images_per_second", ",.0f"),
)


def cards(runs: Sequence[Run]) -> str:
    """Returns what each run is, as HTML."""
    trained = [run for run in runs if run.job == "pretrain"]
    opened = runs if len(runs) <= _MOST_OPEN else trained if len(trained) <= _MOST_OPEN else []
    parts = [
        f'<details class="card"{" open" if run in opened else ""}>'
        f"<summary>{escape(run.name)}: {escape(_job(run))}</summary>"
        f"{html.definitions(facts(run))}</details>"
        for run in runs
    ]
    return f'<div class="cards">{"".join(parts)}</div>'


def facts(run: Run) -> dict[str, str]:
    """Returns what a run is: a text by term, '' for what its files do not say."""
    start = run.starts[-1] if run.starts else {}
    config = run.config
    is_pretraining = run.job == "pretrain"
    return {
        "data": _data(run),
        "encoder": _encoder(config) if is_pretraining else _encoder_of(run),
        "started from": str(config.get(_ENCODER, "")) if is_pretraining else "",
        "classifier": str(run.results.get("classifier", "")),
        "method": _method(config) if is_pretraining else "",
        "negatives": _negatives(config) if is_pretraining else "",
        "schedule": _schedule(config) if run.job in _TRAINED else "",
        "done": _done(run),
        "precision": _precision(run),
        "hardware": _hardware(start) or str(run.results.get("device", "")),
        "versions": ", ".join(f"{name} {v}" for name, v in start.get("versions", {}).items()),
        "code": _code(start.get("git")),
        "started": _started(run.starts),
        "command": str(start.get("command", "")),
        "workdir": str(run.path),
    }


def last_figures(runs: Sequence[Run]) -> tuple[list[str], list[list[str]]]:
    """Returns the last figures of pre-trainings, a header and a row per run.

    Figures that no run has are left out.
    """
    runs = [run for run in runs if run.metrics]
    shown = [
        (title, split, metric, form)
        for title, split, metric, form in _FIGURES
        if any(run.last(metric, split) is not None for run in runs)
    ]
    rows = []
    for run in runs:
        row = [run.name, f"{run.metrics[-1].get('step', 0):,}"]
        for _, split, metric, form in shown:
            value = run.last(metric, split)
            row.append("-" if value is None else format(value, form))
        rows.append(row)
    return ["run", "step", *(title for title, *_ in shown)], rows


def settings(runs: Sequence[Run]) -> str:
    """Returns the settings in which runs of one job differ, as HTML; '' for single runs."""
    parts = []
    for job in dict.fromkeys(run.job for run in runs):
        of_job = [run for run in runs if run.job == job and run.config]
        if len(of_job) < 2:
            continue
        different, equal = differences(of_job)
        if list(different) == [_ENCODER] and job != "pretrain":
            continue  # the table of results names the encoders
        rows = [[name, *map(_value, values)] for name, values in different.items()]
        parts.append(html.heading(_JOBS.get(job, job)))
        if rows:
            parts.append(html.table(["setting", *(run.name for run in of_job)], rows))
        parts.append(html.paragraph(f"{equal} settings are equal.", "note"))
    return "".join(parts)


def elsewhere(runs: Sequence[Run], reasons: Sequence[str], has_umap: bool) -> str:
    """Returns what the page lacks and which commands would add it, as HTML; '' if nothing."""
    jobs = {run.job for run in runs}
    items = [escape(reason) for reason in reasons]
    trained = [run for run in runs if run.job == "pretrain"]
    for run in trained[:1]:
        tiny = (
            ":tiny"
            if str(run.config.get("data", {}).get("source", "")).startswith("shapes")
            else ""
        )
        path = str(run.path)
        probe, table = f"{path}-linear", f"{path}-eval"
        if not jobs & {"linear", "evaluate"}:
            items.append(
                "A linear probe: "
                + _command("linear", f"linear{tiny}", path, probe)
                + ", and then this report with its workdir too."
            )
        if "evaluate" not in jobs:
            items.append(
                "Robustness, corruptions, accuracy by class and cue conflicts: "
                + _command("evaluate", f"evaluate{tiny}", probe, table)
                + " after a linear probe."
            )
        if not any(str(name).startswith("knn_") for line in run.metrics for name in line):
            text = "kNN and a probe along a training: <code>--config.knn_every_epochs=10</code>"
            if "knn" not in jobs:
                text += "; at its end: " + _command("knn", f"linear{tiny}", path, f"{path}-knn")
            items.append(f"{text}.")
    if not trained:
        encoders = dict.fromkeys(str(run.results.get("encoder", "")) for run in runs)
        named = ", ".join(escape(name.partition(", step ")[0]) for name in encoders if name)
        items.append(
            "Training curves, views, similarities, neighbours and a map: give the workdir of the "
            f"pre-training too{f' ({named})' if named else ''}."
        )
    if not has_umap and trained:
        items.append("A map by UMAP instead of PCA: <code>pip install umap-learn</code>.")
    if not any(run.starts for run in runs):
        items.append("Versions, hardware and git state: runs of this version record them.")
    return f'<ul class="todo">{"".join(f"<li>{item}</li>" for item in items)}</ul>' if items else ""


_TRAINED = ("pretrain", "linear", "finetune")  # jobs that train
_JOBS = {
    "pretrain": "pre-training",
    "linear": "linear probe",
    "finetune": "fine-tuning",
    "knn": "kNN",
    "features": "features",
    "evaluate": "evaluation",
}


def _job(run: Run) -> str:
    return _JOBS.get(run.job, run.job or "results")


def _command(job: str, config: str, pretrained: str, workdir: str) -> str:
    given = f"--config.pretrained={shlex.quote(pretrained)} --workdir={shlex.quote(workdir)}"
    return f"<code>nsneg {job} --config={config} {escape(given)}</code>"


def _data(run: Run) -> str:
    data = run.config.get("data", {})
    if run.job == "evaluate":
        sets = run.results.get("sets", {})
        return f"{len(sets)} sets: {', '.join(sets)}" if sets else ""
    if not data.get("source"):
        return ""
    split = data.get("split" if run.job in _TRAINED else "eval_split")
    parts = [f"{data['source']} [{split}]"]
    if run.job == "pretrain" and run.steps:
        # Imported here, because only this needs JAX.
        from nsneg_jax.training.checkpoints.checkpoint import read_progress

        try:
            images = read_progress(run.path / CHECKPOINTS / str(run.steps[-1])).get("images")
            parts += [f"{images:,} images"] if images else []
        except UsageError:
            pass
    if run.results.get("validation_images"):
        parts.append(f"{run.results['validation_images']:,} validation images")
    return ", ".join([*parts, f"views of {data.get('image_size')} px"])


def _encoder(config: Mapping[str, Any]) -> str:
    model = config.get("model", {})
    if not model:
        return ""
    head = "MLP head" if model.get("mlp") else "linear head"
    if model.get("head", "moco") != "moco":
        head = f"{model['head']} head"
    head = f"{model.get('arch')}, {head} of {model.get('dim')} values"
    if str(model.get("arch")).startswith("vit_"):
        tokens = f"{'frozen ' if model.get('freeze_tokens') else ''}tokens"
        return (
            f"{head}, {tokens} of {model.get('token_size')} px, {model.get('positions')} positions"
        )
    groups = model.get("bn_groups")
    return (
        f"{head}, stem {model.get('stem')}, {groups} batch-norm group{'' if groups == 1 else 's'}"
    )


def _encoder_of(run: Run) -> str:
    """Returns the encoder that a run took."""
    return str(run.results.get("encoder") or run.config.get(_ENCODER, ""))


def _method(config: Mapping[str, Any]) -> str:
    moco, name = config.get("moco", {}), str(config.get("method", "moco"))
    if not moco:
        return str(config.get("method", ""))
    if settings := of_two_views(config):
        return f"{name}: {settings}"
    return (
        f"{name}: queue {moco.get('queue_size'):,}, momentum "
        f"{moco.get('momentum')}, temperature {moco.get('temperature')}"
    )


def _negatives(config: Mapping[str, Any]) -> str:
    negatives = config.get("negatives", {})
    kind = str(negatives.get("kind", ""))
    more = str(negatives.get("more", ""))
    if not negatives or (kind in ("", "none") and not more):
        return "none beyond the queue" if negatives else ""
    texts = []
    if kind not in ("", "none"):
        texts.append(f"{kind}, {negatives.get('num')} per query, alpha {negatives.get('alpha')}")
    if "patch" in kind:
        low, high = negatives.get("patch_size", ("?", "?"))
        texts.append(f"patches of {low} to {high} px at 224")
    return ", ".join([*texts, *[more] * bool(more)])


def _schedule(config: Mapping[str, Any]) -> str:
    optimizer = config.get("optimizer", {})
    rate = optimizer.get("learning_rate", config.get("learning_rates"))
    text = f"{config.get('epochs')} epochs, batch {config.get('batch_size')}"
    if rate is not None:
        text += f", learning rate {_value(rate)}, {optimizer.get('schedule', '')}"
    if optimizer.get("warmup_epochs"):
        text += f", warm-up of {optimizer['warmup_epochs']} epochs"
    name = optimizer.get("name", "sgd")
    if "weight_decay" in optimizer:
        text += f"; {name}, weight decay {optimizer['weight_decay']}"
    if optimizer.get("anchor"):
        text += f", anchor {optimizer['anchor']:g}"
    return f"{text}; seed {config.get('seed')}"


def _done(run: Run) -> str:
    if run.job != "pretrain" or not run.metrics:
        return ""
    text = f"{run.metrics[-1].get('step', 0):,} steps"
    batch = run.config.get("batch_size")
    seconds, before = 0.0, 0
    for line in run.metrics:
        speed = line.get("images_per_second")
        if line.get("split") == "train" and isinstance(speed, int | float) and speed > 0 and batch:
            seconds += (line["step"] - before) * batch / speed
            before = line["step"]
    if seconds:
        text += f", {_duration(seconds)} of training at the speeds in metrics.jsonl"
    return f"{text}; last checkpoint at step {run.steps[-1]:,}" if run.steps else text


def _duration(seconds: float) -> str:
    if seconds < 5400:
        return f"{seconds / 60:.1f} minutes"
    return f"{seconds / 3600:.1f} hours"


def _precision(run: Run) -> str:
    model = run.config.get("model", run.config) if run.job == "pretrain" else run.results
    found = [str(model[name]) for name in ("dtype", "precision") if model.get(name)]
    return ", products at least as exact as ".join(dict.fromkeys(found))


def _hardware(start: Mapping[str, Any]) -> str:
    if not start:
        return ""
    processes = start.get("processes", 1)
    text = f"{start.get('devices')} x {start.get('device')}"
    text += f" in {processes} processes" if processes != 1 else ""
    about = [f"{start.get('cpus')} CPU cores per host", start.get("system"), start.get("host")]
    return ", ".join([text, *(str(each) for each in about if each)])


def _code(git: Mapping[str, Any] | None) -> str:
    if not git:
        return ""
    changed = git.get("changed")
    state = (
        "no changes" if changed == 0 else f"{changed} changed files" if changed else "unknown state"
    )
    return f"git {str(git.get('commit', ''))[:12]} ({git.get('branch')}), {state}"


def _started(starts: Sequence[Mapping[str, Any]]) -> str:
    if not starts:
        return ""
    text = str(starts[0].get("time", "")).replace("T", " ").replace("+00:00", " UTC")
    resumed = [f"step {start.get('step', 0):,}" for start in starts[1:]]
    return f"{text}; resumed at {', '.join(resumed)}" if resumed else text


def _value(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return short(value)
    return value if isinstance(value, str) else json.dumps(value)
