"""Recommendations against a plain float64 ranking."""

import threading

import numpy as np
import pytest
import scipy.sparse as sp
from conftest import directions
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from celsa_jax.errors import InputError
from celsa_jax.sparse import FORMATS, Recommender, SparseEmbeddings
from celsa_jax.sparse.threads import in_threads

ENGINES = ("scipy", "numba")


def reference(dense, histories, k, filter_seen=True, candidates=None):
    """Each user apart, in float64; a stable sort gives ties to the lower position.

    Nothing for nobody, who has an empty history.
    """
    dense, histories = np.asarray(dense, np.float64), np.asarray(histories, np.float64)
    items = np.full((len(histories), k), -1)
    scores = np.full((len(histories), k), -np.inf)
    for user, x in enumerate(histories):
        score = dense @ (directions(dense).T @ x)
        admissible = [
            i
            for i in range(len(dense) if x.any() else 0)
            if not (filter_seen and x[i]) and (candidates is None or i in candidates)
        ]
        best = sorted(admissible, key=lambda i: -score[i])[:k]
        items[user, : len(best)] = best
        scores[user, : len(best)] = score[best]
    return items, scores


@st.composite
def eighths(draw):
    """Rows of nothing, one or four equal magnitudes, all powers of 2, and so are their lengths:
    float32 sums are exact and ties common."""
    n_items, n_factors = draw(st.integers(1, 40)), draw(st.integers(1, 12))
    rng = np.random.default_rng(draw(st.integers(0, 1 << 20)))
    dense = np.zeros((n_items, n_factors), np.float32)
    for row in dense:
        n = rng.choice([0, 1, 4] if n_factors > 3 else [0, 1])
        signs = rng.choice([-1, 1], n) * rng.choice([0.125, 0.25, 1])
        row[rng.permutation(n_factors)[:n]] = signs
    # Both sides of the bound between lists and rows, and of a group of lanes.
    n_users = draw(st.sampled_from([1, 2, 9, 17, 70]))
    rows = draw(hnp.arrays(np.float32, (3, n_items), elements=st.sampled_from([0, 0, 1])))
    histories = np.vstack([np.zeros_like(rows[:1]), np.ones_like(rows[:1]), rows])
    histories = np.resize(histories, (n_users, n_items))
    k = draw(st.integers(1, n_items + 3))
    candidates = draw(st.none() | st.lists(st.integers(0, n_items - 1), max_size=n_items))
    return dense, histories, k, draw(st.booleans()), candidates


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("form", ["float32", "float16"])
@given(case=eighths())
@settings(max_examples=60)
def test_identical_to_the_reference_ties_included(engine, form, case):
    dense, histories, k, filter_seen, candidates = case
    recommender = Recommender(SparseEmbeddings.from_dense(dense, format=form), engine=engine)
    items, scores = recommender.recommend(
        sp.csr_matrix(histories), k, filter_seen=filter_seen, candidates=candidates
    )
    assert (items.dtype, scores.dtype) == (np.int32, np.float32)
    expected = reference(dense, histories, k, filter_seen, candidates)
    np.testing.assert_array_equal(items, expected[0])
    np.testing.assert_array_equal(scores, expected[1])


def random_embeddings(n_items, n_factors=32, k=4, seed=0):
    rng = np.random.default_rng(seed)
    factors = np.argsort(rng.random((n_items, n_factors)), axis=1)[:, :k]
    dense = np.zeros((n_items, n_factors), np.float32)
    np.put_along_axis(dense, factors, rng.normal(size=(n_items, k)).astype(np.float32), axis=1)
    return dense / np.linalg.norm(dense, axis=1, keepdims=True)


def random_norms(n_items):
    """[n_items, 1] float32: a few 0, others from 0.05 to 20."""
    rng = np.random.default_rng(5)
    norms = np.exp(rng.uniform(np.log(0.05), np.log(20), (n_items, 1)))
    return np.where(rng.random((n_items, 1)) < 0.01, 0, norms).astype(np.float32)


def random_histories(n_users, n_items, length, seed=1):
    rng = np.random.default_rng(seed)
    items = np.concatenate([rng.choice(n_items, length, replace=False) for _ in range(n_users)])
    indptr = np.arange(0, len(items) + 1, length)
    return sp.csr_matrix((np.ones(len(items)), items, indptr), shape=(n_users, n_items))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("n_users", [3, 100])
