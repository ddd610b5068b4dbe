"""Formats and files of sparse embeddings."""

import json
import struct

import numpy as np
import pytest
import safetensors
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from celsa_jax.errors import InputError
from celsa_jax.sparse import FORMATS, Recommender, SparseEmbeddings, scorer
from celsa_jax.sparse.formats import BRIDGED, MOST_FACTORS, row_bytes, row_nonzeros
from celsa_jax.sparse.tensors import read_tensors, write_tensors


def unit_rows(n_items=200, n_factors=64, k=8, seed=0):
    """Dense float32 rows of unit length with exactly k non-zeros."""
    rng = np.random.default_rng(seed)
    dense = np.zeros((n_items, n_factors), np.float32)
    for row in dense:
        row[rng.choice(n_factors, k, replace=False)] = rng.normal(size=k)
    return dense / np.linalg.norm(dense, axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("form", "n_bytes", "error"),
    [("float32", 6, 0), ("float16", 4, 2**-11), ("int8", 3, 0.5 / 127), ("int4", 2, 0.15)],
)
def test_formats_keep_values_to_their_precision_in_their_bytes(form, n_bytes, error):
    dense = unit_rows()
    stored = SparseEmbeddings.from_dense(dense, format=form)
    assert stored.format == form
    assert stored.stored_bytes_per_item == 8 * n_bytes
    assert row_bytes(form, dense.shape[1], 8) == 8 * n_bytes
    assert np.abs(stored.tocsr().toarray() - dense).max() <= error * 1.0001
    assert stored.tocsr().has_sorted_indices


@pytest.mark.parametrize("n_factors", [1 << 16, (1 << 16) + 1])
@pytest.mark.parametrize("form", ["float32", "float16", "int8"])
def test_the_bytes_of_a_format_at_any_width(form, n_factors):
    rows = sp.csr_matrix(([0.6, 0.8], [0, n_factors - 1], [0, 2]), shape=(1, n_factors))
    stored = SparseEmbeddings.from_scipy(rows, format=form)
    assert stored.stored_bytes_per_item == row_bytes(form, n_factors, 2)


def test_int8_by_hand():
    stored = SparseEmbeddings.from_dense([[0.6, 0, -0.8], [0, 0, 0], [0, 1, 0]], format="int8")
    np.testing.assert_array_equal(stored.arrays["factors"], [0, 2, 1])
    np.testing.assert_array_equal(stored.arrays["values"], [76, -102, 127])
    np.testing.assert_allclose(
        stored.tocsr().toarray(), [[76 / 127, 0, -102 / 127], [0, 0, 0], [0, 1, 0]], rtol=1e-6
    )


def relative_loss(stored, dense):
    decoded = stored.tocsr().toarray().astype(np.float64)
    return np.linalg.norm(decoded - dense, axis=1) / np.linalg.norm(dense, axis=1)


@pytest.mark.parametrize("lengths", ["unit", "any"])
def test_int8_of_dense_rows_loses_as_little_as_of_sparse_ones(tmp_path, lengths):
    """Steps of the length would lose 14 % of rows of 4,096 values; their largest takes all 127."""
    rng = np.random.default_rng(0)
    dense = rng.normal(size=(6, 4096))
    dense[5, 128:] = dense[4, 129:] = 0  # 128 non-zeros, and 129
    dense /= np.linalg.norm(dense, axis=1, keepdims=True)
    if lengths == "any":
        dense *= np.geomspace(0.001, 5, 6)[:, None]
    stored = SparseEmbeddings.from_dense(dense.astype(np.float32), format="int8")
    assert (relative_loss(stored, dense)[:5] < 0.012).all()
    assert 0.02 < relative_loss(stored, dense)[5] < 0.03
    largest = np.abs(dense).max(axis=1)
    scale = np.where(np.arange(6) < 5, largest, np.linalg.norm(dense, axis=1))
    np.testing.assert_allclose(stored.arrays["norms"], scale, rtol=2**-10)
    stored.save(tmp_path / "E")
    loaded = SparseEmbeddings.load(tmp_path / "E")
    assert (loaded.tocsr() != stored.tocsr()).nnz == 0
    tiny = SparseEmbeddings.from_dense(np.full((1, 900), 1e-5, np.float32), format="int8")
    assert relative_loss(tiny, np.full((1, 900), 1e-5))[0] < 0.04


