# Copyright (C) 2026 anomalib-fbclip contributors
# SPDX-License-Identifier: Apache-2.0

"""A separate folder for the results of each run."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from anomalib.utils.path import create_versioned_dir
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.trainer.states import TrainerFn

from anomalib_fbclip.images.image_files import printable
from anomalib_fbclip.results.files import LATEST, is_numbered, make_next, next_numbered
from anomalib_fbclip.results.records import TABLE_NAME

TAKEN = ".taken"
"""File that a run puts first into its folder."""

CLAIMED = "claimed"
"""Content of this file in the folder of a run that trains nothing."""


class ResultsFolder(Callback):
    """Gives the results of each test and each prediction a folder of their own."""

    def __init__(self) -> None:
        self._folder: Path | None = None

    def prepare(self, trainer: Trainer) -> None:
        """Choose the folder of a run of the trainer; to be called by one process, before any callback's setup.

        Args:
            trainer (Trainer): The trainer. Its ``default_root_dir`` changes.
        """
        current = Path(trainer.default_root_dir)
        is_own = current == self._folder and not _holds_results(current)
        if trainer.state.fn == TrainerFn.FITTING or is_own or _take_empty(current):
            self._folder = current
        elif writes_results(trainer):
            self._folder = claim_folder(current)
            _move_to(trainer, self._folder)

    @staticmethod
    def setup(trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Tell the other processes."""
        del pl_module, stage
        _move_to(trainer, Path(trainer.strategy.broadcast(trainer.default_root_dir)))


def _move_to(trainer: Trainer, folder: Path) -> None:
    """Send results to a folder, and checkpoints too that would have gone to the one before."""
    checkpoints: list[Checkpoint] = trainer.checkpoint_callbacks
    for callback in checkpoints:
        below = _below_root(callback, trainer)
        if below is not None:
            callback.dirpath = str(folder / below)  # type: ignore[attr-defined] # it has one where there is a place
    trainer._default_root_dir = str(folder)  # type: ignore[attr-defined] # noqa: SLF001 - Lightning has no other way


def _below_root(callback: Checkpoint, trainer: Trainer) -> Path | None:
    """Tell where below the folder of results checkpoints go; ``None`` if they go elsewhere."""
    if not isinstance(callback, ModelCheckpoint) or callback.dirpath is None:
        return None
    root, path = Path(trainer.default_root_dir), Path(callback.dirpath)
    # ``latest`` may have led nowhere when the callback resolved it, and lead to a folder now.
    for folder in (root.parent.resolve() / root.name, root.resolve()):
        if path.is_relative_to(folder):
            return path.relative_to(folder)
    return None


def _take_empty(folder: Path) -> bool:
    """Take the folder that ``Engine.train`` has made for this run. An empty one can also be another process's."""
    is_empty = folder.name != LATEST and folder.is_dir() and not any(folder.iterdir())
    return is_empty and _take(folder)


def _take(folder: Path, note: str = "") -> bool:
    """Mark a folder as taken, unless another process was faster."""
    with suppress(FileExistsError), (folder / TAKEN).open("x", encoding="utf-8") as file:
        file.write(note)
        return True
    return False


def _holds_training(folder: Path) -> bool:
    """Tell whether the weights of a training lie in a folder: a test leaves a checkpoint, too."""
    if not any(path.is_file() for path in (folder / "weights").rglob("*")):
        return False
    taken = folder / TAKEN
    return not taken.is_file() or taken.read_text(encoding="utf-8") != CLAIMED


def _holds_results(folder: Path) -> bool:
    return (folder / "images").exists() or any(folder.glob(f"{TABLE_NAME}*"))


def writes_results(trainer: Trainer) -> bool:
    """Tell whether a run writes into its folder: a validation, which may come before the others, a checkpoint."""
    if trainer.state.fn == TrainerFn.VALIDATING:
        checkpoints: list[Checkpoint] = trainer.checkpoint_callbacks
        writes = is_command_line(trainer) or any(_below_root(callback, trainer) is not None for callback in checkpoints)
        return writes and is_numbered(Path(trainer.default_root_dir))
    if trainer.state.fn == TrainerFn.TESTING:
        return getattr(trainer.lightning_module, "visualizer", None) is not None or is_command_line(trainer)
    return True


def command_line(trainer: Trainer) -> SaveConfigCallback | None:
    """Find what anomalib's command line adds to its trainer; ``None`` in a program."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return next((callback for callback in callbacks if isinstance(callback, SaveConfigCallback)), None)


def is_command_line(trainer: Trainer) -> bool:
    """Tell whether a trainer is that of anomalib's command line, which ends with an exit code."""
    return command_line(trainer) is not None


def shorten_path(path: str | Path) -> str:
    """Give a path in one line, as it is seen from the working folder if it lies in it."""
    path, here = Path(path), Path.cwd()
    return printable(path.relative_to(here) if path.is_relative_to(here) else path)


def claim_folder(current: Path) -> Path:
    """Make a new folder for results, as anomalib numbers them: ``v0``, ``v1``, and ``latest``, which leads to the last.

    ``latest`` stays where it is if the weights of a training lie there, so that the path of a checkpoint stays right.

    Args:
        current (Path): Where results would go: ``latest`` or a numbered folder, or the folder that shall hold those.

    Returns:
        Path: The new folder.

    Raises:
        OSError: If it can't be made.
    """
    root = current.parent if is_numbered(current) else current
    latest = root / LATEST
    if _holds_training(latest):
        return _take_next(root, make_next)
    if latest.is_dir() and not latest.is_symlink():  # earlier versions of anomalib's commands left a folder
        latest.rename(next_numbered(root))
    return _take_next(root, create_versioned_dir)


def _take_next(root: Path, make: Callable[[Path], Path]) -> Path:
    """Make folders until there is one that no other process has taken."""
    while True:
        # Another process may have been faster: with the folder, with the link, or with taking it.
        with suppress(FileExistsError, FileNotFoundError):
            folder = make(root)
            if _take(folder, CLAIMED):
                return folder
