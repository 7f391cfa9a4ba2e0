"""Wrong command lines by hand: broken config files, jobs, fields, paths, sizes."""

import os
from pathlib import Path

ROOT = Path(__file__).parents[2]

# contents of a config file, and a word of the message
FILES = {
    "syntax": ("def get_config(:\n", "line 1"),
    "syntax_late": ("import os\n\nx = (1,\n", "line 3"),
    "indent": ("def get_config():\nreturn 1\n", "line 2"),
    "empty": ("", "get_config"),
    "no_get_config": ("from configs import patch\nconfig = patch.get_config()\n", "get_config"),
    "value_named_get_config": ("get_config = 3\n", "get_config"),
    "returns_none": ("def get_config(variant=''):\n    pass\n", "NoneType"),
    "returns_dict": ("def get_config(variant=''):\n    return {'job': 'pretrain'}\n", "dict"),
    "returns_text": ("def get_config(variant=''):\n    return 'patch'\n", "str"),
    "returns_a_job_alone": (
        "from ml_collections import ConfigDict\n"
        "def get_config(variant=''):\n    return ConfigDict({'job': 'pretrain'})\n", "lacks"),
    "no_job": (
        "from ml_collections import ConfigDict\n"
        "def get_config(variant=''):\n    return ConfigDict({'epochs': 3})\n", "job is None"),
    "import": ("import no_such_module_here\n", "no_such_module_here"),
    "import_name": ("from configs import no_such_config\n", "no_such_config"),
    "raises": ("def get_config(variant=''):\n    raise ValueError('too warm')\n", "too warm"),
    "raises_key": ("def get_config(variant=''):\n    return {}['seed']\n", "KeyError"),
    "raises_attribute": ("def get_config(variant=''):\n    return (3).seed\n", "AttributeError"),
    "raises_os": ("def get_config(variant=''):\n    open('/no/such/file')\n", "/no/such/file"),
    "exits": ("import sys\nsys.exit(3)\n", "SystemExit"),
    "divides": ("x = 1 / 0\n", "ZeroDivisionError"),
    "recursion": ("def get_config(v=''):\n    return get_config(v)\n", "RecursionError"),
    "needs_a_variant": ("def get_config(variant):\n    return None\n", "variant"),
    "needs_more": ("def get_config(a, b):\n    return None\n", "variant"),
    "misspelt_field": (
        "from configs import patch\n"
        "def get_config(variant=''):\n"
        "    config = patch.get_config('tiny').unlock()\n"
        "    config.epoch = 3\n    return config\n", "'epochs'"),
    "locked_field": (
        "from configs import patch\n"
        "def get_config(variant=''):\n"
        "    config = patch.get_config('tiny')\n"
        "    config.epoch = 3\n    return config\n", "epoch"),
    "missing_field": (
        "from configs import patch\n"
        "def get_config(variant=''):\n"
        "    config = patch.get_config('tiny').unlock()\n"
        "    del config.moco.momentum\n    return config\n", "'moco.momentum'"),
    "wrong_type": (
        "from configs import patch\n"
        "def get_config(variant=''):\n"
        "    config = patch.get_config('tiny')\n"
        "    config.epochs = 'many'\n    return config\n", "epochs"),
    "placeholder": (
        "from ml_collections import config_dict\nfrom configs import patch\n"
        "def get_config(variant=''):\n"
        "    config = patch.get_config('tiny').unlock()\n"
        "    config.epochs = config_dict.required_placeholder(int)\n    return config\n", "epochs"),
    "object": (
        "from configs import patch\n"
        "def get_config(variant=''):\n"
        "    config = patch.get_config('tiny').unlock()\n"
        "    del config.pictures\n    config.pictures = object()\n    return config\n", "pictures"),
    "section_as_a_number": (
        "from configs import patch\n"
        "def get_config(variant=''):\n"
        "    config = patch.get_config('tiny').unlock()\n"
        "    del config.moco\n    config.moco = 3\n    return config\n", "moco"),
    "set_without_a_field": (
        "from configs import evaluate\n"
        "def get_config(variant=''):\n"
        "    config = evaluate.get_config('tiny').unlock()\n"
        "    del config.sets.clean.resize\n    config.pretrained = 'x'\n    return config\n",
        "clean"),
    "set_with_a_field": (
        "from configs import evaluate\n"
        "def get_config(variant=''):\n"
        "    config = evaluate.get_config('tiny').unlock()\n"
        "    config.sets.clean.rezise = 3\n    return config\n", "rezise"),
    "sets_as_a_list": (
        "from configs import evaluate\n"
        "def get_config(variant=''):\n"
        "    config = evaluate.get_config('tiny').unlock()\n"
        "    del config.sets\n    config.sets = [1]\n    return config\n", "sets"),
    "infinity_of_its_own": (
        "from configs import patch\n"
        "def get_config(variant=''):\n"
        "    config = patch.get_config('tiny').unlock()\n"
        "    config.mine = float('inf')\n    return config\n", "mine"),
    "null_in_a_path": (
        "from configs import patch\n"
        "def get_config(variant=''):\n"
        "    config = patch.get_config('tiny')\n"
        "    config.data.source = 'folder:a\\0b'\n    return config\n", "data.source"),
}  # fmt: skip