def test_int4_by_hand():
    """With up to 16 different values the codebook holds them all, and nothing is lost."""
    dense = np.zeros((3, 9000), np.float32)
    dense[0, [5, 3844]] = 0.6, -0.8
    dense[2, [7, 8000]] = 0.6, 0.8
    stored = SparseEmbeddings.from_dense(dense, format="int4")
    words, codebook = stored.arrays["words"], stored.arrays["codebook"]
    # The differences 5, 3839, 7 and 7993 = 2 * 3840 + 313.
    np.testing.assert_array_equal(words[[0, 1, 2, 4]] >> 4, [5, 3839, 7, 313])
    assert words[3] == 0xF002
    np.testing.assert_array_equal(stored.starts, [0, 2, 2, 5])
    np.testing.assert_allclose(codebook[words[[0, 1, 2, 4]] & 15], [0.6, -0.8, 0.6, 0.8], rtol=1e-6)
    np.testing.assert_allclose(stored.tocsr().toarray(), dense, rtol=1e-6)
    assert (stored.nnz, stored.stored_bytes_per_item) == (4, 10 / 3)


FULL_BRIDGE = 4095 * BRIDGED
BORDERS = [0, 1, 3839, 3840, 3841, 4095, 4096, 4097, 7679, 7680, 65_535, 65_536, 1 << 20]
BORDERS += [FULL_BRIDGE - 1, FULL_BRIDGE, FULL_BRIDGE + 3839, FULL_BRIDGE + 3840, 2 * FULL_BRIDGE]


@st.composite
def wide_rows(draw):
    """(n_factors, ascending factors of each row); differences at the borders of the words."""
    gaps = st.sampled_from(BORDERS) | st.integers(0, 1 << 22)
    rows = draw(st.lists(st.lists(gaps, max_size=5), max_size=6))
    rows = [sorted({f for f in np.cumsum(row).tolist() if f < MOST_FACTORS}) for row in rows]
    highest = max((row[-1] for row in rows if row), default=0)
    n_factors = highest + draw(st.sampled_from([1, 2, 5000, 1 << 20]))
    return min(n_factors, MOST_FACTORS), rows


def of_rows(n_factors, rows, form="int4"):
    """Embeddings of these factors, all values of a row alike."""
    lengths = [len(row) for row in rows]
    values = np.repeat([1 / np.sqrt(max(n, 1)) for n in lengths], lengths)
    indices = np.array([factor for row in rows for factor in row], np.int64)
    starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    matrix = sp.csr_matrix((values, indices, starts), shape=(len(rows), n_factors))
    return SparseEmbeddings.from_scipy(matrix, format=form)


def plain_reading(words):
    """The factors in the words of one row, a word at a time."""
    at, factors = 0, []
    for word in words.tolist():
        if word < 0xF000:
            at += word // 16
            factors.append(at)
        else:
            at += (word - 0xF000) * 3840
    return factors


@given(case=wide_rows())
@settings(deadline=None)
def test_int4_holds_factors_of_any_width_exactly(tmp_path_factory, case):
    n_factors, rows = case
    stored = of_rows(n_factors, rows)
    words = stored.arrays["words"]
    parts = np.split(words, stored.starts[1:-1]) if rows else []
    assert [plain_reading(part) for part in parts] == rows
    assert stored.nnz == sum(map(len, rows))
    path = tmp_path_factory.getbasetemp() / "wide"
    stored.save(path)
    for embeddings in (stored, SparseEmbeddings.load(path), stored.to_format("float32")):
        found = embeddings.tocsr()
        assert found.shape == (len(rows), n_factors)
        np.testing.assert_array_equal(np.diff(found.indptr), [len(row) for row in rows])
        np.testing.assert_array_equal(found.indices, [f for row in rows for f in row])
        lengths = np.repeat([len(row) for row in rows], [len(row) for row in rows])
        np.testing.assert_allclose(found.data, lengths**-0.5, rtol=1e-6)


@pytest.mark.parametrize("engine", ["scipy", "numba"])
@pytest.mark.parametrize("n_users", [1, 20])
@pytest.mark.parametrize("n_factors", [1, 3841, 9798, (1 << 20) + 1])
def test_int4_is_served_at_any_width(engine, n_users, n_factors):
    """Like the float32 matrix that it holds, by lists, by rows and among candidates."""
    rng = np.random.default_rng(n_factors)
    width = min(n_factors, 20)
    rows = [sorted(set(rng.integers(0, n_factors, width).tolist())) for _ in range(60)]
    rows[7] = []
    rows[8] = [n_factors - 1]
    stored = of_rows(n_factors, rows)
    histories = sp.random_array((n_users, 60), density=0.2, rng=rng).tocsr().astype(np.float32)
    matrix = stored.tocsr().astype(np.float64)
    lengths = np.sqrt(np.asarray(matrix.power(2).sum(axis=1)).ravel())
    weighted = histories @ sp.diags_array(1 / np.where(lengths > 0, lengths, 1))
    exact = (weighted @ matrix @ matrix.T).toarray()
    recommender = Recommender(stored, engine=engine)
    for candidates in (np.arange(60), np.arange(3, 50)):
        given = None if len(candidates) == 60 else candidates
        items, scores = recommender.recommend(
            histories, len(candidates), filter_seen=False, candidates=given
        )
        np.testing.assert_array_equal(np.sort(items, axis=1), [candidates] * n_users)
        np.testing.assert_allclose(scores, np.take_along_axis(exact, items, axis=1), atol=1e-5)


