"""One repository at many revisions: checkpoints of a run as the hub keeps them (Pythia, OLMo), or as folders."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from acutance.errors import UserError, some
from acutance.io.downloads import allowed
from acutance.pool import Attribute, ModelEntry
from acutance_text.causal import Causal
from acutance_text.transformers_pool import Folders, PlacedSpec

# The step in a revision's name: step1000 (Pythia), stage1-step1000-tokens5B (OLMo), checkpoint-500 (Trainer); or 500.
_STEP = re.compile(
    r"(?:^|[-_./])(?:global_?step|step|checkpoint|ckpt|iter(?:ation)?)[-_]?(\d+)(?=$|[-_./])", re.IGNORECASE
)
_TOKENS = re.compile(r"(?:^|[-_./])tokens?[-_]?(\d+(?:\.\d+)?)([KMBT]?)(?=$|[-_./])", re.IGNORECASE)
SCALES = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
# What of a repository is a model; weights of other frameworks, and copies of them, stay where they are.
WANTED = ["*.json", "*.safetensors", "*.model", "*.txt"]
PICKLED = ["pytorch_model*.bin"]


class RevisionsSpec(PlacedSpec):
    """Settings of hub_revisions."""

    path: str
    """A folder with one for each revision (ROOT/step1000/config.json), or a repository of the hub (ORG/NAME)."""
    revisions: tuple[str, ...] = ()
    """Branches, tags or commits; by default all that are there, of a repository those in the hub's cache."""
    run: str = ""
    """Name of the training run; that of the folder or the repository by default."""


class Revisions(Folders[RevisionsSpec]):
    """Checkpoints of one language model's training, a revision each, with their steps: on disk, or from the hub."""

    name = "hub_revisions"
    auto = Causal.auto

    def folders(self, spec: RevisionsSpec) -> list[tuple[str, Path]]:
        """Return names and folders of the revisions, in the order of their runs and steps.

        Raises:
            UserError: for one that is not there, naming the nearest ones.
        """
        there = located(spec.path, spec.revisions)
        order = sorted(there, key=lambda name: placed(name)[:1] + _later(placed(name)[1]) + (name,))
        return [(f"{_run(spec)}@{revision}", there[revision]) for revision in order]

    def entries(self, spec: RevisionsSpec) -> Sequence[ModelEntry]:
        """Return a model for each revision, with its ``run`` and ``step``, and ``tokens`` where its name has them.

        Raises:
            UserError: for a revision that is not there, naming the nearest ones; otherwise as ``causal``.
        """
        entries = []
        for entry in super().entries(spec):
            part, step, tokens = placed(entry.id.removeprefix(f"{_run(spec)}@"))
            run = f"{_run(spec)}/{part}" if part else _run(spec)
            found: dict[str, Attribute] = {"run": run, "step": step, "tokens": tokens}
            known = {name: value for name, value in found.items() if value is not None} | entry.attributes
            entries.append(entry.model_copy(update={"attributes": known, "run": run, "step": step}))
        return entries

    def data_settings(self, entry: ModelEntry, spec: RevisionsSpec) -> dict[str, str]:
        """Return the folder's tokenizer."""
        return {"tokenizer": str(dict(self.folders(spec))[entry.id])}


def _run(spec: RevisionsSpec) -> str:
    return spec.run or Path(spec.path).expanduser().name


def _later(step: int | None) -> tuple[bool, int]:
    """Return a key that puts what has no step, as ``main``, behind all steps."""
    return step is None, step or 0


def placed(revision: str) -> tuple[str, int | None, int | None]:
    """Return what a revision's name says: the part of the run before its step, the step, and the tokens seen.

    ``stage1-step1000-tokens5B`` is ("stage1", 1000, 5000000000); ``main`` is ("", None, None).
    """
    found = _STEP.search(revision)
    tokens = _TOKENS.search(revision)
    seen = round(float(tokens[1]) * SCALES[tokens[2].upper()]) if tokens else None
    if found:
        return revision[: found.start()].strip("-_./"), int(found[1]), seen
    return "", int(revision) if revision.isdecimal() and len(revision) < 40 else None, seen


