"""The model card of an exported encoder: README.md with the hub's first lines."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax

from nsneg_jax import models
from nsneg_jax.embedding import Pretrained
from nsneg_jax.input.labelled import view_text
from nsneg_jax.pytorch.hub.history import History, named
from nsneg_jax.pytorch.states import in_torchvision
from nsneg_jax.training.described import of_two_views
from nsneg_jax.training.workdir import flatten

_PAPER = (
    "*Robust Contrastive Learning Using Negative Samples with Diminished Semantics* (Ge et al., "
    "NeurIPS 2021, [arXiv 2110.14189](https://arxiv.org/abs/2110.14189))"
)
_TRANSFORMERS = {"vit_tiny": "ViT-Ti", "vit_small": "ViT-S", "vit_base": "ViT-B"}
_LICENCE = (
    "# license:   <- whoever publishes this states it here, such as apache-2.0, and removes the #"
)


def card(source: Pretrained, history: History, folder: str, features: int) -> str:
    """Returns the card.

    Args:
        source: the encoder.
        history: what is known of its training.
        folder: name of the exported folder.
        features: length of its features.
    """
    parts = [
        _first_lines(source, history),
        f"# {folder}",
        _what_it_is(source, history, features),
        "## Training",
        _table(_training(source, history)),
        "## Results",
        _results(history),
        "## Images",
        _images(source),
        "## Use",
        _use(source, folder),
        "## Licence",
        "Not stated. The weights are not covered by the licence of nsneg_jax: whoever publishes "
        "them chooses one, minding the licence of the training images, and writes it into the "
        "first lines of this file.",
    ]
    return "\n\n".join(parts) + "\n"


def _first_lines(source: Pretrained, history: History) -> str:
    task = "image-feature-extraction" if source.classifier is None else "image-classification"
    library = ["library_name: timm"] if in_torchvision(source.model) else []
    method = history.config.get("method", "moco")
    tags = ["contrastive-learning", str(method), "nsneg_jax", *(["timm"] if library else [])]
    return "\n".join(
        (
            "---",
            _LICENCE,
            *library,
            f"pipeline_tag: {task}",
            "tags:",
            *(f"- {tag}" for tag in tags),
            "---",
        )
    )


def _what_it_is(source: Pretrained, history: History, features: int) -> str:
    count = sum(leaf.size for leaf in jax.tree.leaves(source.params))
    network = _network(source.model)
    width = source.model.get("width", 64)
    odd = "" if width == 64 else f" of width {width}"
    text = f"A {network} encoder{odd}: {features:,} features, {count:,} parameters. "
    if history.config:
        if history.config.get("pretrained"):
            text += f"It began with the weights of {_start(history)}, and was trained on"
        else:
            text += "It was pre-trained"
        text += f" without labels by {_method(history.config)}"
        text += f": {_PAPER}." if _negatives(history.config) else "."
    else:
        text += "How it was pre-trained is not recorded with it."
        if history.imported:
            text += f" It was imported from the file `{history.imported}`."
    if source.classifier is not None:
        outputs = len(source.classifier["bias"])
        text += f" The file also has a linear classifier of {outputs:,} classes"
        text += "" if source.classes else ", whose names are not recorded"
        text += "."
    return text


def _start(history: History) -> str:
    """Names the weights that a run began with, without the folders of one machine."""
    return history.started_from or named(str(history.config["pretrained"]))


def _network(model: Mapping[str, Any]) -> str:
    """Returns the usual name of a network, such as ResNet-50 or ViT-S/16."""
    arch = model["arch"]
    if arch in _TRANSFORMERS:
        return f"{_TRANSFORMERS[arch]}/{model.get('token_size', 16)}"
    return str(arch).replace("resnet", "ResNet-")


def _method(config: Mapping[str, Any]) -> str:
    names = {"moco": "MoCo v2", "byol": "BYOL", "simclr": "SimCLR", "mocov3": "MoCo v3"}
    given = str(config.get("method", "moco"))
    method = names.get(given, given)
    kinds = _negatives(config)
    return f"{method} with {kinds} negatives" if kinds else method


def _negatives(config: Mapping[str, Any]) -> str:
    negatives = config.get("negatives", {})
    kind, more = str(negatives.get("kind", "none")), str(negatives.get("more", ""))
    kinds = [] if kind == "none" else [kind.replace("+", " and ")]
    return " and ".join([*kinds, *[more] * bool(more)])


def _training(source: Pretrained, history: History) -> Iterator[tuple[str, str]]:
    """Yields name and value of each known setting."""
    fields = {name: value for name, value in flatten(history.config).items() if value is not None}

    def value(name: str) -> str:
        found = fields.get(name, "unknown")
        return f"{found:g}" if isinstance(found, float) else str(found)

    if not fields:
        yield "settings", "not recorded"
        return
    images = "" if history.images is None else f", {history.images:,} images"
    yield "data", f"{named(fields.get('data.source', ''))}, split {value('data.split')}{images}"
    if fields.get("pretrained"):
        yield "started from", _start(history)
    yield "method", _method(history.config)
    kind = fields.get("negatives.kind", "none")
    if kind != "none":
        alpha = f"{value('negatives.alpha')}, {value('negatives.num')} per image"
        if "+" in kind:
            alpha += f"; of the texture {value('negatives.texture_alpha')}"
        yield "alpha of the negatives", alpha
        if "patch" in kind:
            low, high = fields["negatives.patch_size"]
            yield "patches", f"{low} to {high} px at 224, {value('negatives.patch_mode')}"
    if fields.get("negatives.more"):
        yield "more negatives", value("negatives.more")
    if fields.get("loss.name", "infonce") != "infonce":
        yield "loss", f"{value('loss.name')}, epsilon {value('loss.epsilon')}"
    if fields.get("mochi.pairs") or fields.get("mochi.with_query"):
        numbers = [value(f"mochi.{name}") for name in ("hardest", "pairs", "with_query")]
        yield "MoCHi (N, s, s')", ", ".join(numbers)
    yield (
        "contrast",
        of_two_views(history.config)
        or f"queue {value('moco.queue_size')}, momentum {value('moco.momentum')}, "
        f"temperature {value('moco.temperature')}",
    )
    yield (
        "optimiser",
        f"{value('optimizer.name')}, learning rate {value('optimizer.learning_rate')}, momentum "
        f"{value('optimizer.momentum')}, weight decay {value('optimizer.weight_decay')}"
        + (f", anchor {value('optimizer.anchor')}" if fields.get("optimizer.anchor") else ""),
    )
    yield "schedule", f"{value('optimizer.schedule')} over {value('epochs')} epochs"
    step = "unknown" if history.step is None else f"{history.step:,}"
    yield "steps done", f"{step}, {value('batch_size')} images each"
    groups = value("model.bn_groups")
    if models.has_batch_norm(**source.model):
        yield "batch norm", f"{groups} {'group' if groups == '1' else 'groups'} per batch"
    yield "views", f"{value('data.image_size')} px"
    yield "computation", f"{value('model.dtype')}, products {value('model.precision')}"
    yield "seed", value("seed")
    yield from _trained_with(history.start)
    if history.probe:
        probe = flatten(history.probe)
        data = f"{named(str(probe.get('data.source', '')))}, split {probe.get('data.split')}"
        yield "classifier", f"trained for {probe.get('epochs')} epochs on {data}"


def _trained_with(start: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yields hardware and versions of the last start of the run."""
    if not start:
        return
    yield "hardware", f"{start.get('devices')} x {start.get('device')}"
    versions = start.get("versions", {})
    yield "software", ", ".join(f"{name} {number}" for name, number in versions.items())
    git = start.get("git") or {}
    if git.get("commit"):
        changed = ", with changes" if git.get("changed") else ""
        yield "commit", f"{git['commit'][:12]}{changed}"
    yield "last start", str(start.get("time", "unknown"))