@pytest.mark.parametrize("k", [3, 60])  # few, and more than an eighth: scored as a dense array
@pytest.mark.parametrize("as_stored", [sp.csc_matrix, sp.csr_matrix, np.asarray])
def test_scores_are_those_of_the_formula(k, as_stored):
    rows = 2.5 * unit_rows(40, k=k)
    rows[7] = 0  # has no direction
    history = np.zeros((3, 40), np.float32)
    history[0, [1, 5]] = history[1, 7] = 1
    score = scorer(as_stored(rows))(sp.csr_matrix(history))
    assert score.dtype == np.float32
    wanted = [
        [(rows[1] + rows[5]) / 2.5 @ row for row in rows.astype(np.float64)],
        np.zeros(40),
        np.zeros(40),
    ]
    np.testing.assert_allclose(score, wanted, atol=1e-5)


def test_int4_in_several_blocks_of_lists():
    rng = np.random.default_rng(0)
    pairs = rng.integers(0, 9000, (70_000, 2))
    stored = of_rows(9000, [sorted({a, b}) for a, b in pairs.tolist()])
    histories = sp.random_array((2, 70_000), density=0.001, rng=rng).tocsr().astype(np.float32)
    found, expected = (
        Recommender(stored, engine=engine).recommend(histories, 200)[1]
        for engine in ("numba", "scipy")
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("n_factors", "most"), [(4096, 32), (9798, 33), (1 << 16, 48), (1 << 20, 64), (1 << 24, 64)]
)
def test_the_bytes_of_int4_are_those_expected_of_random_factors(n_factors, most):
    rng = np.random.default_rng(0)
    rows = [sorted(set(rng.integers(0, n_factors, 16).tolist())) for _ in range(3000)]
    stored = of_rows(n_factors, rows)
    expected = np.mean([row_bytes("int4", n_factors, len(row)) for row in rows])
    assert stored.stored_bytes_per_item == pytest.approx(expected, rel=0.005)
    assert stored.stored_bytes_per_item <= most


def test_the_non_zeros_that_a_row_has_room_for():
    assert [row_nonzeros(form, 9798, 32) for form in FORMATS] == [5, 8, 10, 16]
    assert [row_nonzeros("int4", d, 64) for d in (1, 9798, 1 << 16, 1 << 20)] == [32, 32, 26, 16]
    assert [row_nonzeros(form, 9798, 32, norms=True) for form in FORMATS] == [5, 8, 10, 15]
    assert row_nonzeros("int8", 9798, 1, norms=True) == 0


def test_int4_fits_its_codebook_and_keeps_rows_unit():
    dense = unit_rows(2000)
    stored = SparseEmbeddings.from_dense(dense, format="int4")
    rows = stored.tocsr()
    np.testing.assert_allclose(np.sqrt(rows.multiply(rows).sum(axis=1)), 1, rtol=1e-6)
    values = dense[dense != 0]
    plain = np.clip(np.rint(values * 7), -7, 7) / 7
    codes = stored.arrays["words"] & 15
    fitted = stored.arrays["codebook"][codes]
    assert np.mean((fitted - values) ** 2) < 0.7 * np.mean((plain - values) ** 2)
    # A codebook that Lloyd's algorithm leaves alone holds the mean of each of its cells.
    for code in range(16):
        assert fitted[codes == code][0] == pytest.approx(values[codes == code].mean(), abs=1e-3)


def rows_of_any_length(n_items=500, seed=0):
    """(dense rows, of length 0 and 0.05 to 20, and the lengths, in float64)."""
    lengths = np.geomspace(0.05, 20, n_items)
    np.random.default_rng(seed).shuffle(lengths)
    lengths[[3, 70]] = 0
    return (unit_rows(n_items, seed=seed) * lengths[:, None]).astype(np.float32), lengths


