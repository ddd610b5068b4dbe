"""One run of a sweep: which model it needs, how that is obtained, and how it is judged.

Of a baseline or a compression an option may be a list of values: every combination is fitted, and
the one that ranks the run's validation users best, by nDCG@100, is the one that is tested.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import json
import pathlib
import re
import shutil
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from celsa_jax.baselines import BASELINES, COMPRESSIONS
from celsa_jax.baselines.choice import CHOSEN_BY, Choice, combinations, several, validation_value
from celsa_jax.config import outcome, seed_of, validate
from celsa_jax.data import Dataset, Split, load_dataset, make_split
from celsa_jax.errors import InputError
from celsa_jax.evaluation import Exposure, evaluate
from celsa_jax.files import locked
from celsa_jax.sparse import FORMATS, SparseEmbeddings, bytes_per_item, scorer
from celsa_jax.sparse.formats import BYTES_PER_FACTOR, BYTES_PER_NONZERO, row_nonzeros
from celsa_jax.sparse.retrieval import Scorer

_ELSA = ("elsa", "dense_elsa")


@dataclasses.dataclass(frozen=True)
class Run:
    """One cell of the grid with one seed.

    Attributes:
      row, column: names in the sweep.
      seed: `config.seed`.
      method: a name of `methods`.
      options: of the method; a list or tuple holds values to choose from.
      config: of the run, in full.
    """

    row: str
    column: str
    seed: int
    method: str
    options: dict[str, Any]
    config: ConfigDict

    @property
    def n_bytes(self) -> int:
        """Bytes that an item may take."""
        return BYTES_PER_NONZERO * self.config.sparsity.target_nnz

    @functools.cached_property
    def settings(self) -> dict[str, Any]:
        """All that decides the outcome."""
        return {"method": self.method, "options": self.options, "config": outcome(self.config)}

    @functools.cached_property
    def id(self) -> str:
        """A name for a folder: readable, and another for other settings."""
        return _name(f"{self.row}_{self.column}_s{self.seed}", self.settings)

    @functools.cached_property
    def model_config(self) -> ConfigDict | None:
        """The configuration of the ELSA model that the run starts from, if any."""
        if self.method == "elsa":
            config = self.config.copy_and_resolve_references()
            if form := self.options.get("format"):
                width = config.model.n_factors  # 0: as many as items, taken for few
                config.sparsity.target_nnz = row_nonzeros(form, width, self.n_bytes)
            return config
        if self.method == "dense_elsa":
            width = self.options.get("width") or self.n_bytes // BYTES_PER_FACTOR
            return _dense(self.config, width)
        if self.method in COMPRESSIONS:
            return _dense(self.config, self.config.model.n_factors)
        return None

    @property
    def model_id(self) -> str:
        """A name for that model's folder; ValueError if there is none."""
        config = self.model_config
        if config is None:
            raise ValueError(f"{self.method} needs no model")
        model = config.model
        width = f"{model.start}{model.n_factors or ''}"
        return _name(f"k{config.sparsity.target_nnz}_{width}_s{self.seed}", outcome(config))


@dataclasses.dataclass(frozen=True)
class Judged:
    """What an evaluation needs of a method.

    Attributes:
      score: from histories to scores.
      bytes_per_item: that the method stores; None where that is not comparable.
      train_seconds: it took to train; where options were chosen, with those alone.
    """

    score: Scorer
    bytes_per_item: float | None
    train_seconds: float


def methods() -> dict[str, Callable]:
    """Every method by name: what its `options` are given to."""
    return {"elsa": _elsa_options, "dense_elsa": _dense_options, **BASELINES, **COMPRESSIONS}


def check(run: Run) -> None:
    """InputError if the run cannot be done, whatever the data."""
    known = methods()
    if run.method not in known:
        names = ", ".join(known)
        raise InputError(f"method is '{run.method}'; choose one of {names}")
    try:
        settings = {"n_bytes": run.n_bytes, "seed": run.seed}
        inspect.signature(known[run.method]).bind(None, **settings, **run.options)
    except TypeError as error:
        raise InputError(f"options: {error}") from None
    _check_several(run)
    if run.method in _ELSA:
        known[run.method](None, n_bytes=run.n_bytes, seed=run.seed, **run.options)
    if run.method in COMPRESSIONS and not run.config.model.n_factors:
        raise InputError(
            "its dense model needs a width: set config.model.start to random, and n_factors"
        )
    validate(run.config)
    if (config := run.model_config) is not None:
        validate(config)
    if run.config.data.n_test_users < 2:
        raise InputError("config.data.n_test_users must be at least 2")


def perform(run: Run, models: pathlib.Path) -> tuple[dict[str, object], dict[str, np.ndarray]]:
    """Trains or fits what is missing and judges it on the run's test users.

    Args:
      run: see there.
      models: folder of the trained models, which runs share.

    Returns:
      The numbers, and the arrays of each user: `user_ids` and the metrics by name. Where options
      were chosen, the numbers have `chosen`, their values, and `tried`, the validation nDCG@100 of
      every combination.
    """
    dataset, split = load_data(run)
    judged, choice = _choose(run, split, models)
    started = time.perf_counter()
    exposure = Exposure(np.asarray(split.train.matrix.sum(axis=0)).ravel())
    evaluation = evaluate(
        judged.score,
        split.test,
        split.train.item_ids,
        folds=run.config.eval.folds,
        seed=seed_of(run.config, "folds"),
        held_out_from=split.test_from,
        observe=exposure.add,
    )
    numbers = {
        "bytes_per_item": judged.bytes_per_item,
        **evaluation.summary(),
        **exposure.summary(),
        "n_users": evaluation.counts["n_users"],
        **choice,
        "data": dataset.counts,
        "train_seconds": round(judged.train_seconds, 2),
        "evaluate_seconds": round(time.perf_counter() - started, 2),
    }
    return numbers, {"user_ids": evaluation.user_ids, **evaluation.per_user}