def located(path: str, revisions: Sequence[str]) -> dict[str, Path]:
    """Return the folders of revisions: those asked for, or all that are there.

    Args:
        path: a folder of folders, or a repository of the hub, which is read from its cache; where downloads are allowed
            revisions that are asked for are fetched.
        revisions: names of folders, or branches, tags and commits.

    Raises:
        UserError: when there are none, or one that is asked for is not there.
    """
    root, local = Path(path).expanduser(), Path(path).expanduser().is_dir()
    if local:
        there = {f.name: f for f in sorted(root.iterdir()) if (f / "config.json").is_file()}
    else:
        there = cached(path)
    if not revisions:
        if not there:
            hint = (
                "give a folder with one for each revision, or download some: 'hf download ORG/NAME --revision REVISION'"
            )
            raise UserError(f"path: {path} has no revisions (folders with config.json and weights)", hint)
        return there if local else _once(there)
    return {name: there[name] if name in there else _absent(path, name, there, local) for name in revisions}


def cached(name: str) -> dict[str, Path]:
    """Return the revisions of a repository that the hub's local cache holds, by branch or tag and by commit."""
    try:
        from huggingface_hub import constants
    except ImportError:
        return {}
    root = Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}"
    commits = {ref.relative_to(root / "refs").as_posix(): ref.read_text().strip() for ref in _files(root / "refs")}
    snapshots = root / "snapshots"
    plain = {folder.name: folder.name for folder in sorted(snapshots.iterdir())} if snapshots.is_dir() else {}
    found = {revision: snapshots / commit for revision, commit in (plain | commits).items()}
    return {revision: folder for revision, folder in found.items() if (folder / "config.json").is_file()}


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file()) if folder.is_dir() else []


def _once(there: Mapping[str, Path]) -> dict[str, Path]:
    """Return each commit under one name: one with a step before others, a branch before the commit itself."""
    best: dict[Path, str] = {}
    for revision, folder in sorted(
        there.items(), key=lambda item: (item[0] == item[1].name, *_later(placed(item[0])[1]))
    ):
        best.setdefault(folder, revision)
    return {revision: folder for folder, revision in best.items()}


def _absent(path: str, revision: str, there: Mapping[str, Path], local: bool) -> Path:
    """Return the folder of a revision that is not on disk, downloaded where that is allowed.

    Raises:
        UserError: naming the nearest ones that there are.
    """
    if local or not allowed():
        hint = "write one of these" if there else "give a folder with one for each revision, ROOT/step1000/config.json"
        if not local:
            hint = f"'hf download {path} --revision {revision}' gets it, and so does --allow-download"
        raise UserError(f"revisions: {path} has no '{revision}' on disk{_nearest(revision, list(there))}", hint)
    import huggingface_hub
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        folder = Path(huggingface_hub.snapshot_download(path, revision=revision, allow_patterns=WANTED))
        if not any(folder.glob("*.safetensors")):
            folder = Path(huggingface_hub.snapshot_download(path, revision=revision, allow_patterns=WANTED + PICKLED))
    except RepositoryNotFoundError:
        raise UserError(f"path: the hub has no repository '{path}'", "write ORG/NAME, or a folder") from None
    except RevisionNotFoundError:
        refs = huggingface_hub.list_repo_refs(path)
        known = [ref.name for ref in (*refs.branches, *refs.tags)]
        raise UserError(
            f"revisions: {path} has no '{revision}'{_nearest(revision, known)}", "write one of these"
        ) from None
    except (OSError, ValueError) as error:
        said = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(f"revisions: {path}: '{revision}' cannot be downloaded: {said}", "try again later") from None
    return folder


def _nearest(revision: str, known: Sequence[str]) -> str:
    """Return the three nearest revisions in words: by their steps where these are known, else by their letters."""
    if not known:
        return ", nor any other revision"
    step = placed(revision)[1]
    steps = {name: placed(name)[1] for name in known}
    numbered = [(abs(other - step), name) for name, other in steps.items() if step is not None and other is not None]
    close = [name for _, name in sorted(numbered)[:3]] or difflib.get_close_matches(revision, known, 3, 0.0)
    return f" (nearest: {some(close)})"