def _results(history: History) -> str:
    if not history.figures:
        return (
            "None are stored with the run. `nsneg knn`, `nsneg linear` and `nsneg evaluate` "
            "measure them; add them here with the data they are of."
        )
    return _table(((what, f"{value:.2f} % ({note})") for what, value, note in history.figures))


def _images(source: Pretrained) -> str:
    if source.image_size is None or source.resize is None:
        return "The size of the images is not recorded."
    text = (
        f"RGB, prepared as in the evaluations: {view_text(source.resize, source.image_size)}"
        f"{', bilinear with antialiasing' if source.resize else ''}; divided by 255; ImageNet's "
        "mean and standard deviation."
    )
    if source.resize == 0:
        text += (
            " timm's transform cannot leave the resize out: it makes the shorter side "
            f"{source.image_size} px first, which changes nothing for pictures of that size."
        )
    return text


def _use(source: Pretrained, folder: str) -> str:
    call = 'features = encoder.embed(["a.jpg", "b.jpg"])  # float32 [N, F]'
    if source.classifier is not None:
        call += '\nanswers = encoder.classify(["a.jpg", "b.jpg"])  # labels, names, probabilities'
    ours = f"""With nsneg_jax:

```python
from nsneg_jax import load_pretrained

encoder = load_pretrained("{folder}")
{call}
```"""
    if not in_torchvision(source.model):
        return (
            f"{ours}\n\ntimm and torchvision have no such network (arch, width, stem), so they "
            "cannot load this folder. The names of the weights follow theirs."
        )
    return f"""{ours}

With timm, from this folder or, once it is uploaded, from the hub:

```python
import timm

model = timm.create_model("local-dir:{folder}", pretrained=True)  # or "hf_hub:USER/NAME"
settings = timm.data.resolve_model_data_config(model)
transform = timm.data.create_transform(**settings, is_training=False)
encoder = timm.create_model("local-dir:{folder}", pretrained=True, num_classes=0)
```

`num_classes=0` gives the features, before any classifier."""


def _table(rows: Any) -> str:
    lines = (f"| {name} | {_cell(value)} |" for name, value in rows)
    return "\n".join(("| | |", "|---|---|", *lines))


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