def load_data(run: Run) -> tuple[Dataset, Split]:
    """The data of a run; those of the run before it are kept."""
    return _load_data(run.config.data.to_json(), seed_of(run.config, "split"))


@functools.lru_cache(maxsize=1)
def _load_data(section: str, seed: int) -> tuple[Dataset, Split]:
    config = ConfigDict(json.loads(section))
    dataset = load_dataset(config, seed)
    return dataset, make_split(dataset.interactions, config, seed)


def _elsa_options(_, *, n_bytes: int, seed: int, format: str | None = None) -> None:
    if format is not None and format not in FORMATS:
        raise InputError(f"options.format is '{format}'; choose one of {', '.join(FORMATS)}")


def _dense_options(_, *, n_bytes: int, seed: int, width: int | None = None) -> None:
    if width is not None and (isinstance(width, bool) or not isinstance(width, int) or width < 1):
        raise InputError(f"options.width is {width!r}; it must be a whole number above 0")


def _check_several(run: Run) -> None:
    for name, values in several(run.options).items():
        where = f"options.{name} is {values!r}"
        if run.method in _ELSA:
            raise InputError(f"{where}: only a baseline chooses its options; make a row of each")
        if len(values) < 2:
            raise InputError(f"{where}: nothing to choose from; give two or more, or no list")
        data = run.config.data
        needed = ("n_val_users", "val_from") if data.split == "temporal" else ("n_val_users",)
        for field in needed:
            if not data[field]:
                raise InputError(
                    f"{where}, to choose from on validation users, and config.data.{field} is "
                    f"{data[field]!r}, which leaves none; set it, or give one value"
                )


def _choose(run: Run, split: Split, models: pathlib.Path) -> tuple[Judged, dict[str, object]]:
    """What is to be judged, and what `perform` says of the choice; empty if there was none."""
    method = _method_of(run)
    if not several(run.options):
        return method(run, split, models), {}
    choice: Choice[Judged] = Choice()
    for options in combinations(run.options):
        one = dataclasses.replace(run, options={**run.options, **options})
        judged = method(one, split, models)
        folds, seed = run.config.eval.folds, seed_of(run.config, "folds")
        value = validation_value(judged.score, split, folds=folds, seed=seed)
        choice.offer(options, judged, value)
    tried = [{**options, CHOSEN_BY: value} for options, value in choice.tried]
    return choice.fitted, {"chosen": choice.options, "tried": tried}


def _method_of(run: Run) -> Callable[[Run, Split, pathlib.Path], Judged]:
    if run.method in _ELSA:
        return _judge_elsa
    return _judge_compression if run.method in COMPRESSIONS else _judge_baseline


def _judge_elsa(run: Run, split: Split, models: pathlib.Path) -> Judged:
    embeddings, seconds = _trained(run, split, models)
    if run.method == "dense_elsa":
        dense = embeddings.tocsr().toarray()
        return Judged(scorer(dense), BYTES_PER_FACTOR * dense.shape[1], seconds)
    size = BYTES_PER_NONZERO * embeddings.nnz / embeddings.n_items
    if form := run.options.get("format"):
        embeddings = embeddings.to_format(form)
        size = embeddings.bytes_per_item
    return Judged(scorer(embeddings.tocsr()), size, seconds)


def _judge_baseline(run: Run, split: Split, models: pathlib.Path) -> Judged:
    started = time.perf_counter()
    fit = BASELINES[run.method]
    baseline = fit(split.train.matrix, n_bytes=run.n_bytes, seed=run.seed, **run.options)
    return Judged(baseline.score, baseline.bytes_per_item, time.perf_counter() - started)


def _judge_compression(run: Run, split: Split, models: pathlib.Path) -> Judged:
    """Seconds are those of the compression and of the dense model before it."""
    dense, seconds = _trained(run, split, models)
    started = time.perf_counter()
    compress = COMPRESSIONS[run.method]
    rows = dense.tocsr().toarray()
    embeddings = compress(rows, n_bytes=run.n_bytes, seed=run.seed, **run.options)
    seconds += time.perf_counter() - started
    return Judged(scorer(embeddings), bytes_per_item(embeddings), seconds)


def _trained(run: Run, split: Split, models: pathlib.Path) -> tuple[SparseEmbeddings, float]:
    """The run's model, trained once whichever run asks first, and the seconds that took."""
    from celsa_jax.train import train_and_evaluate

    folder = models / run.model_id
    with locked(folder.with_name(f"{folder.name}.lock")):
        results = train_and_evaluate(run.model_config, folder)
        # Gigabytes at full width, and a finished model is not resumed.
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    embeddings = SparseEmbeddings.load(folder / "embeddings.npz")
    if not np.array_equal(embeddings.item_ids, split.train.item_ids):
        raise InputError(f"{folder}: the data have changed since it was trained")
    return embeddings, results["wall_seconds"]


def _dense(config: ConfigDict, width: int) -> ConfigDict:
    """A dense model: trained as a final phase is, as long as that, with no pruning before it."""
    dense = config.copy_and_resolve_references()
    dense.model.update(start="random", n_factors=width)
    dense.sparsity.update(target_nnz=width, start_nnz=None, rewind=False)
    dense.train.n_epochs = 0
    return dense


def _name(text: str, settings: dict) -> str:
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    slug = re.sub(r"[^a-z0-9_]+", "-", text.lower()).strip("-_")
    return f"{slug[:60]}-{digest[:8]}"
