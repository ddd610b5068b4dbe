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

from celsa_jax.baselines import BASELINES, COMPRESSIONS, Baseline, embeddings_baseline
from celsa_jax.baselines.choice import choose, validation_value
from celsa_jax.config import outcome, seed_of, validate
from celsa_jax.data import Dataset, Split, dataset_of, make_split
from celsa_jax.data.splits import check_data
from celsa_jax.errors import InputError
from celsa_jax.evaluation import evaluate
from celsa_jax.files import locked
from celsa_jax.sparse import FORMATS, SparseEmbeddings, scorer
from celsa_jax.sparse.formats import BYTES_PER_FACTOR, BYTES_PER_NONZERO, row_nonzeros


@dataclasses.dataclass(frozen=True)
class Run:
    """One cell of the grid with one seed.

    Attributes:
      row, column: names in the sweep.
      seed: `config.seed`.
      training: of those with this seed, from 0.
      method: a name of `methods`.
      options: of the method; a list or tuple holds values to choose from.
      config: of the run, in full.
    """

    row: str
    column: str
    seed: int
    training: int
    method: str
    options: dict[str, Any]
    config: ConfigDict

    @property
    def n_bytes(self) -> int:
        """Bytes that an item may take."""
        return BYTES_PER_NONZERO * self.config.sparsity.target_nnz

    @property
    def option_lists(self) -> dict[str, list | tuple]:
        """Those options that are lists of values to choose from."""
        return {name: v for name, v in self.options.items() if isinstance(v, list | tuple)}

    @functools.cached_property
    def settings(self) -> dict[str, Any]:
        """All that decides the outcome."""
        return {"method": self.method, "options": self.options, "config": outcome(self.config)}

    @functools.cached_property
    def id(self) -> str:
        """A name for a folder: readable, and another for other settings."""
        again = f"t{self.training}" * bool(self.training)
        return _name(f"{self.row}_{self.column}_s{self.seed}{again}", self.settings)

    @functools.cached_property
    def model_config(self) -> ConfigDict | None:
        """The configuration of the ELSA model that the run starts from, if any."""
        if self.method == "elsa":
            config = self.config.copy_and_resolve_references()
            if form := self.options.get("format"):
                width = config.model.n_factors  # 0: as many as items, taken for few
                # As far as is known before training.
                unit = config.model.norms == "unit" or config.model.start == "random"
                norms = config.model.norms == "learned" or not unit
                nnz = row_nonzeros(form, width, self.n_bytes, norms=norms)
                config.sparsity.target_nnz = nnz
            return config
        if self.method == "dense_elsa":
            return _dense(self.config, self.options.get("width", self.n_bytes // BYTES_PER_FACTOR))
        if self.method in COMPRESSIONS:
            return _dense(self.config, self.config.model.n_factors)
        return None

    @property
    def model_id(self) -> str | None:
        """A name for that model's folder."""
        config = self.model_config
        if config is None:
            return None
        width = f"{config.model.start}{config.model.n_factors or ''}"
        return _name(f"k{config.sparsity.target_nnz}_{width}_s{self.seed}", outcome(config))


def methods() -> dict[str, Callable]:
    """Every method by name: `fit(source, *, n_bytes, seed, **options)`.

    The source is the trained model of `elsa`, the embeddings of another model as a dense array, or
    for a baseline the training matrix.
    """
    return {"elsa": _fit_elsa, "dense_elsa": _fit_dense_elsa, **BASELINES, **COMPRESSIONS}


def check(run: Run) -> None:
    """InputError if the run cannot be done, whatever the data."""
    known = methods()
    if run.method not in known:
        names = ", ".join(known)
        raise InputError(f"method is '{run.method}'; choose one of {names}")
    try:
        inspect.signature(known[run.method]).bind(None, n_bytes=0, seed=0, **run.options)
    except TypeError as error:
        raise InputError(f"options: {error}") from None
    _check_option_lists(run)
    form = run.options.get("format")
    if run.method == "elsa" and form is not None and form not in FORMATS:
        raise InputError(f"unknown format '{form}'; use one of {', '.join(FORMATS)}")
    validate(run.config)
    if run.config.train.init_from:
        raise InputError("config.train.init_from: a sweep trains all of its models from the start")
    if run.model_config is not None:
        validate(run.model_config)
    if run.config.data.n_test_users < 2:
        raise InputError("config.data.n_test_users must be at least 2")


def _check_option_lists(run: Run) -> None:
    for name, values in run.option_lists.items():
        where = f"options.{name} is {values!r}"
        if run.method in ("elsa", "dense_elsa"):
            raise InputError(f"{where}: only a baseline chooses its options; make a row of each")
        if not values:
            raise InputError(f"{where}: nothing to choose from")
        data = run.config.data
        if not data.n_val_users or (data.split == "temporal" and not data.val_from):
            raise InputError(
                f"{where}, to choose from on validation users: set config.data.n_val_users (of a "
                "split by time, val_from as well), or give one value"
            )


def perform(run: Run, models: pathlib.Path) -> tuple[dict[str, object], dict[str, np.ndarray]]:
    """Trains or fits what is missing and judges it on the run's test users.

    Args:
      run: see there.
      models: folder of the trained models, which runs share.

    Returns:
      The numbers, and the arrays of each user: `user_ids` and the metrics by name. Where options
      were chosen, the numbers have `chosen`, their values, and `tried`, the validation nDCG@100 of
      every combination; the seconds are those of the chosen.
    """
    dataset, split = load_data(run)
    source, model_seconds = _source(run, split, models)
    protocol = {"folds": run.config.eval.folds, "seed": seed_of(run.config, "folds")}
    baseline, seconds, choice = _fit_best(run, source, split, protocol)
    started = time.perf_counter()
    evaluation = evaluate(
        baseline.score,
        split.test,
        split.train.item_ids,
        held_out_from=split.test_from,
        **protocol,
    )
    numbers = {
        "bytes_per_item": baseline.bytes_per_item,
        **evaluation.summary(),
        "n_users": evaluation.counts["n_users"],
        **choice,
        "data": dataset.counts,
        "data_sha256": split.digest,
        "train_seconds": round(model_seconds + seconds, 2),
        "evaluate_seconds": round(time.perf_counter() - started, 2),
    }
    return numbers, {"user_ids": evaluation.user_ids, **evaluation.per_user}


def load_data(run: Run) -> tuple[Dataset, Split]:
    """The data of a run; those of the run before it are kept."""
    return _load_data(run.config.data.to_json(), seed_of(run.config, "split"))


@functools.lru_cache(maxsize=1)
def _load_data(section: str, seed: int) -> tuple[Dataset, Split]:
    config = ConfigDict(json.loads(section))
    dataset = dataset_of(config, seed)
    return dataset, make_split(dataset.interactions, config, seed)


def _source(run: Run, split: Split, models: pathlib.Path) -> tuple[Any, float]:
    """What the run's method is fitted to, and the seconds that its training took.

    A model is trained once, whichever run asks first.
    """
    if run.model_config is None:
        return split.train.matrix, 0.0
    from celsa_jax.train import train_and_evaluate

    folder = models / str(run.model_id)
    with locked(folder.with_name(f"{folder.name}.lock")):
        if (folder / "split.npz").exists():
            check_data(folder / "split.npz", split.digest)
        results = train_and_evaluate(run.model_config, folder)
        # Gigabytes at full width, and a finished model is not resumed.
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    embeddings = SparseEmbeddings.load(folder / "embeddings.npz")
    source = embeddings if run.method == "elsa" else embeddings.tocsr().toarray()
    return source, results["wall_seconds"]


def _fit_best(
    run: Run, source: Any, split: Split, protocol: dict
) -> tuple[Baseline, float, dict[str, object]]:
    """The fit whose options validate best, its seconds, and what `perform` says of the choice."""
    if not run.option_lists:
        return *_fit(run, source), {}
    (baseline, seconds), chosen, tried = choose(
        functools.partial(_fit, run, source),
        run.option_lists,
        lambda fit: validation_value(fit[0].score, split, **protocol),
    )
    return baseline, seconds, {"chosen": chosen, "tried": tried}


def _fit(run: Run, source: Any, **options: Any) -> tuple[Baseline, float]:
    """The run's method with some options of its lists, and the seconds that fitting took."""
    started = time.perf_counter()
    fit = methods()[run.method]
    fitted = fit(source, n_bytes=run.n_bytes, seed=run.seed, **{**run.options, **options})
    if run.method in COMPRESSIONS:
        fitted = embeddings_baseline(fitted)
    return fitted, time.perf_counter() - started


def _fit_elsa(model: SparseEmbeddings, *, n_bytes: int, seed: int, format: str = "") -> Baseline:
    if not format:
        return embeddings_baseline(model.tocsr())
    stored = model.to_format(format)
    if (took := round(stored.stored_bytes_per_item)) > n_bytes:
        raise InputError(
            f"as {format} an item of this catalogue takes {took} bytes, and the column allows "
            f"{n_bytes}: with more than 65,536 factors one takes four bytes, not two"
        )
    return Baseline(scorer(stored.tocsr()), stored.stored_bytes_per_item)


def _fit_dense_elsa(
    dense: np.ndarray, *, n_bytes: int, seed: int, width: int | None = None
) -> Baseline:
    return embeddings_baseline(dense)


def _dense(config: ConfigDict, width: object) -> ConfigDict:
    """A dense model: trained as a final phase is, as long as that, with no pruning before it."""
    if type(width) is not int or width < 1:
        raise InputError(
            f"a dense model of width {width!r}: set options.width, or to start from such a model, "
            "config.model.start to random, and n_factors"
        )
    dense = config.copy_and_resolve_references()
    dense.model.update(start="random", n_factors=width, norms="unit")
    dense.sparsity.update(target_nnz=width, start_nnz=None, rewind=False, nested_nnz=0)
    dense.train.n_epochs = 0
    return dense


def _name(text: str, settings: dict) -> str:
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    slug = re.sub(r"[^a-z0-9_]+", "-", text.lower()).strip("-_")
    return f"{slug[:60]}-{digest[:8]}"