# job, overrides, words of the message
FIELDS = [
    # a job that does not fit
    ("patch", "job=linear", "'linear'"),
    ("patch", "job=evaluate", "'evaluate'"),
    ("patch", "job=knn", "'knn'"),
    ("patch", "job=features", "'features'"),
    ("patch", "job=train", "'train'"),
    ("patch", "job=", "job is ''"),
    ("linear", "job=pretrain", "'pretrain'"),
    ("linear", "job=evaluate", "'evaluate'"),
    ("evaluate", "job=knn", "'knn'"),
    ("evaluate", "job=pretrain", "'pretrain'"),
    # names
    ("patch", "alpha=3", "'negatives.alpha'"),
    ("patch", "negatives.alhpa=3", "'negatives.alpha'"),
    ("patch", "epochs.x=3", "'epochs.x'"),
    ("patch", "Epochs=3", "'epochs'"),
    ("patch", "knn.k=(5,)", "'knn.k'"),
    ("linear", "moco.momentum=0.9", "'moco.momentum'"),
    ("linear", "learning_rate=0.1", "'learning_rates'"),
    ("evaluate", "sets.sketsh.source=folder:x", "'sets.sketsh.source'"),
    ("patch", "views=3", "views"),
    ("patch", "views={'order':'v1'}", "views"),
    ("patch", "views.jitter[0]=3", "views.jitter"),
    # numbers that are none
    *(("patch", f"{name}={value}", name)
      for name in ("optimizer.learning_rate", "optimizer.weight_decay", "moco.temperature",
                   "negatives.alpha", "moco.momentum", "optimizer.momentum",
                   "data.max_bad_fraction", "views.flip_probability")
      for value in ("inf", "-inf", "nan", "1e400", "", "x", "0.1,0.2")),
    *(("patch", f"views.jitter=({value},0.4,0.4,0.1)", "views.jitter")
      for value in ("1e400", "'a'", "None", "-1", "1e30", "(1,)", "True")),
    ("patch", "views.jitter=(0.4,0.4,0.4,0.6)", "hue"),
    ("patch", "views.jitter=(0.4,)", "views.jitter"),
    ("patch", "views.jitter=()", "views.jitter"),
    ("patch", "views.jitter=0.4", "views.jitter"),
    ("patch", "views.jitter=[0.4,0.4", "views.jitter"),
    # seeds
    *((config, f"seed={seed}", "seed") for config in ("patch", "linear", "evaluate")
      for seed in (-1, 2**63, 2**64, 10**400, 1.5, "a", "")),
    # ranges
    ("patch", "views.crop_scale=(1e-30,1e-29)", "views.crop_scale"),
    ("patch", "views.crop_scale=(True,True)", "views.crop_scale"),
    ("patch", "views.crop_scale=(1.0,0.5)", "views.crop_scale"),
    ("patch", "views.crop_scale=(0,1)", "views.crop_scale"),
    ("patch", "views.crop_scale=(0.5,1.5)", "views.crop_scale"),
    ("patch", "views.blur_sigma=(0.1,1e30)", "views.blur_sigma"),
    ("patch", "views.blur_sigma=(0,1)", "views.blur_sigma"),
    ("patch", "views.blur_probability=1 views.blur_sigma=(1,17)", "views.blur_sigma"),
    ("patch", "moco.temperature=1e300", "moco.temperature"),
    ("patch", "moco.temperature=1e-6", "moco.temperature"),
    ("patch", "negatives.alpha=1e6", "negatives.alpha"),
    ("patch", "negatives.alpha=-1", "negatives.alpha"),
    ("patch", "negatives.num=1000", "negatives.num"),
    ("patch", "optimizer.learning_rate=1e-300", "optimizer.learning_rate"),
    ("patch", "optimizer.learning_rate=1e30", "optimizer.learning_rate"),
    ("patch", "optimizer.momentum=0.9999999", "optimizer.momentum"),
    ("patch", "optimizer.momentum=1", "optimizer.momentum"),
    ("patch", "moco.momentum=1", "moco.momentum"),
    ("patch", "optimizer.milestones=('a',)", "optimizer.milestones"),
    ("patch", "optimizer.milestones=(-5,)", "optimizer.milestones"),
    ("patch", "optimizer.milestones=(30,20)", "optimizer.milestones"),
    ("patch", "optimizer.milestones=(30,30)", "optimizer.milestones"),
    ("patch", "optimizer.milestones=(1.5,)", "optimizer.milestones"),
    ("patch", "optimizer.warmup_epochs=30", "optimizer.warmup_epochs"),
    ("patch", "optimizer.warmup_epochs=-1", "optimizer.warmup_epochs"),
    ("patch", "optimizer.name=", "optimizer.name"),
    ("patch", "epochs=0", "epochs"),
    ("patch", "epochs=1000000000000", "epochs"),
    ("patch", "epochs=1000000 data.source=shapes:1000000", "epochs"),
    ("patch", "total_steps=99999999999", "total_steps"),
    ("patch", "batch_size=0", "batch_size"),
    ("patch", "batch_size=-96", "batch_size"),
    ("patch", "batch_size=100", "batch_size"),
    ("patch", "batch_size=99999999999", "batch_size"),
    ("patch", "batch_size=1048576 moco.queue_size=1048576 data.image_size=512", "batch_size"),
    ("patch", "model.bn_groups=96", "model.bn_groups"),
    ("patch", "model.bn_groups=5", "model.bn_groups"),
    ("patch", "model.bn_groups=0", "model.bn_groups"),
    ("patch", "model.dim=1000000000", "model.dim"),
    ("patch", "model.dim=65536 moco.queue_size=2147483647", "moco.queue_size"),
    ("patch", "moco.queue_size=100000000000", "moco.queue_size"),
    ("patch", "moco.queue_size=64", "moco.queue_size"),
    ("patch", "moco.queue_size=2000000000", "moco.queue_size"),
    ("patch", "moco.shard_queue=True moco.queue_size=1001", "moco.queue_size"),
    ("patch", "model.width=100000", "model.width"),
    ("patch", "model.arch=vgg", "'resnet50'"),
    ("patch", "model.stem=large", "'small'"),
    ("patch", "model.dtype=float16", "'bfloat16'"),
    ("patch", "model.precision=low", "model.precision"),
    ("patch", "method=mocco", "method"),
    ("patch", "data.image_size=0", "data.image_size"),
    ("patch", "data.image_size=7", "data.image_size"),
    ("patch", "data.image_size=100000", "data.image_size"),
    ("patch", "data.image_size=8", "16 to 512"),
    ("patch", "data.resize=1000000", "data.resize"),
    ("patch", "data.resize=4096 data.image_size=512", "data.resize"),
    ("patch", "data.threads=100000", "data.threads"),
    ("patch", "data.threads=0", "data.threads"),
    ("patch", "data.workers=1000", "data.workers"),
    ("patch", "data.workers=-2", "data.workers"),
    ("patch", "negatives.patch_size=(0,10)", "negatives.patch_size"),
    ("patch", "negatives.patch_size=(16,300)", "negatives.patch_size"),
    ("patch", "negatives.patch_size=(72,16)", "negatives.patch_size"),
    ("patch", "negatives.patch_size=('a','b')", "negatives.patch_size"),
    ("patch", "negatives.patch_size=(1.5,3)", "negatives.patch_size"),
    ("patch", "negatives.kind=none", "negatives.alpha"),
    ("patch", "negatives.kind=texture negatives.num=2", "negatives.num"),
    ("patch", "negatives.kind=texture negatives.patch_mode=jigsaw", "negatives.patch_mode"),
    ("patch", "negatives.texture_alpha=1", "negatives.texture_alpha"),
    ("patch", "negatives.kind=texture", "negatives.texture_source"),
    ("patch", "negatives.more=low_frequncy@1", "low_frequncy"),
    ("patch", "negatives.more=low_frequency@@1", "negatives.more"),
    ("patch", "negatives.kind=none negatives.num=0 negatives.alpha=0 negatives.more=patch",
     "negatives.more"),
    ("patch", "loss.name=ifm", "loss.epsilon"),
    ("patch", "loss.epsilon=0.1", "loss.epsilon"),
    ("patch", "mochi.pairs=4", "mochi.hardest"),
    ("patch", "checkpoint.keep=0", "checkpoint.keep"),
    ("patch", "checkpoint.every_steps=-1", "checkpoint.every_steps"),
    ("patch", "log_every_steps=0", "log_every_steps"),
    ("patch", "pictures=perhaps", "pictures"),
    # data
    ("patch", "data.source=", "data.source"),
    ("patch", "data.source=imagenet", "data.source"),
    ("patch", "data.source=folder:", "data.source"),
    ("patch", "data.source=folder:/no/such/folder", "/no/such/folder"),
    ("patch", "data.source=folder:/dev/null", "/dev/null"),
    ("patch", "data.source=arrayrecord:/no/such", "/no/such"),
    ("patch", "data.source=hf:/no/such", "/no/such"),
    ("patch", "data.source=tfds:no_such_set", "no_such_set"),
    ("patch", "data.source=shapes:0", "shapes"),
    ("patch", "data.source=shapes:999999999999999999999", "100,000,000"),
    ("patch", "data.source=shapes:1000@99999999999999999999999", "seed"),
    ("patch", "data.source=shapes/cubist:1000", "cubist"),
    ("patch", "data.source=shapes:10", "10 images"),
    ("patch", "data.split=nowhere", "nowhere"),
    ("patch", "data.split=", "data.split"),
    ("patch", "knn_every_epochs=1 data.eval_split=nowhere", "nowhere"),
    ("patch", "data.classes=cat", "data.classes"),
    ("patch", "data.labels=/no/such", "/no/such"),
    # probes
    ("linear", "pretrained=", "pretrained"),
    ("linear", "pretrained=/no/such", "/no/such"),
    ("linear", "pretrained=/dev/null", "/dev/null"),
    ("linear", "pretrained=untrained:", "untrained"),
    ("linear", "learning_rates=()", "learning_rates"),
    ("linear", "learning_rates=(1,1)", "learning_rates"),
    ("linear", "learning_rates=(1e400,)", "learning_rates"),
    ("linear", "learning_rates=(1e30,)", "learning_rates"),
    ("linear", "learning_rates=('a',)", "learning_rates"),
    ("linear", "learning_rates=None", "learning_rates"),
    ("linear", "optimizer.milestones=('a',)", "optimizer.milestones"),
    ("linear", "knn.k=(20,20)", "knn.k"),
    ("linear", "knn.k=(1.5,)", "knn.k"),
    ("linear", "knn.k=(True,)", "knn.k"),
    ("linear", "knn.k=(0,)", "knn.k"),
    ("linear", "knn.k=(None,)", "knn.k"),
    ("linear", "knn.k=(1000000,)", "knn.k"),
    ("linear", "knn.temperature=1e-300", "knn.temperature"),
    ("linear", "knn.temperature=1e400", "knn.temperature"),
    ("linear", "crop_scale=('a','b')", "crop_scale"),
    ("linear", "features_format=csv", "features_format"),
    ("linear", "dtype=int8", "dtype"),
    ("linear", "data.image_size=5", "data.image_size"),
    ("linear", "data.resize=-5", "data.resize"),
    ("linear", "epochs=1.5", "epochs"),
    ("linear", "evaluate_only=2", "evaluate_only"),
    ("linear", "evaluate_only=True", "classifier"),
    ("linear", "epochs=1000000 data.source=shapes:10000000", "epochs"),
    ("linear", "batch_size=1048576 data.image_size=512", "batch_size"),
    # evaluations
    ("evaluate", "only=,", "only"),
    ("evaluate", "only=clean,clean", "only"),
    ("evaluate", "only=clean,,sketch", "only"),
    ("evaluate", "only=nowhere", "nowhere"),
    ("evaluate", "only=clean sets.clean.protocol=cue_conflict", "cue_conflict"),
    ("evaluate", "only=clean sets.clean.protocol=real", "real"),
    ("evaluate", "only=clean sets.clean.protocol=objectnet", "ObjectNet"),
    ("evaluate", "only=clean sets.clean.protocol=corruption", "generate"),
    ("evaluate", "only=clean sets.clean.protocol=best", "sets.clean.protocol"),
    ("evaluate", "only=clean sets.clean.answers=none", "sets.clean.answers"),
    ("evaluate", "only=clean sets.clean.names=numbers", "sets.clean.names"),
    ("evaluate", "only=clean sets.clean.resize=-2", "sets.clean.resize"),
    ("evaluate", "only=clean sets.clean.resize=99999", "sets.clean.resize"),
    ("evaluate", "only=clean sets.clean.border=-1", "sets.clean.border"),
    ("evaluate", "only=clean sets.clean.border=1000", "sets.clean.border"),
    ("evaluate", "only=clean sets.clean.source=folder:/no/such", "/no/such"),
    ("evaluate", "only=clean sets.clean.source=pictures", "pictures"),
    ("evaluate", "only=clean sets.clean.split=nowhere", "nowhere"),
    ("evaluate", "only=clean sets.clean.benchmark=imagenet-c-bar sets.clean.generate=True",
     "sets.clean.benchmark"),
    ("evaluate", "only=clean csv=/dev/null/rows.csv", "/dev/null"),
    ("evaluate", "only=clean csv=/proc/rows.csv", "/proc"),
    ("evaluate", "only=clean classes=/no/such", "/no/such"),
    ("evaluate", "batch_size=0", "batch_size"),
    ("evaluate", "only=clean batch_size=1048576 data.image_size=512", "batch_size"),
]  # fmt: skip