@pytest.mark.parametrize(("form", "n_bytes"), [("int8", 3), ("int4", 2)])
def test_rows_of_any_length_lose_no_more_than_unit_rows(form, n_bytes):
    dense, lengths = rows_of_any_length()
    stored = SparseEmbeddings.from_dense(dense, format=form)
    filled = lengths > 0
    assert stored.stored_bytes_per_item == pytest.approx(8 * n_bytes * filled.mean() + 2)
    assert row_bytes(form, 64, 8, norms=True) == 8 * n_bytes + 2
    np.testing.assert_array_equal(stored.arrays["norms"], lengths.astype(np.float16))
    decoded = stored.tocsr().toarray()
    assert not decoded[~filled].any()
    # Of its own length each row is unit, and lost what the same rows lose without norms.
    unit = dense[filled] / lengths[filled, None]
    plain = SparseEmbeddings.from_dense(unit, format=form)
    assert "norms" not in plain.arrays
    lost = decoded[filled] / lengths[filled, None] - unit
    float16 = 2**-11
    assert np.abs(lost).max() <= np.abs(plain.tocsr().toarray() - unit).max() + float16
    assert np.sqrt(np.mean(lost**2)) <= 1.01 * np.sqrt(np.mean((plain.tocsr() - unit).A ** 2))
    if form == "int8":
        assert np.abs(lost).max() <= 0.5 / 127 * (1 + float16) + 1e-6
    else:
        np.testing.assert_allclose(np.linalg.norm(decoded, axis=1), lengths, rtol=float16)
    factors = plain.tocsr().indices
    np.testing.assert_array_equal(stored.tocsr().indices, factors)


def test_norms_by_hand():
    stored = SparseEmbeddings.from_dense([[1.2, 0, -1.6], [0, 0, 0], [0, 0.5, 0]], format="int8")
    np.testing.assert_array_equal(stored.arrays["values"], [76, -102, 127])
    np.testing.assert_array_equal(stored.arrays["norms"], [2, 0, 0.5])
    assert stored.stored_bytes_per_item == 5
    expected = [[152 / 127, 0, -204 / 127], [0, 0, 0], [0, 0.5, 0]]
    np.testing.assert_allclose(stored.tocsr().toarray(), expected, rtol=1e-6)


@pytest.mark.parametrize("form", ["int8", "int4"])
def test_norms_that_round_to_1_are_left_out(form):
    dense = unit_rows()
    almost = dense * np.linspace(1 - 1e-4, 1 + 1e-4, len(dense), dtype=np.float32)[:, None]
    assert "norms" not in SparseEmbeddings.from_dense(almost, format=form).arrays
    dense[7] *= 1.001
    assert "norms" in SparseEmbeddings.from_dense(dense, format=form).arrays


def test_unit_rows_stay_unit_from_format_to_format():
    """Other values than zeros and ones would take 2 bytes an item."""
    stored = SparseEmbeddings.from_dense(unit_rows())
    for form in ("int8", "int4"):
        for other in ("int8", "int4"):
            assert "norms" not in stored.to_format(form).to_format(other).arrays


def test_what_float16_rounds_to_0_is_no_row():
    dense = [[1e-9, 0], [0, 2]]
    stored = SparseEmbeddings.from_dense(dense, format="float16").to_format("int4")
    np.testing.assert_array_equal(stored.tocsr().toarray(), [[0, 0], [0, 2]])
    assert stored.nnz == 1


def test_from_scipy_takes_any_matrix():
    """Repeated entries add up, explicit zeros go, factors come in order."""
    entries = ([1.0, 2.0, 0.0, 3.0], ([0, 0, 1, 0], [4, 4, 2, 1]))
    stored = SparseEmbeddings.from_scipy(sp.coo_matrix(entries, shape=(2, 5)), ["b", "a"])
    np.testing.assert_array_equal(stored.starts, [0, 2, 2])
    np.testing.assert_array_equal(stored.arrays["factors"], [1, 4])
    np.testing.assert_array_equal(stored.arrays["values"], [3, 3])
    assert stored.item_ids.tolist() == ["b", "a"]


def test_wide_embeddings_take_wide_factor_ids(tmp_path):
    wide = sp.csr_matrix(([0.6, 0.8], ([0, 0], [3, 70_000])), shape=(2, 70_001))
    for form, n_bytes in (("float32", 8), ("int8", 5)):
        stored = SparseEmbeddings.from_scipy(wide, format=form)
        assert stored.arrays["factors"].dtype == np.uint32
        assert stored.stored_bytes_per_item == n_bytes
        stored.save(tmp_path / "E")
        loaded = SparseEmbeddings.load(tmp_path / "E").tocsr()
        np.testing.assert_array_equal(loaded.indices, [3, 70_000])
        np.testing.assert_allclose(loaded.data, [0.6, 0.8], atol=0.004)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("rows", ["unit", "ragged", "any length"])
