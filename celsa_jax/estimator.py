"""Compressed ELSA as an object: fit, recommend, save."""

from __future__ import annotations

import contextlib
import pathlib
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
from ml_collections import ConfigDict
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.utils.validation import check_is_fitted, validate_data

import celsa_jax
from celsa_jax import stopping
from celsa_jax.arrays import check_sparse
from celsa_jax.config import by_name, default_config, seed_of, validate
from celsa_jax.data import Interactions, Split
from celsa_jax.data.splits import check_data
from celsa_jax.errors import InputError, one_line
from celsa_jax.evaluation import Evaluation, evaluate
from celsa_jax.new_items import rows_from_texts, rows_from_users
from celsa_jax.sparse import (
    Explanation,
    Recommendation,
    Recommender,
    SparseEmbeddings,
    scorer,
)
from celsa_jax.sparse.recommender import as_texts
from celsa_jax.user_items import (
    Matrix,
    ids_as_text,
    interactions_of,
    interactions_of_frame,
    nobody,
    positives,
)
from celsa_jax.workdir import Workdir

if TYPE_CHECKING:
    from celsa_jax.fitting import Callback
    from celsa_jax.segments import SegmentTree

_VERSION = 1  # of what `save` writes beside the embeddings
_SAVED = "estimator"  # where it stands in their metadata
_MODEL = "model"  # the file of a model in the folder that it was trained in

# The fields of the configuration that are arguments of their own.
_FIELDS = {
    "nnz": "sparsity.target_nnz",
    "start": "model.start",
    "n_factors": "model.n_factors",
    "alpha": "model.alpha",
    "norms": "model.norms",
    "schedule": "sparsity.schedule",
    "start_nnz": "sparsity.start_nnz",
    "rewind": "sparsity.rewind",
    "n_epochs": "train.n_epochs",
    "n_final_epochs": "train.n_final_epochs",
    "batch_size": "train.batch_size",
    "input_dropout": "train.input_dropout",
    "learning_rate": "train.learning_rate",
    "n_negatives": "train.n_negatives",
    "seed": "seed",
}