@pytest.mark.parametrize("is_unit", [True, False])
def test_agrees_with_float64_wherever_scores_differ(engine, form, n_users, is_unit):
    """Formats that round are compared on what they hold."""
    dense = random_embeddings(3000)
    if not is_unit:
        dense *= random_norms(3000)
    stored = SparseEmbeddings.from_dense(dense, format=form)
    assert ("norms" in stored.arrays) == (not is_unit and form in ("int8", "int4"))
    histories = random_histories(n_users, 3000, 20)
    items, scores = Recommender(stored, engine=engine).recommend(histories, 50)
    expected, exact = reference(stored.tocsr().toarray(), histories.toarray(), 51)
    rtol = 1e-7 if is_unit else 1e-6  # scores of hundreds, in float32
    np.testing.assert_allclose(scores, exact[:, :50], atol=1e-5, rtol=rtol)
    gaps = -np.diff(exact, axis=1)
    before = np.column_stack([np.full(n_users, np.inf), gaps[:, :-1]])
    rounding = 1e-5 + rtol * exact[:, :50]
    clear = (before > rounding) & (gaps > rounding)
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(items[clear], expected[:, :50][clear])


@pytest.mark.parametrize("n_users", [2, 20])
def test_catalogues_of_many_tiles_and_blocks(n_users):
    """Ties across all boundaries of the compiled scans (2^14 and 2^16 items)."""
    n_items = 70_000
    rng = np.random.default_rng(2)
    dense = np.zeros((n_items, 4), np.float32)
    values = rng.choice([-1, -0.5, 0, 0.25, 1], n_items)
    dense[np.arange(n_items), rng.integers(0, 4, n_items)] = values
    histories = random_histories(n_users, n_items, 30)
    recommender = Recommender(SparseEmbeddings.from_dense(dense), engine="numba")
    for k in (10, 3000):
        items, scores = recommender.recommend(histories, k)
        exact = (histories @ directions(dense)) @ dense.T.astype(np.float64)
        exact[histories.nonzero()] = -np.inf
        expected = np.argsort(-exact, axis=1, kind="stable")[:, :k]
        np.testing.assert_array_equal(items, expected)
        np.testing.assert_array_equal(scores, np.take_along_axis(exact, expected, axis=1))


def test_scores_that_only_rise_overflow_no_buffer():
    """Every item enters the buffer, which is cut again and again."""
    dense = np.linspace(0.1, 1, 40_000, dtype=np.float32)[:, None]
    recommender = Recommender(SparseEmbeddings.from_dense(dense), engine="numba")
    histories = sp.csr_matrix(([1.0] * 10, (range(10), range(10))), shape=(10, len(dense)))
    for users in (histories[:1], histories):
        items, _ = recommender.recommend(users, 7)
        np.testing.assert_array_equal(
            items, np.tile(np.arange(39_999, 39_992, -1), (len(items), 1))
        )


@pytest.mark.parametrize("engine", ENGINES)
def test_company_and_threads_change_no_bit(engine):
    stored = SparseEmbeddings.from_dense(random_embeddings(500), format="int8")
    histories = random_histories(300, 500, 30)
    recommender = Recommender(stored, engine=engine)
    items, scores = recommender.recommend(histories, 40)
    threaded = Recommender(stored, engine=engine, n_threads=3).recommend(histories, 40)
    alone = [
        Recommender(stored, engine=engine).recommend(histories[u], 40) for u in range(0, 300, 50)
    ]
    np.testing.assert_array_equal(items, threaded[0])
    np.testing.assert_array_equal(scores, threaded[1])
    np.testing.assert_array_equal(items[::50], np.concatenate([a[0] for a in alone]))
    np.testing.assert_array_equal(scores[::50], np.concatenate([a[1] for a in alone]))


@pytest.mark.parametrize("engine", ENGINES)
def test_withheld_items_come_first(checkerboard, engine):
    """One factor for the even items, one for the odd ones: only the withheld item is left."""
    data, withheld = checkerboard
    dense = np.zeros((12, 2))
    dense[np.arange(12), np.arange(12) % 2] = 1
    recommender = Recommender(SparseEmbeddings.from_dense(dense), engine=engine)
    items, _ = recommender.recommend(data.matrix, 1)
    np.testing.assert_array_equal(items[:, 0], withheld)