def test_save_and_load(tmp_path, form, rows):
    dense = unit_rows()
    if rows == "ragged":
        dense[3] = 0
    if rows == "any length":
        dense, _ = rows_of_any_length()
    ids = np.array([f"Ünit {i}" for i in range(len(dense))])
    metadata = {"run": {"seed": 3, "name": "café", "digest": "0" * 64}}
    stored = SparseEmbeddings.from_dense(dense, ids, format=form, metadata=metadata)
    stored.save(tmp_path / "E")
    loaded = SparseEmbeddings.load(tmp_path / "E")
    assert loaded.format == form
    assert loaded.metadata == metadata
    assert loaded.item_ids.tolist() == ids.tolist()
    np.testing.assert_array_equal(loaded.starts, stored.starts)
    for name, array in stored.arrays.items():
        np.testing.assert_array_equal(loaded.arrays[name], array)
        assert not loaded.arrays[name].flags.writeable
    assert [p.name for p in tmp_path.iterdir()] == ["E"]
    content = (tmp_path / "E").read_bytes()
    for embeddings in (stored, loaded):
        embeddings.save(tmp_path / "E")
        assert (tmp_path / "E").read_bytes() == content


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("engine", ["scipy", "numba"])
def test_a_file_may_be_overwritten_while_it_is_served(tmp_path, form, engine):
    """In place, as `cp` does it, by a model of other items and factors, and cut short."""
    path = tmp_path / "E"
    SparseEmbeddings.from_dense(unit_rows(), format=form).save(path)
    SparseEmbeddings.from_dense(unit_rows(100, 900, 3), format=form).save(tmp_path / "other")
    recommender = Recommender(SparseEmbeddings.load(path), engine=engine)
    histories = sp.csr_matrix(np.eye(20, 200))
    items, scores = recommender.recommend(histories, 5)
    for content in ((tmp_path / "other").read_bytes(), b"\xff" * path.stat().st_size, b""):
        path.write_bytes(content)
        for again in (recommender.recommend(histories, 5), recommender.recommend(histories[:1], 5)):
            np.testing.assert_array_equal(again[0], items[: len(again[0])])
            np.testing.assert_array_equal(again[1], scores[: len(again[0])])


@pytest.mark.parametrize("n_factors", [1 << 32, (1 << 25) + 1])
def test_factors_beyond_measure_are_refused(tmp_path, n_factors):
    """A file of some hundred bytes may claim them, and each would take memory."""
    SparseEmbeddings.from_dense(np.eye(3)).save(tmp_path / "E")
    tensors, fields = read_tensors(tmp_path / "E")
    write_tensors(tmp_path / "E", tensors, fields | {"n_factors": n_factors})
    with pytest.raises(InputError, match=r"E: .*an impossible number of factors"):
        SparseEmbeddings.load(tmp_path / "E")
    with pytest.raises(InputError, match="are more than a model may have"):
        SparseEmbeddings.from_scipy(sp.coo_matrix((3, n_factors)))


def test_files_are_safetensors(tmp_path):
    """Read by the library that owns the layout."""
    stored = SparseEmbeddings.from_dense(unit_rows(), format="int8")
    stored.save(tmp_path / "E")
    with safetensors.safe_open(tmp_path / "E", "np") as file:
        assert json.loads(file.metadata()["celsa_jax"]) == {"metadata": {}, "n_factors": 64}
        np.testing.assert_array_equal(file.get_tensor("lengths"), [8] * 200)
        np.testing.assert_array_equal(file.get_tensor("values"), stored.arrays["values"])
        np.testing.assert_array_equal(file.get_tensor("factors"), stored.arrays["factors"])
        assert bytes(file.get_tensor("item_ids")[11]).decode() == "11\x00"[:3]


def test_the_items_of_the_factors_are_kept(tmp_path):
    dense = unit_rows(5, 70, 3)
    factor_ids = [f"Ž {f}" for f in range(70)]
    stored = SparseEmbeddings.from_dense(dense, factor_ids=factor_ids)
    for form in FORMATS:
        stored.to_format(form).save(tmp_path / "E")
        for embeddings in (stored.to_format(form), SparseEmbeddings.load(tmp_path / "E")):
            assert embeddings.factor_ids.tolist() == factor_ids
            assert embeddings.item_ids.tolist() == list("01234")
    plain = SparseEmbeddings.from_dense(dense)
    plain.save(tmp_path / "E")
    assert plain.factor_ids is SparseEmbeddings.load(tmp_path / "E").factor_ids is None


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors, fields: tensors.update(factor_ids=tensors["factor_ids"][1:]),
        lambda tensors, fields: tensors["factor_ids"].__setitem__(2, 0x80),
        lambda tensors, fields: tensors.update(factor_ids=np.zeros(3, np.float32)),
    ],
)
def test_factor_ids_that_do_not_fit_are_refused(tmp_path, change):
    stored = SparseEmbeddings.from_dense(np.eye(3), factor_ids=["a", "b", "c"])
    stored.save(tmp_path / "saved")
    assert_refused(tmp_path / "saved", tmp_path / "E", change)


