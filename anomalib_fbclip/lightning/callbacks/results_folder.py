# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""A separate folder for the results of each run."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from anomalib.utils.path import create_versioned_dir
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn

from anomalib_fbclip.images.image_files import printable
from anomalib_fbclip.lightning.trainer_run import is_command_line
from anomalib_fbclip.results.files import LATEST, is_numbered, make_next, next_numbered
from anomalib_fbclip.results.records import TABLE_NAME

TAKEN = ".taken"
"""First file in the folder of a run."""

CLAIMED = "claimed"
"""Content of this file if the run is not a training."""


class ResultsFolder(Callback):
    """Makes a separate folder for the results of each test and each prediction."""

    def __init__(self) -> None:
        self._folder: Path | None = None

    def prepare(self, trainer: Trainer) -> None:
        """Choose the trainer's ``default_root_dir``. One process calls this, before any callback's setup."""
        current = Path(trainer.default_root_dir)
        is_own = current == self._folder and not _holds_results(current)
        if trainer.state.fn == TrainerFn.FITTING or is_own or _take_empty(current):
            self._folder = current
        elif writes_results(trainer):
            self._folder = claim_folder(current)
            _move_to(trainer, self._folder)

    @staticmethod
    def setup(trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Use the chosen folder in all processes."""
        _move_to(trainer, Path(trainer.strategy.broadcast(trainer.default_root_dir)))


def _move_to(trainer: Trainer, folder: Path) -> None:
    """Change the folder of results, and of checkpoints below the previous one."""
    checkpoints: list[Checkpoint] = trainer.checkpoint_callbacks
    for callback in checkpoints:
        below = _below_root(callback, trainer)
        if below is not None:
            callback.dirpath = str(folder / below)  # type: ignore[attr-defined] # it has one where there is a place
    trainer._default_root_dir = str(folder)  # type: ignore[attr-defined] # noqa: SLF001 - Lightning has no other way


def _below_root(callback: Checkpoint, trainer: Trainer) -> Path | None:
    """Return the path of checkpoints relative to the folder of results; ``None`` if they go elsewhere."""
    if not isinstance(callback, ModelCheckpoint) or callback.dirpath is None:
        return None
    root, path = Path(trainer.default_root_dir), Path(callback.dirpath)
    # ``latest`` may not have existed when the callback resolved it.
    for folder in (root.parent.resolve() / root.name, root.resolve()):
        if path.is_relative_to(folder):
            return path.relative_to(folder)
    return None


def _take_empty(folder: Path) -> bool:
    """Take an empty folder, which ``Engine.train`` made for this run, unless another process has taken it."""
    is_empty = folder.name != LATEST and folder.is_dir() and not any(folder.iterdir())
    return is_empty and _take(folder)


def _take(folder: Path, note: str = "") -> bool:
    """Mark a folder as taken, unless another process was faster."""
    with suppress(FileExistsError), (folder / TAKEN).open("x", encoding="utf-8") as file:
        file.write(note)
        return True
    return False


def _holds_training(folder: Path) -> bool:
    """Tell whether a folder has the weights of a training; a test leaves a checkpoint, too."""
    if not any(path.is_file() for path in (folder / "weights").rglob("*")):
        return False
    taken = folder / TAKEN
    return not taken.is_file() or taken.read_text(encoding="utf-8") != CLAIMED


def _holds_results(folder: Path) -> bool:
    return (folder / "images").exists() or any(folder.glob(f"{TABLE_NAME}*"))


def writes_results(trainer: Trainer) -> bool:
    """Tell whether a run writes into its folder. A validation may write a checkpoint."""
    if trainer.state.fn == TrainerFn.VALIDATING:
        checkpoints: list[Checkpoint] = trainer.checkpoint_callbacks
        writes = is_command_line(trainer) or any(_below_root(callback, trainer) is not None for callback in checkpoints)
        return writes and is_numbered(Path(trainer.default_root_dir))
    if trainer.state.fn == TrainerFn.TESTING:
        return getattr(trainer.lightning_module, "visualizer", None) is not None or is_command_line(trainer)
    return True


def shorten_path(path: str | Path) -> str:
    """Format a path in one line, relative to the working folder if it is inside."""
    path, here = Path(path), Path.cwd()
    return printable(path.relative_to(here) if path.is_relative_to(here) else path)


def claim_folder(current: Path) -> Path:
    """Make a new folder for results, numbered as in anomalib: ``v0``, ``v1``, and the link ``latest`` to the last one.

    ``latest`` does not change if it has the weights of a training, so that paths of checkpoints stay valid. ``current``
    is ``latest``, a numbered folder, or their parent.
    """
    root = current.parent if is_numbered(current) else current
    latest = root / LATEST
    if _holds_training(latest):
        return _take_next(root, make_next)
    if latest.is_dir() and not latest.is_symlink():  # from an earlier version of anomalib
        latest.rename(next_numbered(root))
    return _take_next(root, create_versioned_dir)


def _take_next(root: Path, make: Callable[[Path], Path]) -> Path:
    """Make folders until one is not taken by another process."""
    while True:
        # Another process may have made the folder or the link first.
        with suppress(FileExistsError, FileNotFoundError):
            folder = make(root)
            if _take(folder, CLAIMED):
                return folder