@pytest.mark.parametrize("engine", ENGINES)
def test_histories_of_any_kind(engine):
    """Weights, repeated and unsorted entries, other sparse kinds and types of index."""
    dense = random_embeddings(50)
    recommender = Recommender(SparseEmbeddings.from_dense(dense), engine=engine)
    expected = reference(dense, [[0] * 3 + [2.5] + [0] * 3 + [1] + [0] * 42], 9)
    entries = ([1.0, 1.0, 1.5], [7, 3, 3], [0, 3])
    plain = sp.csr_matrix(entries, shape=(1, 50))
    wide = sp.csr_matrix(entries, shape=(1, 50))
    wide.indices, wide.indptr = wide.indices.astype(np.int64), wide.indptr.astype(np.int64)
    for histories in (plain, wide, sp.coo_array(plain), sp.csc_matrix(plain)):
        items, scores = recommender.recommend(histories, 9)
        np.testing.assert_array_equal(items, expected[0])
        np.testing.assert_allclose(scores, expected[1], atol=1e-6)
    np.testing.assert_array_equal(plain.indices, [7, 3, 3])  # the caller's matrix is left alone


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("asked", [[7, 3], np.arange(5, 25)])
def test_similar_items_are_cosines_and_begin_with_the_item(engine, form, asked):
    """Whatever the lengths of the rows, which count in recommendations: of those who may come."""
    dense = random_embeddings(80, 32, 6) * np.geomspace(0.05, 20, 80, dtype=np.float32)[:, None]
    dense[50] = 0
    stored = SparseEmbeddings.from_dense(dense, format=form)
    recommender = Recommender(stored, engine=engine)
    items, scores = recommender.similar_items(asked, 5)
    unit = directions(stored.tocsr().toarray())
    cosine = unit[asked] @ unit.T
    np.testing.assert_array_equal(items[:, 0], asked)
    np.testing.assert_array_equal(items, np.argsort(-cosine, axis=1)[:, :5])
    np.testing.assert_allclose(scores, -np.sort(-cosine, axis=1)[:, :5], atol=1e-6)
    histories = sp.csr_matrix(np.eye(80, dtype=np.float32)[asked])
    products = -np.sort(-(histories @ unit @ stored.tocsr().T.toarray()), axis=1)
    found = recommender.recommend(histories, 5, filter_seen=False)[1]
    np.testing.assert_allclose(found, products[:, :5], rtol=1e-5)
    np.testing.assert_array_equal(recommender.similar_items([50], 3)[1], 0)


@pytest.mark.parametrize("engine", ENGINES)
def test_similar_items_of_tiny_and_huge_rows(engine):
    dense = np.array([[3e-30, 4e-30], [3e15, 4e15], [1e-42, 0], [0, 2.5]])
    items, scores = Recommender(SparseEmbeddings.from_dense(dense), engine=engine).similar_items(
        [0, 1, 2], 4
    )
    assert np.isfinite(scores).all()
    np.testing.assert_allclose(scores[:2, :3], [[1, 1, 0.8]] * 2, rtol=1e-6)
    np.testing.assert_array_equal(items[:2, 2], [3, 3])


def test_recommend_ids_reports_what_it_does_not_know():
    dense, ids = random_embeddings(30), [f"book {i}" for i in range(30)]
    recommender = Recommender(SparseEmbeddings.from_dense(dense, ids))
    histories = [["book 3", "atlas", "book 8"], ids[:29], ["atlas"], []]
    found, all_but_one, nothing, nobody = recommender.recommend_ids(histories, 4)
    expected = reference(dense, np.isin(np.arange(30), [3, 8])[None], 4)
    assert found.item_ids.tolist() == [ids[i] for i in expected[0][0]]
    np.testing.assert_allclose(found.scores, expected[1][0], atol=1e-6)
    assert found.unknown == ["atlas"]
    assert all_but_one.item_ids.tolist() == ["book 29"]
    assert (len(nothing.item_ids), len(nothing.scores), nothing.unknown) == (0, 0, ["atlas"])
    assert (len(nobody.item_ids), nobody.unknown) == (0, [])
    assert recommender.recommend_ids([]) == []
    for history in "book 3", 3:
        with pytest.raises(InputError, match=f"a list of ids, not {history!r}"):
            recommender.recommend_ids([history])


def test_candidates_by_their_ids():
    dense, ids = random_embeddings(30), [f"book {i}" for i in range(30)]
    recommender = Recommender(SparseEmbeddings.from_dense(dense, ids))
    candidates = ["book 5", "atlas", "book 3", "book 9"]
    [found] = recommender.recommend_ids([["book 3"]], 4, candidates=candidates)
    scores = dense[3] @ dense.T
    assert found.item_ids.tolist() == sorted(
        ["book 5", "book 9"], key=lambda b: -scores[int(b[5:])]
    )
    [found] = recommender.recommend_ids([["book 3"]], 4, candidates=["atlas"])
    assert len(found.item_ids) == 0