def test_long_rows_take_wide_lengths(tmp_path):
    rows = [range(300), [], range(70_000)]
    stored = of_rows(70_000, rows)
    stored.save(tmp_path / "E")
    np.testing.assert_array_equal(SparseEmbeddings.load(tmp_path / "E").starts, stored.starts)
    assert stored.starts[-1] == 70_300  # differences of 1 need no bridge


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "E"
    SparseEmbeddings.from_dense(unit_rows(20), format="float16").save(path)
    return path


@given(data=st.data())
def test_a_truncated_file_is_found(saved, data):
    content = saved.read_bytes()
    damaged = saved.with_name("other")
    damaged.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    with pytest.raises(InputError, match="damaged"):
        SparseEmbeddings.load(damaged)


def test_a_longer_file_is_found(saved, tmp_path):
    (tmp_path / "longer").write_bytes(saved.read_bytes() + b"x")
    with pytest.raises(InputError, match="longer: damaged"):
        SparseEmbeddings.load(tmp_path / "longer")


def test_an_earlier_layout_is_refused(saved, tmp_path):
    fields = {"kind": "celsa_jax.sparse_embeddings", "version": "2", "sha256": "0" * 64}
    with_header(saved, tmp_path / "E", lambda header: header.update(__metadata__=fields))
    with pytest.raises(InputError, match="E: damaged, or not of this version's layout; export it"):
        SparseEmbeddings.load(tmp_path / "E")


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors, fields: fields.pop("n_factors"),
        lambda tensors, fields: tensors.update(item_ids=tensors["item_ids"][1:]),
        lambda tensors, fields: tensors.pop("lengths"),
        lambda tensors, fields: tensors["lengths"].__setitem__(3, 9),
        lambda tensors, fields: fields.update(n_factors=32),  # a factor outside
        lambda tensors, fields: tensors.update(values=tensors["values"].view(np.int16)),
        lambda tensors, fields: tensors.pop("values"),
        lambda tensors, fields: tensors.update(values=tensors["values"][1:]),
        lambda tensors, fields: tensors.update(factors=tensors["factors"].view(np.int8)),
        lambda tensors, fields: tensors.update(values=np.full_like(tensors["values"], np.nan)),
        lambda tensors, fields: tensors.update(lengths=np.full(20, 8, np.int8)),
        lambda tensors, fields: tensors.update(lengths=tensors["lengths"][1:]),
        lambda tensors, fields: tensors.update(starts=np.arange(21, dtype=np.uint16)),
        lambda tensors, fields: tensors.update(codebook=np.zeros(16, np.float32)),
        lambda tensors, fields: tensors.update(lengths=tensors["lengths"].astype(np.uint64)),
        lambda tensors, fields: fields.update(n_factors="many"),
        lambda tensors, fields: fields.pop("metadata"),
    ],
)
def test_fields_that_do_not_fit_are_refused(saved, tmp_path, change):
    """Whole files, with a checksum that fits, of somebody else's making."""
    assert_refused(saved, tmp_path / "E", change)


def assert_refused(saved, path, change):
    tensors, fields = read_tensors(saved)
    tensors = {name: array.copy() for name, array in tensors.items()}
    change(tensors, fields)
    write_tensors(path, tensors, fields)
    with pytest.raises(InputError, match=f"{path.name}: damaged") as error:
        SparseEmbeddings.load(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors, fields: fields.update(n_factors=9000),
        lambda tensors, fields: tensors["words"].__setitem__(3, 0xF003),
        lambda tensors, fields: tensors["words"].__setitem__(1, 0xFFFF),
        lambda tensors, fields: tensors["words"].__setitem__(slice(None), 0xFFFF),
        lambda tensors, fields: tensors["lengths"].__setitem__(slice(None), [5, 0, 0]),
        lambda tensors, fields: tensors.update(words=tensors["words"].astype(np.uint32)),
        lambda tensors, fields: tensors.update(words=tensors["words"].reshape(5, 1)),
        lambda tensors, fields: tensors.update(codebook=tensors["codebook"][:15]),
        lambda tensors, fields: tensors["codebook"].__setitem__(3, np.inf),
        lambda tensors, fields: tensors["codebook"].__setitem__(3, 1.1e16),
        lambda tensors, fields: tensors.update(factors=tensors["words"]),
    ],
)
def test_words_of_others_are_refused(tmp_path, change):
    """As above for int4: no word may lead out of the rows."""
    of_rows(9001, [[5, 3844], [], [7, 9000]]).save(tmp_path / "saved")
    assert_refused(tmp_path / "saved", tmp_path / "E", change)


