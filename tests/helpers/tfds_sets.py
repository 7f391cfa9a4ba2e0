"""Small data sets prepared by TFDS itself as array_record files, without network or TensorFlow."""

import io

import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.core import registered

Examples = list[tuple[str, str, bytes]]


def prepare(
    data_dir,
    name: str,
    splits: dict[str, Examples],
    labels: list[str],
    version: str = "1.0.0",
    files: bool = True,
) -> None:
    """Prepares a data set.

    Args:
        data_dir: for all data sets.
        name: 'NAME' or 'NAME/CONFIG'.
        splits: (label, file name, image file) of each example.
        labels: names in the order of their numbers.
        version: of the data set.
        files: whether it has file names.
    """
    name, _, config = name.partition("/")
    features = {
        "image": tfds.features.Image(encoding_format="jpeg"),
        "label": tfds.features.ClassLabel(names=labels),
    }
    if files:
        features["file_name"] = tfds.features.Text()

    def info(self):
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def generate(self, examples):
        for number, (label, file, data) in enumerate(examples):
            example = {"image": io.BytesIO(data), "label": label}
            yield number, example | ({"file_name": file} if files else {})

    def split_generators(self, _):
        return {split: self._generate_examples(examples) for split, examples in splits.items()}

    body = {
        "__module__": __name__,
        "name": name,
        "VERSION": tfds.core.Version(version),
        "BUILDER_CONFIGS": [tfds.core.BuilderConfig(name=config)] if config else [],
        "_info": info,
        "_split_generators": split_generators,
        "_generate_examples": generate,
    }
    with registered.skip_registration():  # the names are those of data sets that TFDS knows
        builder = type("Builder", (tfds.core.GeneratorBasedBuilder,), body)
    builder(data_dir=str(data_dir)).download_and_prepare(file_format="array_record")


def jpeg(color: tuple[int, int, int], size: tuple[int, int] = (16, 16)) -> bytes:
    """An image file of one colour."""
    buffer = io.BytesIO()
    Image.new("RGB", size, color).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()