def test_similar_users_have_similar_latent_vectors(monkeypatch):
    dense, users = random_embeddings(60), random_histories(23, 60, 5)
    recommender = Recommender(SparseEmbeddings.from_dense(dense))
    latent = users.toarray() @ dense
    latent /= np.linalg.norm(latent, axis=1, keepdims=True)
    cosines = latent[:7] @ latent[7:].T
    monkeypatch.setattr("celsa_jax.sparse.recommender._COSINES_AT_ONCE", 40)  # blocks of two
    rows, values = recommender.similar_users(users[:7], users[7:], 20)
    np.testing.assert_array_equal(rows[:, :16], np.argsort(-cosines, axis=1, kind="stable"))
    np.testing.assert_allclose(values[:, :16], -np.sort(-cosines), atol=1e-6)
    assert (rows[:, 16:] == -1).all()
    assert (values[:, 16:] == -np.inf).all()
    rows, _ = recommender.similar_users(users[:2], users[:0], 3)
    assert (rows == -1).all()


def test_an_explanation_adds_up_by_item_and_by_factor():
    dense = random_embeddings(20)
    recommender = Recommender(SparseEmbeddings.from_dense(dense))
    history = sp.csr_matrix(([1.0, 2.0], ([0, 0], [4, 11])), (1, 20))
    score, by_item, by_factor = recommender.explain(history, 7)
    latent = dense[4] + 2 * dense[11]
    assert score == pytest.approx(latent @ dense[7], rel=1e-6)
    twice = sp.csr_matrix(([1.0, 2.0, 0.0], [4, 11, 4], [0, 3]), (1, 20))
    assert len(recommender.explain(twice, 7).history) == len(by_item) == 2
    assert dict(by_item) == pytest.approx({4: dense[4] @ dense[7], 11: 2 * dense[11] @ dense[7]})
    parts = {f: latent[f] * dense[7, f] for f in np.flatnonzero(latent * dense[7])}
    assert dict(by_factor) == pytest.approx(parts)
    assert [abs(part) for _, part in by_factor] == sorted(map(abs, parts.values()), reverse=True)
    with pytest.raises(InputError, match="takes one history, not 2"):
        recommender.explain(sp.vstack([history, history]), 7)
    with pytest.raises(InputError, match="item: 20 is no item position"):
        recommender.explain(history, 20)


@pytest.mark.parametrize("engine", ENGINES)
def test_an_empty_history_is_recommended_nothing(engine):
    """By positions and by ids alike, alone and in company."""
    embeddings = SparseEmbeddings.from_dense(np.eye(4, dtype=np.float32), list("abcd"))
    recommender = Recommender(embeddings, engine=engine)
    histories = sp.csr_matrix(np.array([[0, 0, 0, 0], [0, 1, 0, 0]], np.float32))
    for filter_seen, candidates in ((True, None), (False, None), (True, [3, 2])):
        options = {"filter_seen": filter_seen, "candidates": candidates}
        items, scores = recommender.recommend(histories, 2, **options)
        assert items[0].tolist() == [-1, -1]
        assert scores[0].tolist() == [-np.inf, -np.inf]
        assert (items[1] >= 0).all()
        assert recommender.recommend(histories[:1], 2, **options)[0].tolist() == [[-1, -1]]
    for history in ([], ["x"]):
        [best] = recommender.recommend_ids([history], 2)
        assert (best.item_ids.tolist(), best.scores.tolist()) == ([], [])


def test_encode_is_the_product_with_the_embeddings():
    dense = random_embeddings(60)
    histories = random_histories(5, 60, 7)
    latent = Recommender(SparseEmbeddings.from_dense(dense)).encode(histories)
    assert latent.has_sorted_indices
    np.testing.assert_allclose(latent.toarray(), histories.toarray() @ dense, atol=1e-6)


def test_embeddings_without_items_or_users():
    for engine in ENGINES:
        recommender = Recommender(SparseEmbeddings.from_dense(np.zeros((3, 2))), engine=engine)
        items, scores = recommender.recommend(sp.csr_matrix((0, 3)), 2)
        assert items.shape == scores.shape == (0, 2)
        items, _ = recommender.recommend(sp.csr_matrix((1, 3)), 2, candidates=[])
        np.testing.assert_array_equal(items, [[-1, -1]])
        recommender.warm_up()
        nothing = Recommender(SparseEmbeddings.from_dense(np.zeros((0, 2))), engine=engine)
        np.testing.assert_array_equal(nothing.recommend(sp.csr_matrix((1, 0)), 1)[0], [[-1]])


