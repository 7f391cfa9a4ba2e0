"""Lists of classes: which line stands for which folder, and what is wrong with a list."""

import pytest
from photo_folder import write_photos

from nsneg_jax.errors import UsageError
from nsneg_jax.input.sources.lists.class_list import advice, by_themselves, class_names, resolved
from nsneg_jax.input.sources.source import open_source

FOLDERS = ("crane", "crane bird", "great white shark", "n01440764", "tench, Tinca tinca")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_photos(root, [f"{name}/1.jpg" for name in FOLDERS], "train")
    return f"folder:{root}"


def opened(data, tmp_path, content):
    path = tmp_path / "list.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return open_source(data, "train", image_size=16, classes=str(path)).classes


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("great white shark", "great white shark"),
        ("  great white shark\t3\tfish", "great white shark"),
        ("n01440764 tench", "n01440764"),
        ("n01440764\ttench", "n01440764"),
        ("crane bird", "crane bird"),
        ("crane machine", "crane"),
        ("tench, Tinca tinca", "tench, Tinca tinca"),
        ("\ufeffcrane", "crane"),
    ],
)
def test_a_line_is_the_class_of_its_whole_name_first(data, tmp_path, line, name):
    classes = opened(data, tmp_path, f"{line}\n\n# a comment\n")
    assert classes == (name,) and type(classes[0]) is str


def test_lines_of_equal_first_words(data, tmp_path):
    assert opened(data, tmp_path, "crane bird\ncrane\n") == ("crane", "crane bird")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("crane\nn01440764\ncrane\n", ["crane", "lines 1 and 3"]),
        ("crane machine\ncrane crossing\n", ["crane", "twice"]),
        ("crane\n".encode("utf-16"), ["UTF-16", "iconv -f UTF-16"]),
        ("crane\n".encode("utf-16-le"), ["UTF-16", "iconv -f UTF-16"]),
        ("crane\nécran\n".encode("latin-1"), ["\\xe9cran", "iconv -f LATIN1"]),
        ("class,name\nn01440764,tench\n", ["class,name", "CSV"]),
        ("n01440764;tench\n", ["n01440764;tench", "CSV"]),
        ("crane\nnowhere\n", ["1 of the 2 classes", "nowhere"]),
        ("# nothing\n", ["names no class"]),
    ],
)
def test_what_is_wrong_with_a_list_is_said(data, tmp_path, content, words):
    with pytest.raises(UsageError) as found:
        opened(data, tmp_path, content)
    assert all(word in str(found.value) for word in words), found.value


def test_names_on_the_command_line():
    assert class_names("great white shark, crane") == ("great white shark", "crane")
    with pytest.raises(UsageError, match="crane twice"):
        class_names("crane,crane")
    with pytest.raises(UsageError, match="no file"):
        class_names("missing.csv")


def test_names_of_a_classifier_without_a_data_set(tmp_path):
    path = tmp_path / "list.txt"
    path.write_text("n2 tench\nn1 shark\n")
    assert by_themselves(class_names(str(path))) == ("n2", "n1")
    path.write_text("great white shark\ngreat horned owl\n")
    assert by_themselves(class_names(str(path))) == ("great white shark", "great horned owl")
    assert resolved(("b", "a"), ("a", "b")) == ("b", "a") and not advice(("a,b",))