def workdirs(folder: Path) -> list[tuple[str, str]]:
    """Workdirs that cannot be, each with a word of the message."""
    (folder / "a_file").write_text("")
    (folder / "dangling").symlink_to(folder / "nowhere" / "at" / "all")
    return [
        (str(folder / "a_file"), "a_file"),
        (str(folder / "a_file" / "below"), "a_file"),
        (str(folder / ("x" * 300)), "xxx"),
        (str(folder / ("x" * 300) / "below"), "xxx"),
        (str(folder) + "/y" * 3000, "y/y"),
        ("/dev/null", "/dev/null"),
        ("/dev/null/below", "/dev/null"),
        ("/proc", "/proc"),
        ("/proc/below", "/proc"),
        (str(folder / "dangling"), "dangling"),
        ("", "--workdir"),
    ]


def files(folder: Path) -> list[tuple[str, str]]:
    """Values of --config that are none, each with a word of the message."""
    found = []
    for name, (text, word) in FILES.items():
        (folder / f"{name}.py").write_text(text)
        found.append((f"{folder}/{name}.py", word))
    (folder / "binary.py").write_bytes(bytes(range(256)))
    (folder / "latin.py").write_bytes("x = 'é'\n".encode("latin-1"))
    (folder / "null.py").write_bytes(b"x = 1\0\n")
    (folder / "folder.py").mkdir()
    (folder / "dangling.py").symlink_to(folder / "nowhere.py")
    os.mkfifo(folder / "fifo.py")
    (folder / "config.txt").write_text((ROOT / "configs" / "patch.py").read_text())
    found += [
        (f"{folder}/{name}.py", name)
        for name in ("binary", "latin", "null", "folder", "dangling", "fifo", "nowhere")
    ]
    return [
        *found,
        (f"{folder}/config.txt", "config.txt"),
        (f"{folder}/no_variants.py", "no_variants"),
        ("patch:huge", "'huge'"),
        (f"{ROOT}/configs/patch.py:huge", "'huge'"),
        ("claim:", "no variant ''"),
        ("claim:patch9", "'patch9'"),
        ("patsh", "'patsh'"),
        ("", "--config"),
        (":tiny", "--config"),
        (str(folder), "--config"),
        ("/", "--config"),
        ("a" * 5000, "--config"),
        ("é\U0001f600", "--config"),
    ]