def outside(position):
    matrix = sp.csr_matrix(([1.0, 1.0], [0, 2], [0, 1, 2]), shape=(2, 4))
    matrix.indices[1] = position
    return matrix


def test_candidates_are_chosen_from_exactly():
    stored = SparseEmbeddings.from_dense(random_embeddings(100))
    histories, candidates = random_histories(9, 100, 9), np.arange(5, 60)
    exact = Recommender(stored).recommend(histories, 8, candidates=candidates)
    for engine in ENGINES:
        few = Recommender(stored, engine=engine)
        items, _ = few.recommend(histories, 8, candidates=candidates)
        np.testing.assert_array_equal(items, exact[0])


def test_an_error_in_a_thread_ends_the_work():
    begun, released = [], threading.Event()

    def work(part):
        begun.append(part)
        if part == 0:
            raise KeyError(part)
        released.wait(10)

    with pytest.raises(KeyError):
        in_threads(work, range(1000), 2)
    released.set()
    assert len(begun) < 5
    assert in_threads(abs, [-1, -2, -3], 2) == [1, 2, 3]


def broken_rows():
    matrix = sp.csr_matrix(([1.0, 1.0], [0, 1], [0, 1, 2]), shape=(2, 4))
    matrix.indptr[1] = 4_000_000
    return matrix


def unsound(kind, **changes):
    """A matrix of two users and four items whose arrays were changed behind SciPy's back."""
    matrix = sp.csr_matrix(([1.0, 1.0], [0, 1], [0, 1, 2]), shape=(2, 4)).asformat(kind)
    for name, value in changes.items():
        setattr(matrix, name, np.array(value))
    return matrix


UNSOUND = [
    unsound("csr", data=[1.0]),
    unsound("csr", indptr=[0, 2]),
    unsound("csc", indices=[0, 4_000_000]),
    unsound("csc", indices=[0, -1]),
    unsound("csc", data=[1.0]),
    unsound("csc", indptr=[0, 1, 2, 2, 4_000_000]),
    unsound("coo", coords=(np.array([0, 4_000_000]), np.array([0, 1]))),
    unsound("coo", data=[1.0]),
    unsound("bsr", indices=[0, 4_000_000]),
]


@pytest.mark.parametrize("matrix", UNSOUND, ids=lambda matrix: matrix.format)
def test_unsound_matrices_are_refused(matrix):
    """Compiled code would read, or write, far outside of them."""
    recommender = Recommender(SparseEmbeddings.from_dense(np.eye(4)))
    for call in (recommender.recommend, recommender.encode):
        with pytest.raises(InputError, match=r"the histories are no (CSR|sound) matrix"):
            call(matrix)
    with pytest.raises(InputError, match="the embeddings are no sound sparse matrix"):
        SparseEmbeddings.from_scipy(matrix)