@pytest.mark.parametrize("form", ["int8", "int4"])
@pytest.mark.parametrize(
    "change",
    [
        lambda tensors, fields: tensors.update(norms=tensors["norms"][1:]),
        lambda tensors, fields: tensors.update(norms=tensors["norms"][:1]),
        lambda tensors, fields: tensors.update(norms=tensors["norms"][:, None]),
        lambda tensors, fields: tensors.update(norms=tensors["norms"].astype(np.float32)),
        lambda tensors, fields: tensors["norms"].__setitem__(0, np.nan),
        lambda tensors, fields: tensors["norms"].__setitem__(0, np.inf),
        lambda tensors, fields: tensors["norms"].__setitem__(0, -1),
        lambda tensors, fields: tensors["norms"].__setitem__(0, 0),
        lambda tensors, fields: tensors["norms"].__setitem__(3, 1),  # of a row of zeros
    ],
)
def test_norms_of_others_are_refused(tmp_path, form, change):
    dense, _ = rows_of_any_length(80)
    SparseEmbeddings.from_dense(dense, format=form).save(tmp_path / "saved")
    assert_refused(tmp_path / "saved", tmp_path / "E", change)


@pytest.mark.filterwarnings("error")
def test_codebooks_of_others_overflow_nothing(tmp_path):
    dense, _ = rows_of_any_length(80)
    SparseEmbeddings.from_dense(dense, format="int4").save(tmp_path / "saved")
    for value in (1e-45, 1e-38, 9e15, -9e15):
        tensors, fields = read_tensors(tmp_path / "saved")
        tensors |= {"codebook": np.full(16, value, np.float32)}
        tensors |= {"norms": np.where(tensors["norms"] > 0, 65504, 0).astype(np.float16)}
        write_tensors(tmp_path / "E", tensors, fields)
        loaded = SparseEmbeddings.load(tmp_path / "E")
        assert float(np.abs(loaded.tocsr().data).max()) <= 65504
        history = sp.csr_matrix(np.full((1, 80), 1e8))
        scores = Recommender(loaded).recommend(history, 9, filter_seen=False)[1]
        assert np.isfinite(scores).all()


def test_norms_beside_floats_are_refused(saved, tmp_path):
    def change(tensors, fields):
        tensors["norms"] = np.ones(20, np.float16)

    assert_refused(saved, tmp_path / "E", change)


@pytest.mark.parametrize(
    "header",
    [
        b"[" * 100_000,
        b'{"__metadata__":"text"}',
        b'{"__metadata__":null}',
        b'{"__metadata__":{"celsa_jax":1}}',
        b'{"__metadata__":{"celsa_jax":"{}"}}',
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
    ],
)
def test_headers_of_others_are_refused(tmp_path, header):
    (tmp_path / "E").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    with pytest.raises(InputError, match="damaged"):
        SparseEmbeddings.load(tmp_path / "E")


@pytest.mark.parametrize("change", [{"dtype": "BF16"}, {"shape": [-2, -2]}, {"shape": [160.0]}])
def test_entries_of_others_are_refused(saved, tmp_path, change):
    with_header(saved, tmp_path / "E", lambda header: header["values"].update(change))
    with pytest.raises(InputError, match="E: damaged"):
        SparseEmbeddings.load(tmp_path / "E")


def with_header(saved, path, change):
    """Copies a file with a changed header."""
    content = saved.read_bytes()
    n = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + n])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + n :])


def test_every_format_becomes_every_other():
    stored = SparseEmbeddings.from_dense(unit_rows())
    for form in FORMATS:
        for other in FORMATS:
            again = stored.to_format(form).to_format(other)
            assert again.format == other
            assert np.abs(again.tocsr() - stored.tocsr()).max() < 0.2


