"""The test sets of the paper's table, and related ones: what they are and where to get them."""

from typing import NamedTuple


class ReleasedSet(NamedTuple):
    """`where` to get a set, and its `tfds` name, or ''."""

    where: str
    tfds: str = ""


RELEASED = {
    "clean": ReleasedSet(
        "the validation images of ImageNet (image-net.org) in class folders; "
        "`nsneg prepare imagenet100` makes the 100-class subset",
        "imagenet2012",
    ),
    "corruption": ReleasedSet(
        "ImageNet-C, zenodo.org/record/2235448: noise.tar, blur.tar, weather.tar, digital.tar "
        "(and extra.tar) unpacked into one folder; docs/robustness.md says how to make them here",
        "imagenet2012_corrupted",
    ),
    "sketch": ReleasedSet(
        "ImageNet-Sketch, github.com/HaohanWang/ImageNet-Sketch",
        "imagenet_sketch",
    ),
    "stylized": ReleasedSet(
        "Stylized-ImageNet, made by the code at github.com/rgeirhos/Stylized-ImageNet; its "
        "validation images",
    ),
    "rendition_100way": ReleasedSet(
        "ImageNet-R, github.com/hendrycks/imagenet-r",
        "imagenet_r",
    ),
    "rendition_19way": ReleasedSet(
        "ImageNet-R, github.com/hendrycks/imagenet-r",
        "imagenet_r",
    ),
    "v2": ReleasedSet(
        "ImageNetV2 (matched frequency), imagenetv2.org",
        "imagenet_v2/matched-frequency",
    ),
    "a": ReleasedSet(
        "ImageNet-A, github.com/hendrycks/natural-adv-examples",
        "imagenet_a",
    ),
    "texture": ReleasedSet(
        "textures of the validation images, made by `nsneg prepare texture --split val`",
    ),
    "a_restricted": ReleasedSet(
        "ImageNet-A, github.com/hendrycks/natural-adv-examples",
        "imagenet_a",
    ),
    "corruption_bar": ReleasedSet(
        "ImageNet-C-bar, dl.fbaipublicfiles.com/inc_bar/imagenet_c_bar.tar.gz",
    ),
    "real": ReleasedSet(
        "the validation images of ImageNet (image-net.org) in class folders; the set also needs "
        "the labels, real.json of github.com/google-research/reassessed-imagenet",
    ),
    "objectnet": ReleasedSet(
        "ObjectNet, objectnet.dev: objectnet-1.0 with its folders images and mappings",
    ),
    "cue_conflict": ReleasedSet(
        "the cue-conflict images of github.com/rgeirhos/texture-vs-shape "
        "(stimuli/style-transfer-preprocessed-512)",
    ),
}