def test_entries_behind_the_last_row_count_for_nothing():
    matrix = sp.csr_matrix(([1.0, 1, 1], [0, 1, 2], [0, 1, 2]), shape=(2, 4))
    for engine in ("scipy", "numba"):
        recommender = Recommender(SparseEmbeddings.from_dense(np.eye(4)), engine=engine)
        items, _ = recommender.recommend(matrix, 1, filter_seen=False)
        assert items.tolist() == [[0], [1]]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r: r.recommend(sp.csr_matrix((1, 5))), "5 items, the embeddings 4"),
        (lambda r: r.recommend(np.zeros((1, 4))), "must be a sparse matrix"),
        (lambda r: r.recommend(outside(4)), "row 1 of the histories holds 4; positions are 0 to 3"),
        (lambda r: r.recommend(outside(-1)), "row 1 of the histories holds -1; positions"),
        (
            lambda r: r.recommend(sp.csr_matrix([[0, np.nan, 0, 0]])),
            "row 0 .* nan; values must be finite",
        ),
        (lambda r: r.recommend(sp.csr_matrix((1, 4)), 0), "k is 0"),
        (lambda r: r.recommend(sp.csr_matrix((1, 4)), 2.5), "k is 2.5"),
        (lambda r: r.recommend(sp.csr_matrix((1, 4)), True), "k is True"),
        (lambda r: r.recommend_ids([["0"]], 300_000_000), "k is 300000000, of 4; give a smaller"),
        (
            lambda r: r.recommend(sp.csr_matrix((40_000, 4)), 1000),
            "k is 1000, of 4; give a smaller",
        ),
        (
            lambda r: r.similar_users(sp.eye_array(4), sp.eye_array(4), 1 << 25),
            "k is 33554432, of 4",
        ),
        (lambda r: r.similar_items([0], 1 << 25), "k is 33554432, of 4; give a smaller"),
        (lambda r: r.recommend(broken_rows()), "indptr does not fit"),
        (lambda r: r.recommend(sp.csr_matrix([[1, -1.1e8, 0, 0]])), r"finite, and 1e\+08 at most"),
        (lambda r: r.recommend(sp.csr_matrix((1, 4)), candidates=[4]), "candidates: 4 is no item"),
        (lambda r: r.recommend(sp.csr_matrix((1, 4)), candidates=[0.5]), "whole numbers"),
        (lambda r: r.similar_items([-1]), "items: -1 is no item position"),
        (lambda r: r.encode(outside(9)), "holds 9; positions are"),
        (lambda r: r.recommend(sp.csr_matrix(np.eye(4) * 1j)), "the histories are complex"),
        (lambda r: Recommender(r.embeddings, engine="gpu"), "unknown engine 'gpu'"),
        (lambda r: Recommender(r.embeddings, n_threads=-1), "n_threads is -1"),
    ],
)
def test_bad_requests_are_named(call, message):
    recommender = Recommender(SparseEmbeddings.from_dense(np.eye(4)))
    with pytest.raises(InputError, match=message):
        call(recommender)


def test_without_numba_scipy_serves(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    stored = SparseEmbeddings.from_dense(np.eye(4))
    assert Recommender(stored).engine == "scipy"
    with pytest.raises(InputError, match=r"pip install 'celsa_jax\[serve\]'"):
        Recommender(stored, engine="numba")


def test_similar_items_by_id():
    rows = [[2, 0], [0, 3], [3, 4], [0, 0], [-1, 0]]
    embeddings = SparseEmbeddings.from_dense(np.array(rows, float), ["a", "b", "c", "zero", "e"])
    recommender = Recommender(embeddings, engine="scipy")
    nothing, found = recommender.similar_ids(["nobody", "c"], 5)
    assert (nothing.item_ids.tolist(), nothing.unknown) == ([], ["nobody"])
    assert found.item_ids.tolist() == ["c", "b", "a", "zero", "e"]
    np.testing.assert_allclose(found.scores, [1, 0.8, 0.6, 0, -0.6], atol=1e-6)
    assert found.version == embeddings.version
    assert recommender.similar_ids([]) == []
    with pytest.raises(InputError, match="a list of ids, not 'c'"):
        recommender.similar_ids("c")


def test_versions_tell_models_apart(tmp_path):
    dense = np.array([[1, 0.5], [0, 2]])
    embeddings = SparseEmbeddings.from_dense(dense, ["a", "b"])
    embeddings.save(tmp_path / "saved")
    assert SparseEmbeddings.load(tmp_path / "saved").version == embeddings.version
    others = [
        SparseEmbeddings.from_dense(dense, ["a", "c"]),
        SparseEmbeddings.from_dense(dense + 1e-6, ["a", "b"]),
        SparseEmbeddings.from_dense(np.hstack([dense, [[0], [0]]]), ["a", "b"]),
        SparseEmbeddings.from_dense(dense[:, ::-1], ["a", "b"]),
        SparseEmbeddings.from_dense(np.zeros((0, 2)), []),
        embeddings.to_format("int8"),
    ]
    versions = {embeddings.version, *(other.version for other in others)}
    assert len(versions) == 7
    assert all(len(version) == 12 for version in versions)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("form", FORMATS)
def test_no_score_overflows(engine, form):
    """The largest values and weights that are taken, of both signs, and the shortest rows."""
    largest = {"float32": 9e15, "float16": 6e4}.get(form, 3e4)
    dense = np.tile([[largest, -largest], [-largest, -largest], [1e-4, 0]], (100, 1))
    if form == "float32":
        dense[2::3] = 1e-42
    recommender = Recommender(SparseEmbeddings.from_dense(dense, format=form), engine=engine)
    for n_users in 1, 9:
        histories = sp.csr_matrix(np.full((n_users, 300), 1e8))
        items, scores = recommender.recommend(histories, 300, filter_seen=False)
        assert np.isfinite(scores).all()
        assert (np.sort(items, axis=1) == np.arange(300)).all()