@pytest.mark.parametrize(("form", "error"), [("float32", 1e-6), ("float16", 2e-3), ("int4", 0.3)])
def test_a_cut_keeps_the_largest_and_the_lengths(form, error):
    dense = unit_rows() * np.linspace(0.5, 2, 200, dtype=np.float32)[:, None]
    dense[7] = 0
    cut = SparseEmbeddings.from_dense(dense, format=form).cut(3)
    smallest = np.sort(np.abs(dense), axis=1)[:, -3:-2]
    kept = np.where(np.abs(dense) >= smallest, dense, 0)
    lengths = np.linalg.norm(dense, axis=1, keepdims=True)
    expected = kept * lengths / np.maximum(np.linalg.norm(kept, axis=1, keepdims=True), 1e-9)
    found = cut.tocsr().toarray()
    assert cut.format == form
    assert (np.count_nonzero(found, axis=1) <= 3).all()
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), lengths[:, 0], atol=error)
    if form != "int4":  # where values that are nearly equal may change places
        np.testing.assert_allclose(found, expected, atol=error)
    with pytest.raises(InputError, match="nnz is 0; keep at least 1"):
        cut.cut(0)


def test_other_files_are_refused(tmp_path):
    (tmp_path / "text").write_text("user_id,item_id\n" * 9)
    with pytest.raises(InputError, match="text: damaged, or not embeddings"):
        SparseEmbeddings.load(tmp_path / "text")
    with pytest.raises(InputError, match="is a folder"):
        SparseEmbeddings.load(tmp_path)
    with pytest.raises(InputError, match="nowhere: no such file"):
        SparseEmbeddings.load(tmp_path / "nowhere")


@pytest.mark.parametrize("kind", ["npz", "npy"])
def test_load_reads_scipy_and_numpy_files(tmp_path, kind):
    dense = unit_rows(5)
    if kind == "npz":
        sp.save_npz(tmp_path / "E.npz", sp.csc_matrix(dense))
    else:
        np.save(tmp_path / "E.npy", dense)
    (tmp_path / "items.txt").write_text("a\nb\nc\nd\ne\n")
    loaded = SparseEmbeddings.load(tmp_path / f"E.{kind}")
    np.testing.assert_array_equal(loaded.tocsr().toarray(), dense)
    assert loaded.item_ids.tolist() == list("abcde")


@pytest.mark.parametrize("save", [np.save, sp.save_npz])
def test_files_of_complex_values_are_refused(tmp_path, save):
    path = tmp_path / ("e.npy" if save is np.save else "e.npz")
    save(path, np.eye(3) * 1j if save is np.save else sp.csr_matrix(np.eye(3) * 1j))
    with pytest.raises(InputError, match="the values are complex"):
        SparseEmbeddings.load(path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: SparseEmbeddings.from_dense([[1.0, np.nan]]),
            "not finite, or above .*, first in row 0",
        ),
        (lambda: SparseEmbeddings.from_dense([[1], [-2e16]]), "or above 1e.16, first in row 1"),
        (lambda: SparseEmbeddings.from_dense(np.ones(3)), "items x factors"),
        (lambda: SparseEmbeddings.from_dense(np.eye(2) * 1j), "complex"),
        (lambda: SparseEmbeddings.from_dense(np.eye(2), ["a"]), "item_ids: 1 ids for the 2 rows"),
        (
            lambda: SparseEmbeddings.from_dense(np.eye(2), ["a", "a"]),
            "item_ids: 'a' is there twice",
        ),
        (
            lambda: SparseEmbeddings.from_dense(np.eye(2, 3), factor_ids=["a", "b"]),
            "factor_ids: 2 ids for the 3 columns",
        ),
        (
            lambda: SparseEmbeddings.from_dense(np.eye(2), factor_ids=["b", "b"]),
            "factor_ids: 'b' is there twice",
        ),
        (lambda: SparseEmbeddings.from_dense(np.eye(2), format="int2"), "unknown format 'int2'"),
        (
            lambda: SparseEmbeddings.from_dense([[0, 1], [3e5, 4e5]], format="int8"),
            "int8 holds rows of length 0 or 6.1e-05 to 65504, but row 1 has length 500000; scale",
        ),
        (
            lambda: SparseEmbeddings.from_dense([[0, 0], [3e-5, 4e-5]], format="int4"),
            "int4 holds rows of .* but row 1 has length 5e-05; scale the rows, or use float32",
        ),
        (lambda: SparseEmbeddings.from_dense([[1e6]], format="float16"), "do not fit float16"),
    ],
)
def test_bad_embeddings_are_named(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_what_holds_arrays_is_shown_in_a_line():
    embeddings = SparseEmbeddings.from_dense(np.eye(3), format="int8")
    assert repr(embeddings) == "SparseEmbeddings(3 items x 3 factors, 3 non-zeros, int8)"
