"""``acutance.landscape``: the loss of a model along directions in its weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from acutance.errors import UserError
from acutance.run.directory import RunDirectory
from acutance.system.progress import Silent
from acutance.workflows.landscape.asked import asked
from acutance.workflows.landscape.opening import Named, checkpoints_of
from acutance.workflows.landscape.remote import Remote
from acutance.workflows.landscape.result import JSON, PAGE, TABLE, Landscape
from acutance.workflows.landscape.surfaces import opened_model, surfaces_of
from acutance.workflows.landscape.work import Work

if TYPE_CHECKING:
    import torch
    from torch import nn

    from acutance.surface.open_model import OpenModel
    from acutance.system.progress import Reporter


def landscape(  # noqa: PLR0913
    model: nn.Module | OpenModel | Named | str,
    data: Any,
    directions: str | Sequence[str] = "random",
    *,
    grid: int = 41,
    extent: float = 1.0,
    dimensions: int | None = None,
    normalize: str | None = None,
    draws: int = 1,
    fixed_vectors: bool = True,
    checkpoints: Sequence[Any] = (),
    names: Sequence[str] = (),
    key: str = "",
    prefix: str = "",
    settings: Mapping[str, Any] | None = None,
    batch_norm: str | None = None,
    parameters: str = "all",
    loss: Any = "cross_entropy",
    curvature: bool = True,
    probes: int = 32,
    seed: int = 0,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    microbatch: int | None = None,
    out: str | Path | None = None,
    executor: Mapping[str, Any] | None = None,
    reporter: Reporter | None = None,
) -> Landscape:
    r"""Return the loss :math:`L_S(w^* + a\, d_1 + b\, d_2)` along one direction or two, on every split given.

    The model is bitwise what it was afterwards. Values at a point do not depend on the grid that it belongs to.

    Args:
        model: the module, in evaluation mode; its weights are w*. Or its name, as ``acutance landscape`` takes it, with
            names of ``data`` too.
        data: points, as ``acutance.measure`` takes them, or {split: points}. Directions, recalibration and curvature
            are those of the first split.
        directions: ``random``; ``gradient``; ``eigenvectors``, those of the Hessian's largest eigenvalues; the name of
            a measure that searches for a point, which lies at a = 1; or among checkpoints ``segment``, ``plane`` and
            ``pca``, the principal components of a trajectory. Two names make a plane of two kinds.
        grid: points of each axis.
        extent: axes go from -extent to extent, in units of the directions; a segment, the plane of three checkpoints
            and that of a trajectory are seen whole at 1.
        dimensions: 1 or 2; by default 2 for random, eigenvectors, plane and pca.
        normalize: ``filter`` (Li et al. 2018; the default of random directions), ``layer``, ``elementwise``, another
            scaling, or ``none``, the direction as it is (the default of all others).
        draws: so many lines along other random directions, in place of a plane.
        fixed_vectors: whether parameters with one axis (biases, weights of normalization layers) stay in random
            directions by filter and by layer.
        checkpoints: beside the model: the other end of a segment, two more of a plane, the earlier ones of a
            trajectory whose last is the model. Modules, state dicts, or files.
        names: of the checkpoints, for pictures.
        key: where in a checkpoint file the state lies.
        prefix: taken off the names in a checkpoint file.
        settings: of the measure that gives a direction, e.g. {"rho": 0.05}.
        batch_norm: ``eval``, the model's running statistics (on a segment those in between); ``recalibrated``, those
            that the first split has at every point. By default recalibrated for plane and pca, eval for others.
        parameters: which of them move: ``all`` or patterns of names.
        loss: as for LossSurface.
        curvature: whether to estimate how much of the Hessian's trace the plane carries.
        probes: products with the Hessian for that estimate, at most.
        seed: names random directions.
        device: where to compute.
        dtype: float32 or float64.
        microbatch: examples in one pass.
        out: folder for table, pictures and page; points are stored there as they are computed, and the same call goes
            on where it was interrupted.
        executor: where points are computed, by name and settings, as {"name": "processes", "workers": 4}; for models
            and data that are given by name.
        reporter: told of progress.

    Returns:
        The landscape: ``table``, ``figure()``, ``page()``, ``barrier``, ``curvature``.

    Raises:
        UserError: for whatever does not fit, in one sentence.

    Example:
        >>> import acutance, torch
        >>> model = torch.nn.Linear(4, 3)
        >>> points = torch.randn(64, 4), torch.arange(64) % 3
        >>> seen = acutance.landscape(model, points, grid=5)
        >>> len(seen.table), seen.curvature["parameters"]
        (25, 15)
    """
    given = (
        list(checkpoints) if isinstance(checkpoints, Sequence) and not isinstance(checkpoints, str) else [checkpoints]
    )
    wanted = asked(
        directions, dimensions, grid, extent, normalize, draws, len(given), fixed_vectors=fixed_vectors,
        settings=dict(settings or {}), parameters=parameters, batch_norm=batch_norm or "", seed=seed,
        curvature=curvature, probes=probes,
    )  # fmt: skip
    named, where = _named(model, data, dtype), None if device is None else str(device)
    if named is not None:
        opened, data = named.opened(where)
        files, (given, names) = given, checkpoints_of(given, opened.functional.model, named.key, named.prefix)
    else:
        opened = opened_model(model, device, dtype)
    surfaces = surfaces_of(opened, data, loss, wanted.parameters, microbatch)
    folder = None if out is None else Path(out)
    if folder is not None:
        RunDirectory(folder).take_apart((JSON, TABLE, PAGE), "out")
    remote = None
    if executor is not None:
        if named is None or folder is None:
            raise UserError("executor: workers open models and points by their names, and read vectors in out",
                            "give model and data as acutance landscape does, and out")  # fmt: skip
        remote = Remote.of(executor, named, files, names, wanted, loss, microbatch, folder, where)
    work = Work(wanted, surfaces, opened.functional, reporter or Silent(), folder)
    result = work.run(given, names, key, prefix, None if remote is None else remote.readings)
    if folder is not None:
        result.save(folder)
    return result


def _named(model: Any, data: Any, dtype: Any) -> Named | None:
    """Return a model that is given by name, with its points; None for one that is there."""
    if isinstance(model, Named):
        return model
    if not isinstance(model, str):
        return None
    sources = data if isinstance(data, Mapping) else {"data": data}
    if not all(isinstance(source, str) for source in sources.values()):
        raise UserError("data: a model that is given by name goes with points that are", "DATASET[:SPLIT], or a file")
    return Named(model, dict(sources), dtype=None if dtype is None else str(dtype).removeprefix("torch."))