class CompressedELSA(TransformerMixin, BaseEstimator):
    """A recommender autoencoder with row-sparse item embeddings (arXiv 2602.09935).

    A scikit-learn estimator: `get_params`, `set_params` and `clone` work, what is learned ends in
    an underscore, and arrays that are no interactions raise scikit-learn's ValueErrors. Users are
    rows, items are columns; whatever is above 0 is one positive interaction.

    Args:
      nnz: non-zeros of an item, k.
      start: `neighbours`, every item is a factor and begins with those of the items most similar
        to it; `clusters`, the same with clusters of items; `random`, as in the paper.
      n_factors: d, for clusters and random starts; with neighbours the number of items.
      alpha: exponent of the item counts in the similarity of items; less favours popular ones.
      norms: `learned` lengths of embeddings, or `unit`.
      schedule: how the non-zeros fall from the start to `nnz` (`celsa_jax.schedules`).
      start_nnz: non-zeros of an item at a start from the data.
      rewind: whether survivors of a mask update return to their initial values (random starts).
      n_epochs: epochs in which the non-zeros fall.
      n_final_epochs: epochs at `nnz`, in which the learning rate falls to 0.
      batch_size: users in a step.
      input_dropout: share of a history that is left out of the input.
      learning_rate: about the length of an item's step; at random starts, of a weight's.
      n_negatives: the loss covers the items of a batch and about so many others; 0 for all.
      seed: of everything random.
      options: further fields of the configuration by name, {"train.b1": 0.9}
        (`celsa_jax.config`).

    What is None follows from the data (`celsa_jax.recipe`).

    Attributes:
      embeddings_: `SparseEmbeddings`, float32.
      recommender_: `Recommender` of these, on all cores.
      item_ids_: [n_items] external ids, in the order of the columns.
      recipe_: what the data decided, by field.
      history_: the metrics of each epoch.
      stopped_: whether training ended before its time, by Ctrl-C.
      n_features_in_: items.

    Example:
      >>> import scipy.sparse as sp
      >>> from celsa_jax import CompressedELSA
      >>> user_items = sp.random_array((200, 30), density=0.2, rng=0, format="csr")
      >>> model = CompressedELSA(nnz=4, n_epochs=1, n_final_epochs=1).fit(user_items)
      >>> items, scores = model.recommend(user_items[:10], k=5)
      >>> items.shape
      (10, 5)
    """

    history_: list[dict]
    stopped_: bool
    _integer_ids = False  # whether ids go out as numbers

    def __init__(
        self,
        nnz: int = 16,
        *,
        start: str = "neighbours",
        n_factors: int = 0,
        alpha: float = 0.5,
        norms: str | None = None,
        schedule: str = "cubic",
        start_nnz: int | None = None,
        rewind: bool = False,
        n_epochs: int | None = None,
        n_final_epochs: int | None = None,
        batch_size: int | None = None,
        input_dropout: float | None = None,
        learning_rate: float | None = None,
        n_negatives: int | None = None,
        seed: int = 0,
        options: dict[str, Any] | None = None,
    ):
        self.nnz = nnz
        self.start = start
        self.n_factors = n_factors
        self.alpha = alpha
        self.norms = norms
        self.schedule = schedule
        self.start_nnz = start_nnz
        self.rewind = rewind
        self.n_epochs = n_epochs
        self.n_final_epochs = n_final_epochs
        self.batch_size = batch_size
        self.input_dropout = input_dropout
        self.learning_rate = learning_rate
        self.n_negatives = n_negatives
        self.seed = seed
        self.options = options

    @classmethod
    def from_config(cls, config: ConfigDict) -> CompressedELSA:
        """What trains as `experiments.train` does with this configuration."""
        values, defaults = by_name(config), by_name(default_config())
        own = {name: values.pop(field) for name, field in _FIELDS.items()}
        options = {field: value for field, value in values.items() if value != defaults[field]}
        return cls(**own, options=options or None)

    def config(self) -> ConfigDict:
        """The configuration of a run with these parameters; InputError where one is at fault."""
        config = default_config()
        params = _plain(self.get_params())
        given = {field: params[name] for name, field in _FIELDS.items()}
        options, known = _plain(self.options or {}), by_name(config)
        for field in options:
            if field not in known:
                raise InputError(f"options: there is no field '{field}' (celsa_jax.config)")
            if field in given:
                own = next(name for name, of in _FIELDS.items() if of == field)
                raise InputError(f"options: '{field}' is an argument of its own, {own}")
        for field, value in {**options, **given}.items():
            try:
                config.update_from_flattened_dict({field: value})
            except TypeError:
                raise InputError(f"config.{field} is {value!r}, of another type") from None
        validate(config)
        return config

    # Training.

    def fit(
        self,
        user_items: Matrix,
        y: None = None,
        *,
        item_ids: Sequence | None = None,
        validation: Matrix | None = None,
        workdir: str | pathlib.Path | None = None,
        callbacks: Sequence[Callback] = (),
        progress: bool = True,
    ) -> CompressedELSA:
        """Learns the embeddings of items.

        Ctrl-C ends training after the epoch, and the model is what it has learned by then; a second
        one leaves at once, without a model.

        Args:
          user_items: users x items, sparse or an array, of any numbers that are not negative; the
            order of the columns is that of the model. Users without interactions are passed over.
          y: not used; scikit-learn gives it.
          item_ids: [n_items] unique ids of the columns, texts or integers; their positions if None.
          validation: other users of the same items, to judge epochs with (`history_`).
          workdir: a folder for checkpoints and metrics, in which a killed run is gone on with. None
            to train in memory.
          callbacks: called after every epoch with its metrics, the dict that `history_` keeps.
          progress: show a bar on stderr.

        Raises:
          ValueError: values that are negative or not finite, as scikit-learn checks them.
          InputError: parameters at fault, or training diverges.
        """
        with self._whole_or_not():
            users = self._checked(user_items, reset=True)
            n_items = users.shape[1]
            ids = np.arange(n_items) if item_ids is None else item_ids
            text, self._integer_ids = ids_as_text(ids, "item_ids", n_items)
            train = interactions_of(users, text)
            if not train.nnz:
                raise ValueError("user_items has no interaction: no value is above 0")
            judged = users[:0] if validation is None else self._checked(validation, reset=False)
            self._fit(train, interactions_of(judged, text), workdir, callbacks, progress)
        return self

    def fit_frame(
        self,
        frame: Any,
        *,
        user: str,
        item: str,
        rating: str | None = None,
        min_rating: float | None = None,
        min_user_interactions: int = 1,
        validation: Any = None,
        workdir: str | pathlib.Path | None = None,
        callbacks: Sequence[Callback] = (),
        progress: bool = True,
    ) -> CompressedELSA:
        """Learns from a table with a row an interaction; items are known by their own ids.

        Args:
          frame: of pandas, polars, Arrow or whatever else has `__arrow_c_stream__`.
          user, item: columns of ids, texts or integers.
          rating: column of ratings; None where every row is a positive interaction.
          min_rating: ratings from here on, 4 if None, are positive, others are left out.
          min_user_interactions: users with fewer are left out.
          validation: a table of other users, to judge epochs with.
          workdir, callbacks, progress: as of `fit`.

        Raises:
          InputError: a column is missing or holds what it must not, nothing is left, or as `fit`.

        Example:
          >>> import pyarrow as pa
          >>> rows = {"user": [1, 1, 2, 2, 3, 3], "film": [7, 8, 8, 9, 7, 9]}
          >>> model = CompressedELSA(nnz=2, n_epochs=1, n_final_epochs=1)
          >>> model.fit_frame(pa.table(rows), user="user", item="film").item_ids_.tolist()
          [7, 8, 9]
        """
        how = user, item, rating, min_rating, min_user_interactions
        with self._whole_or_not():
            train, self._integer_ids = interactions_of_frame(frame, "frame", *how)
            self.__dict__.pop("feature_names_in_", None)  # of a matrix that was fitted before
            judged = nobody(train)
            if validation is not None:
                judged, _ = interactions_of_frame(validation, "validation", *how)
            self._fit(train, judged, workdir, callbacks, progress)
        return self

    def update(
        self,
        user_items: Matrix,
        *,
        callbacks: Sequence[Callback] = (),
        progress: bool = True,
    ) -> CompressedELSA:
        """Goes on from what was learned, with new interactions of the same items.

        What an item has learned of earlier users stays as far as the new ones do not contradict it;
        items that none of them has keep their embeddings as they are.

        Args:
          user_items: users x items of the model, new users or longer histories of known ones.
          callbacks, progress: as of `fit`.

        Raises: as `fit`.
        """
        users, earlier = self._histories(user_items), self.embeddings_
        train = interactions_of(users, earlier.item_ids)
        if not train.nnz:
            raise ValueError("user_items has no interaction: no value is above 0")
        # Lengths that were learned, or not, stay so; values that were learned are not rewound.
        norms = self.norms or str(self.recipe_.get("model.norms", "unit"))
        going_on = clone(self).set_params(norms=norms, rewind=False)
        split = Split(train, nobody(train), nobody(train))
        with self._whole_or_not():
            going_on._train(split, None, callbacks, progress, earlier)
            self.history_ = self.history_ + going_on.history_
            self.stopped_ = going_on.stopped_
            self._set(going_on.embeddings_)
        return self

    def update_frame(
        self,
        frame: Any,
        *,
        user: str,
        item: str,
        rating: str | None = None,
        min_rating: float | None = None,
        callbacks: Sequence[Callback] = (),
        progress: bool = True,
    ) -> CompressedELSA:
        """`update` from a table as of `fit_frame`; items that the model does not know are left out.

        Ids are compared as texts.

        Raises: as `fit_frame`; InputError if no row is of an item of the model.
        """
        check_is_fitted(self)
        interactions, _ = interactions_of_frame(frame, "frame", user, item, rating, min_rating)
        users = interactions.onto(self.embeddings_.item_ids)
        if not users.nnz:
            raise InputError("frame: no row is of an item of the model; are these the same ids?")
        return self.update(users, callbacks=callbacks, progress=progress)

    def add_items(
        self,
        item_ids: Sequence | np.ndarray,
        *,
        user_items: Matrix | None = None,
        texts: Sequence[str] | None = None,
        known_texts: Sequence[str] | None = None,
    ) -> CompressedELSA:
        """Gives embeddings to new items, without training; they stand behind the known ones.

        Args:
          item_ids: [n_new] their ids.
          user_items: users x (items of the model, then the new ones): an item's embedding is that
            of its users.
          texts: [n_new] what is known of items that nobody has yet, title, author, genres: an
            item's embedding is that of the known items whose texts are nearest (TF-IDF).
          known_texts: [n_items] the same of the known items.

        Raises:
          InputError: ids that are known already, neither interactions nor texts, or another number
            of them.
        """
        check_is_fitted(self)
        known = self.embeddings_
        text, are_integers = ids_as_text(item_ids, "item_ids", len(item_ids))
        if not len(text):
            return self
        if are_integers != self._integer_ids:
            kinds = ("integers", "texts") if are_integers else ("texts", "integers")
            raise InputError(f"item_ids are {kinds[0]}, and those of the model {kinds[1]}")
        if (user_items is None) == (texts is None):
            raise InputError("add_items takes user_items, or texts with known_texts")
        matrix = known.tocsr()
        if texts is None:
            users = positives(user_items)
            if users.shape[1] != known.n_items + len(text):
                raise InputError(
                    f"user_items has {users.shape[1]} columns; give the {known.n_items} items of "
                    f"the model and then the {len(text)} new ones"
                )
            rows = rows_from_users(matrix, users, self.nnz)
        else:
            known_texts = [] if known_texts is None else known_texts
            if len(texts) != len(text):
                raise InputError(f"texts: {len(texts)} texts for {len(text)} new items")
            rows = rows_from_texts(matrix, known_texts, texts, self.nnz)
        if (empty := text[np.diff(rows.indptr) == 0]).size:
            shown = ", ".join(empty[:5]) + ", ..." * (empty.size > 5)
            warnings.warn(
                f"{empty.size} of the {len(text)} new items share nothing with known ones, and are "
                f"never recommended: {shown}",
                stacklevel=2,
            )
        ids = np.concatenate([known.item_ids, text])
        both = sp.vstack([matrix, rows])
        self._set(SparseEmbeddings.from_scipy(both, ids, factor_ids=known.factor_ids))
        return self

    # Recommending.

    def recommend(
        self,
        user_items: Matrix,
        k: int = 10,
        *,
        filter_seen: bool = True,
        candidates: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k best items of each history, as positions, and their scores: see `Recommender`.

        As in training, whatever is above 0 is one interaction.
        """
        histories = self._histories(user_items)
        return self.recommender_.recommend(
            histories, k, filter_seen=filter_seen, candidates=candidates
        )

    def recommend_ids(
        self,
        histories: Iterable[Sequence],
        k: int = 10,
        *,
        filter_seen: bool = True,
        candidates: Sequence | None = None,
    ) -> list[Recommendation]:
        """The best items for histories of external ids, which count once: see `Recommender`."""
        check_is_fitted(self)
        once = [list(dict.fromkeys(as_texts(history, "a history"))) for history in histories]
        found = self.recommender_.recommend_ids(
            once, k, filter_seen=filter_seen, candidates=candidates
        )
        return [r._replace(item_ids=self._typed(r.item_ids)) for r in found]

    def similar_items(self, items: np.ndarray, k: int = 10) -> tuple[np.ndarray, np.ndarray]:
        """The k nearest items of each of `items` (positions), and the cosines."""
        check_is_fitted(self)
        return self.recommender_.similar_items(items, k)

    def similar_users(
        self, user_items: Matrix, among: Matrix, k: int = 10
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k users of `among` nearest to each of `user_items`, and the cosines."""
        return self.recommender_.similar_users(
            self._histories(user_items), self._histories(among), k
        )

    def explain(self, user_items: Matrix, item: int) -> Explanation:
        """What an item's score for one user is made of: see `Recommender`."""
        return self.recommender_.explain(self._histories(user_items), item)

    def segments(
        self,
        metadata: dict[str, Sequence[str]] | None = None,
        n_segments: Sequence[int] | None = None,
    ) -> SegmentTree:
        """Nested segments of items whose embeddings are alike: see `celsa_jax.segments`.

        Args:
          metadata: [n_items] texts of each column (title, authors, genres), from which segments get
            their names.
          n_segments: of each level; None as in `find_segments`.
        """
        from celsa_jax.segments import Catalogue, find_segments, item_terms

        check_is_fitted(self)
        columns = {name: np.asarray(texts, object) for name, texts in (metadata or {}).items()}
        terms = item_terms(columns, n_items=self.embeddings_.n_items)
        catalogue = Catalogue(self.embeddings_.tocsr(), self.embeddings_.item_ids, terms)
        return find_segments(catalogue, n_segments, seed=self.seed)

    def transform(self, user_items: Matrix) -> sp.csr_matrix:
        """The latent vectors x U of histories (`Recommender`), CSR float32 [n_users, n_factors]."""
        return self.recommender_.encode(self._histories(user_items))

    def positions(self, item_ids: Sequence) -> np.ndarray:
        """[n] the positions of items by their ids; -1 where unknown."""
        check_is_fitted(self)
        return self.recommender_.positions(as_texts(item_ids, "item_ids"))

    def evaluate(
        self, users: Matrix | Interactions, *, held_out_from: int | None = None
    ) -> Evaluation:
        """Ranks the catalogue for what is held out of other users' interactions.

        Args:
          users: that the model was not trained on: users x items, or `Interactions` over any items.
          held_out_from: hold out what happened from then on, in seconds since 1970, instead of
            folds.
        """
        if not isinstance(users, Interactions):
            users = interactions_of(self._histories(users), self.embeddings_.item_ids)
        check_is_fitted(self)
        with self._whole_or_not():
            config = self.config()
        return evaluate(
            scorer(self.embeddings_.tocsr()),
            users,
            self.embeddings_.item_ids,
            folds=config.eval.folds,
            seed=seed_of(config, "folds"),
            held_out_from=held_out_from,
        )

    @property
    def item_ids_(self) -> np.ndarray:
        return self._typed(self.embeddings_.item_ids)

    # Saving.

    def save(self, path: str | pathlib.Path, *, format: str = "float32") -> None:
        """Writes one file; `SparseEmbeddings.load` reads it, too, without JAX.

        Args:
          path: of the file.
          format: `float32`, `float16`, `int8` or `int4` (`celsa_jax.sparse.formats`).
        """
        check_is_fitted(self)
        notes = {
            "version": _VERSION,
            "params": {**_plain(self.get_params()), "options": _plain(self.options or {}) or None},
            "feature_names": list(getattr(self, "feature_names_in_", ())),
            "recipe": self.recipe_,
            "history": self.history_,
            "integer_ids": self._integer_ids,
        }
        embeddings = self.embeddings_.to_format(format)
        embeddings.with_metadata({_SAVED: notes, "celsa_jax": celsa_jax.__version__}).save(path)

    @classmethod
    def load(cls, path: str | pathlib.Path) -> CompressedELSA:
        """A model of `save`, or of the folder of a finished run.

        Raises:
          InputError: no such file, damaged, no model, or of a newer version of celsa_jax.
        """
        path = pathlib.Path(path)
        try:
            return cls._loaded(path)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{path}: damaged, or no model: {one_line(error) or type(error).__name__}"
            ) from None

    @classmethod
    def _loaded(cls, path: pathlib.Path) -> CompressedELSA:
        """As `load`, with errors of other kinds where the notes beside the embeddings are odd."""
        notes: Any
        if (path / _MODEL).is_file():
            path = path / _MODEL
        if path.is_dir():
            folder = Workdir(path)
            results = folder.results()
            if results is None:
                raise InputError(f"{path}: no finished run is in this folder")
            model = cls.from_config(folder.stored_config())
            notes = {"recipe": results["recipe"], "history": folder.metrics(), "integer_ids": False}
            embeddings = SparseEmbeddings.load(folder.embeddings)
        else:
            embeddings = SparseEmbeddings.load(path)
            notes = embeddings.metadata.get(_SAVED)
            if notes is None:
                raise InputError(
                    f"{path}: embeddings without a model; serve them with celsa_jax.sparse"
                )
            if notes["version"] > _VERSION:
                raise InputError(
                    f"{path}: saved by celsa_jax {embeddings.metadata['celsa_jax']}, newer than "
                    f"this one ({celsa_jax.__version__}); upgrade: pip install -U celsa_jax"
                )
            model = cls(**notes["params"])
        model.recipe_, model.history_ = notes["recipe"], notes["history"]
        model._integer_ids = notes["integer_ids"]
        model.stopped_ = False
        model._set(embeddings.to_format("float32"))
        if names := notes.get("feature_names"):
            model.feature_names_in_ = np.array(names, object)
        model._typed(embeddings.item_ids)  # which may be no numbers
        return model

    # What these have in common.

    @contextlib.contextmanager
    def _whole_or_not(self) -> Iterator[None]:
        """What fails leaves the model as it was; errors speak of arguments, not of fields."""
        before = dict(self.__dict__)
        try:
            yield
        except BaseException as error:
            self.__dict__.clear()
            self.__dict__.update(before)
            if not isinstance(error, InputError):
                raise
            text = str(error)
            for name, field in _FIELDS.items():
                text = text.replace(f"config.{field}", name)
            raise InputError(text) from None

    def _fit(
        self,
        train: Interactions,
        judged: Interactions,
        workdir: str | pathlib.Path | None,
        callbacks: Sequence[Callback],
        progress: bool,
    ) -> None:
        split = Split(train, judged, nobody(train), digest=train.digest())
        if workdir is None:
            self._train(split, None, callbacks, progress)
            return
        folder = Workdir(workdir)
        folder.check(self.config())
        with folder.locked():
            if folder.split.exists():
                check_data(folder.split, split.digest)
            self._train(split, folder, callbacks, progress)
            self.history_ = folder.metrics()  # of earlier processes, too
            if not self.stopped_:
                self.save(folder.path / _MODEL)

    def _train(
        self,
        split: Split,
        folder: Workdir | None,
        callbacks: Sequence[Callback],
        progress: bool,
        earlier: SparseEmbeddings | None = None,
    ) -> None:
        from celsa_jax.fitting import fit  # with JAX

        history: list[dict] = []
        with stopping.interrupts() as asked:
            fitted = fit(
                self.config(),
                split,
                folder,
                earlier=earlier,
                callbacks=(lambda record: history.append(dict(record)), *callbacks),
                stop=asked,
                show_bar=progress,
            )
        self._set(
            SparseEmbeddings.from_scipy(
                fitted.embeddings, split.train.item_ids, factor_ids=fitted.factor_ids
            )
        )
        self.history_, self.recipe_, self.stopped_ = history, fitted.recipe, fitted.stopped

    def _set(self, embeddings: SparseEmbeddings) -> None:
        self.embeddings_ = embeddings
        self.n_features_in_ = embeddings.n_items
        if len(getattr(self, "feature_names_in_", ())) not in (0, embeddings.n_items):
            del self.feature_names_in_  # items came that are no columns of that table
        self.recommender_ = Recommender(embeddings, n_threads=0)

    def _histories(self, user_items: Matrix) -> sp.csr_matrix:
        check_is_fitted(self)
        return self._checked(user_items, reset=False)

    def _checked(self, user_items: Matrix, reset: bool) -> sp.csr_matrix:
        """Ones where interactions are, CSR float32 [n_users, n_items]."""
        if sp.issparse(user_items):
            check_sparse(user_items)
        if getattr(user_items, "format", "") == "coo":
            user_items = user_items.astype(np.float64)  # in which repeated entries add up
        checked = validate_data(
            self, user_items, accept_sparse="csr", ensure_min_samples=int(reset), reset=reset
        )
        return positives(checked)

    def _typed(self, item_ids: np.ndarray) -> np.ndarray:
        """Ids as they were given."""
        if not self._integer_ids:
            return item_ids
        return np.array([int(item) for item in item_ids], None if len(item_ids) else np.int64)

    def __getstate__(self) -> dict:
        state = dict(super().__getstate__())
        state.pop("recommender_", None)  # which is made of the embeddings
        return state

    def __setstate__(self, state: dict) -> None:
        super().__setstate__(state)
        if "embeddings_" in state:
            self._set(self.embeddings_)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.input_tags.positive_only = True
        tags.transformer_tags.preserves_dtype = []  # float32, whatever the histories are
        return tags


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Python's numbers for NumPy's, which a search over parameters may give."""
    return {name: v.item() if isinstance(v, np.generic) else v for name, v in values.items()}
