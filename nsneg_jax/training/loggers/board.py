"""TensorBoard's event files."""

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

from nsneg_jax.training.progress import warn
from nsneg_jax.training.workdir import METRICS


class Board:
    """Event files of TensorBoard, written at once: tensorboardX's own thread may block for ever."""

    def __init__(self, folder: Path, step: int) -> None:
        self._folder = folder
        self._file: Any = None
        with self._reported():
            files, self._event, self._summary = _tensorboard()
            folder.mkdir(parents=True, exist_ok=True)
            self._file = files.EventsWriter(str(folder / "events"))
            # Hides later events, which a killed run has left.
            start = self._event.SessionLog(status=self._event.SessionLog.START)
            for fields in ({"file_version": "brain.Event:2"}, {"session_log": start}):
                event = self._event.Event(step=step + 1, wall_time=time.time(), **fields)
                self._file.write_event(event)

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """Adds figures by tag; does nothing after the first error, like `text` and `picture`."""
        with self._reported():
            self._add(step, *(self._summary.scalar(tag, each) for tag, each in figures.items()))

    def text(self, step: int, tag: str, text: str) -> None:
        """Adds a text in Markdown."""
        with self._reported():
            self._add(step, self._summary.text(tag, text))

    def picture(self, step: int, tag: str, path: Path) -> None:
        """Adds a PNG file."""
        with self._reported():
            encoded = path.read_bytes()
            with Image.open(path, formats=("PNG",)) as picture:
                width, height = picture.size
            kind = self._summary.Summary
            image = kind.Image(
                encoded_image_string=encoded, width=width, height=height, colorspace=3
            )
            self._add(step, kind(value=[kind.Value(tag=tag, image=image)]))

    def _add(self, step: int, *summaries: Any) -> None:
        if self._file is None:
            return
        for summary in summaries:
            event = self._event.Event(step=step, wall_time=time.time(), summary=summary)
            self._file.write_event(event)
        self._file.flush()

    def close(self) -> None:
        with self._reported():
            if self._file is not None:
                self._file.close()

    @contextmanager
    def _reported(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._file = None
            warn(
                f"TensorBoard's files in {self._folder} cannot be written: {error}. The run goes "
                f"on without them; {METRICS} has all figures"
            )


def _tensorboard() -> tuple[Any, Any, Any]:
    """Imports what writes event files, and keeps it from importing PyTorch."""
    # None makes the import fail; one that is there stays
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]
    try:
        from tensorboardX import event_file_writer, summary
        from tensorboardX.proto import event_pb2
    finally:
        if sys.modules["torch"] is None:
            del sys.modules["torch"]
    return event_file_writer, event_pb2, summary
