"""Groups, terms, names, merging and segments, by hand and by loops."""

import itertools
import json
import pathlib
import sys
import tracemalloc
import types

import hypothesis.strategies as st
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from scipy.cluster import hierarchy

from celsa_jax.data.metadata import printable
from celsa_jax.data.synthetic import synthetic
from celsa_jax.errors import InputError
from celsa_jax.segments import (
    SentenceEmbedder,
    TfidfEmbedder,
    extract,
    find_segments,
    item_terms,
    load_merges,
    load_segments,
    save_segments,
)
from celsa_jax.segments.groups import members
from celsa_jax.segments.merging import merge_groups
from celsa_jax.segments.naming import Name, distinct, name_groups, repeats
from celsa_jax.sparse import SparseEmbeddings


def text(*cells):
    return np.array(cells, object)


def random_rows(n_items=40, n_factors=12, nnz=4, seed=0):
    rng = np.random.default_rng(seed)
    dense = np.zeros((n_items, n_factors), np.float32)
    for row in dense:
        row[rng.choice(n_factors, nnz, replace=False)] = rng.normal(size=nnz)
    return dense / np.linalg.norm(dense, axis=1, keepdims=True)


# Groups


def test_each_item_goes_to_its_strongest_factor_and_sign():
    rows = np.array([[0.6, -0.8, 0], [0.6, 0.8, 0], [-0.5, 0, 0.5], [0, 0, 0], [0.1, -0.9, 0]])
    groups = extract(sp.csc_matrix(rows.astype(np.float32)))
    assert list(zip(groups.factors.tolist(), groups.signs.tolist(), strict=True)) == [
        (0, -1),
        (1, 1),
        (1, -1),
    ]
    assert groups.of_item.tolist() == [2, 1, 0, -1, 2]  # the tie of item 2 goes to factor 0
    np.testing.assert_allclose(groups.strength, [0.8, 0.8, 0.5, 0, 0.9])
    assert groups.sizes.tolist() == [1, 1, 2]
    items = members(groups.of_item, 3, groups.strength)
    assert [inside.tolist() for inside in items] == [[2], [1], [4, 0]]
    assert [inside.tolist() for inside in members(groups.of_item, 3)] == [[2], [1], [0, 4]]


@settings(max_examples=25)
@given(
    st.integers(0, 10**6),
    st.integers(1, 30),
    st.integers(1, 9),
    st.sampled_from([np.float32, np.float64]),
)
def test_groups_agree_with_a_loop(seed, n_items, n_factors, dtype):
    rng = np.random.default_rng(seed)
    # Few distinct values, so that ties and empty rows occur, and none that a float32 can hold.
    rows = (rng.integers(-2, 3, (n_items, n_factors)) * 0.1).astype(dtype)
    groups = extract(sp.csr_matrix(rows))
    for item, row in enumerate(rows):
        if not row.any():
            assert groups.of_item[item] == -1
            continue
        factor = max(range(n_factors), key=lambda f: (abs(row[f]), -f))
        at = groups.of_item[item]
        assert (groups.factors[at], groups.signs[at]) == (factor, np.sign(row[factor]))
        assert groups.strength[item] == np.float32(abs(row[factor]))
    assert (groups.sizes > 0).all()


# Terms


def test_list_columns_are_found_by_their_looks():
    n = 40
    rng = np.random.default_rng(0)
    kinds = ("crime", "romance", "sci-fi", "poetry")
    columns = {
        "title": text(*(f"Story {i}, or the Tale of {i + 100}" for i in range(n))),
        "commas": text(*(",".join(rng.choice(kinds, 2, replace=False)) for _ in range(n))),
        "bars": text(*("|".join(rng.choice(kinds, 2, replace=False)) for _ in range(n))),
        "python": text(*(str([str(k) for k in rng.choice(kinds, 2)]) for _ in range(n))),
    }
    terms = item_terms(columns)
    assert terms.kinds == {"title": "text", "commas": ",", "bars": "|", "python": ","}
    for column, delimiter in (("commas", ","), ("bars", "|")):
        part = terms.of_columns([column])
        assert set(part.labels) == {"Crime", "Romance", "Sci Fi", "Poetry"}
        for row, cell in zip(part.matrix.toarray(), columns[column], strict=True):
            found = {label.lower().replace(" ", "-") for label in part.labels[row > 0]}
            assert found == set(cell.split(delimiter))
    assert set(terms.of_columns(["python"]).labels) == {"Crime", "Romance", "Sci Fi", "Poetry"}
    named = item_terms(columns, list_columns=("title",))
    assert named.kinds["title"] == ","
    assert named.kinds["commas"] == "text"
    with pytest.raises(InputError, match="list column 'genre' is none of title"):
        item_terms(columns, list_columns=("genre",))


def test_terms_of_lists_that_differ_in_punctuation_are_one():
    cells = text("Sci-Fi,children-s", "scifi,Children's", "sci_fi,J.K. Rowling", "to-read,a,")
    terms = item_terms({"genres": cells}, list_columns=("genres",))
    assert sorted(terms.labels) == ["A", "Children's", "J.K. Rowling", "Sci Fi"]
    assert terms.matrix.toarray().sum(axis=1).tolist() == [2, 2, 2, 1]
    assert "To Read" in item_terms({"g": cells}, ("g",), excluded=()).labels


@pytest.mark.parametrize(
    ("cell", "labels"),
    [
        ('["Foo, Bar", "Baz"]', {"Foo, Bar", "Baz"}),
        ("['Foo, Bar', \"It's\", None]", {"Foo, Bar", "It's"}),
        ('["Caf\\u00e9", null, 7]', {"Café", "7"}),
        ('["Foo, Bar"', {'["Foo', "Bar"}),  # no list: split as before
        ("['Foo, 'Bar']", {"Foo", "Bar"}),
        ("[Foo, Bar]", {"Foo", "Bar"}),
        ("['" + "[" * 5_000 + "']", set()),
        ("[" * 5_000 + "'" + "]" * 5_000, set()),  # too deep for either parser
    ],
)
def test_quoted_elements_keep_their_commas(cell, labels):
    terms = item_terms({"g": text(cell, "Other")}, list_columns=("g",))
    assert {label.strip("'") for label in terms.labels[terms.matrix[0].indices]} == labels


def test_marks_are_part_of_words():
    """The vowel signs of Hindi, and accents that stand behind their letters."""
    titles = text("हिन्दी किताब: कहानी", "Cafe\u0301 Noir")
    terms = item_terms({"title": titles}, list_columns=())
    rows = [set(terms.labels[row > 0]) for row in terms.matrix.toarray()]
    assert rows[0] == {"हिन्दी", "किताब", "हिन्दी किताब", "कहानी"}
    assert rows[1] == {"Cafe\u0301", "Noir", "Cafe\u0301 Noir"}
    lists = item_terms({"g": text("किताब, कीताब", "किताब")}, list_columns=("g",))
    assert lists.labels.tolist() == ["किताब", "कीताब"]
    assert not repeats("किताब", "तारा")
    assert repeats("नई किताब", "किताब")


def test_phrases_neither_begin_nor_end_with_stop_words():
    cells = text("The Lord of the Rings: The Two Towers", "Ulysses", "", "戦争と平和")
    terms = item_terms({"title": cells}, list_columns=())
    rows = [set(terms.labels[row > 0]) for row in terms.matrix.toarray()]
    assert rows[0] == {"Lord", "Rings", "Towers"}  # "Lord of the Rings" has four words
    assert rows[1:] == [{"Ulysses"}, set(), {"戦争と平和"}]
    pair = item_terms({"title": text("War and Peace")}, list_columns=())
    assert set(pair.labels) == {"War", "Peace", "War and Peace"}


def test_no_columns_and_empty_columns_have_no_terms():
    for columns in ({}, {"title": text("", "")}):
        terms = item_terms(columns, n_items=2)
        assert terms.matrix.shape == (2, 0)


# Names


def test_a_name_is_what_a_group_shares_and_others_lack():
    genres = text(*["Fiction|Nordic Crime"] * 4, *["Fiction|Poetry"] * 4, "Fiction", "")
    authors = text("A. Moe", "A. Moe", "A. Moe", "B. Lie", *[f"Poet {c}" for c in "PQRS"], "Z", "")
    columns = {"author": authors, "genres": genres}
    terms = item_terms(columns, list_columns=("author", "genres"))
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1, -1, 2])
    crime, poetry, nothing = name_groups(labels, 3, terms)
    assert crime.name == "Nordic Crime, A. Moe"
    assert crime.terms == ("Nordic Crime", "A. Moe", "Fiction")
    assert crime.share == 1
    assert poetry.name == "Poetry, Fiction"
    assert nothing == Name("")
    assert name_groups(np.full(10, -1), 0, terms) == []


def test_a_phrase_takes_the_place_of_its_words():
    titles = text(*(f"{t} (Anita Blake, #{i})" for i, t in enumerate(("Bones", "Dust", "Smoke"))))
    titles = np.concatenate([titles, text(*("Other Story" for _ in range(9)))])
    terms = item_terms({"title": titles}, list_columns=())
    name = name_groups(np.array([0] * 3 + [1] * 9), 2, terms)[0]
    assert name.name == "Anita Blake"
    assert name.terms == ("Anita Blake",)


def test_namesakes_get_names_of_their_own_and_the_first_keeps_its_name():
    names = [Name("Crime", ("Crime", "Nordic")), Name("Crime", ("Crime", "Nordic")), Name("Crime")]
    result = distinct([*names, Name("Crime")])
    assert [name.name for name in result] == ["Crime", "Crime, Nordic", "Crime (2)", "Crime (3)"]


def test_no_name_begins_as_a_formula_does():
    genres = np.repeat(["=HYPERLINK(A1)", "+Plus", "-Minus", "@home"], 2)
    rows = sp.csr_matrix(np.repeat(np.eye(4), 2, axis=0))
    terms = item_terms({"genres": genres}, ("genres",))
    names = find_segments(rows, np.array(list("abcdefgh")), terms).segments.names
    assert sorted(names) == ["HYPERLINK(A1)", "Minus", "Plus", "home"]


# Merging


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def brute_force(vectors, factors, threshold):
    """Complete linkage by definition, over sets of group numbers."""
    cosines = vectors @ vectors.T
    cosines[np.equal.outer(factors, factors)] = -np.inf
    clusters = [{i} for i in range(len(factors))]
    while True:
        best = max(
            (
                (min(cosines[i, j] for i in a for j in b), a, b)
                for a, b in itertools.combinations(clusters, 2)
            ),
            key=lambda entry: entry[0],
            default=(-np.inf, None, None),
        )
        if best[0] < threshold:
            return {frozenset(c) for c in clusters}
        clusters = [c for c in clusters if c not in best[1:]] + [best[1] | best[2]]


def as_sets(labels):
    return {frozenset(np.flatnonzero(labels == at).tolist()) for at in set(labels.tolist())}


@pytest.fixture(scope="module", params=[4, 1024])
def rows_at_once(request):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("celsa_jax.segments.merging._ROWS_AT_ONCE", request.param)
        yield


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.integers(2, 14), st.floats(0.2, 0.95))
def test_merging_is_complete_linkage_in_any_order(rows_at_once, seed, n_groups, threshold):
    rng = np.random.default_rng(seed)
    vectors = unit(rng.normal(size=(n_groups, 3)))
    factors = np.sort(rng.choice(2 * n_groups, n_groups, replace=False)) // 2
    labels, tree = merge_groups(vectors, factors, threshold)
    segments = as_sets(labels)
    assert segments == brute_force(vectors, factors, threshold)
    _, first = np.unique(labels, return_index=True)
    assert (np.diff(first) > 0).all()  # numbered by their first groups
    order = rng.permutation(n_groups)
    again, _ = merge_groups(vectors[order], factors[order], threshold)
    assert as_sets(again[np.argsort(order)]) == segments
    sparse, _ = merge_groups(sp.csr_matrix(vectors), factors, threshold)
    np.testing.assert_array_equal(sparse, labels)
    # The tree leads from the groups to the segments.
    nodes = [{i} for i in range(n_groups)]
    for left, right, cosine in tree:
        parts = vectors[sorted(nodes[left])] @ vectors[sorted(nodes[right])].T
        assert cosine == pytest.approx(parts.min(), abs=1e-5)
        nodes.append(nodes[left] | nodes[right])
    used = {n for left, right, _ in tree for n in (left, right)}
    assert {frozenset(s) for n, s in enumerate(nodes) if n not in used} == segments


def test_identical_names_merge_but_never_the_signs_of_one_factor():
    for factors in itertools.permutations([3, 3, 4, 1]):
        labels, _ = merge_groups(np.ones((4, 1)), np.array(factors), 0.9)
        assert len(set(labels)) == 2
        first, second = (at for at, factor in enumerate(factors) if factor == 3)
        assert labels[first] != labels[second]


def test_merging_takes_little_memory_beside_the_distances(monkeypatch):
    """All groups are alike, so that they are one part: 9 n^2 bytes and a block of rows."""
    monkeypatch.setattr("celsa_jax.segments.merging._ROWS_AT_ONCE", 64)
    n_groups = 1500
    vectors = unit(np.random.default_rng(0).random((n_groups, 8)).astype(np.float32) + 5)
    tracemalloc.start()
    labels, _ = merge_groups(vectors, np.arange(n_groups), 0.5)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert not labels.any()
    assert peak < 12 * n_groups**2


def test_zero_rows_merge_with_none():
    labels, _ = merge_groups(np.array([[1.0], [0], [1], [0]]), np.arange(4), 0.5)
    assert labels.tolist() == [0, 1, 0, 2]
    with pytest.raises(InputError, match="merge threshold is 0"):
        merge_groups(np.ones((1, 1)), np.array([0]), 0)


def test_tfidf_embedder_gives_unit_rows():
    vectors = TfidfEmbedder().embed(["Nordic Crime: crime, noir", "Nordic Noir: crime", "of the: "])
    np.testing.assert_allclose(sp.linalg.norm(vectors, axis=1), [1, 1, 1], atol=1e-6)
    assert TfidfEmbedder().embed(["", ": "]).nnz == 0


def test_namesakes_of_stop_words_and_letters_are_the_same_to_the_tfidf_embedder():
    texts = ["It: It", "C: C", "The Who: ", "it: it", "C: C", "Nordic Crime: It", ": "]
    vectors = TfidfEmbedder().embed(texts)
    alike = (vectors @ vectors.T).toarray()
    expected = np.eye(7)
    expected[0, 3] = expected[3, 0] = expected[1, 4] = expected[4, 1] = 1
    expected[6, 6] = 0  # no name at all
    np.testing.assert_allclose(alike, expected, atol=1e-6)


class SentenceTransformer:
    """What is used of sentence_transformers, which brings torch; a text's vector is its length."""

    def __init__(self, path, local_files_only):
        assert local_files_only
        json.loads((pathlib.Path(path) / "modules.json").read_text())

    def encode(self, texts, normalize_embeddings, convert_to_numpy, show_progress_bar):
        assert normalize_embeddings
        assert convert_to_numpy
        assert not show_progress_bar
        return np.array([[np.cos(len(text)), np.sin(len(text))] for text in texts])


@pytest.fixture
def sentence_transformers(monkeypatch):
    module = types.SimpleNamespace(SentenceTransformer=SentenceTransformer)
    monkeypatch.setitem(sys.modules, "sentence_transformers", module)


@pytest.mark.parametrize(
    ("folder", "threshold"),
    [("gte-large", 0.95), ("all-MiniLM-L6-v2/1", 0.85), ("another", None)],
)
def test_a_sentence_model_has_a_threshold_by_its_name(
    tmp_path, sentence_transformers, folder, threshold
):
    (tmp_path / folder).mkdir(parents=True)
    (tmp_path / folder / "modules.json").write_text("[]")
    embedder = SentenceEmbedder(tmp_path / folder)
    assert embedder.threshold == threshold
    np.testing.assert_allclose(embedder.embed(["", "a"]), [[1, 0], [np.cos(1), np.sin(1)]])


def test_a_folder_that_is_no_sentence_model(tmp_path):
    with pytest.raises(InputError, match="not the folder of a sentence-transformers model"):
        SentenceEmbedder(tmp_path)


def test_without_sentence_transformers(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    (tmp_path / "modules.json").write_text("[]")
    with pytest.raises(InputError, match=r"not installed: pip install 'celsa_jax\[sentences\]'"):
        SentenceEmbedder(tmp_path)


def test_a_damaged_sentence_model_is_named(tmp_path, sentence_transformers):
    (tmp_path / "modules.json").write_text("x{")
    with pytest.raises(InputError, match="cannot be read as a sentence-transformers") as caught:
        SentenceEmbedder(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}: ")
    assert "\n" not in str(caught.value)


# From embeddings to segments


@pytest.fixture
def catalogue():
    """Three themes on four signed factors: crime on 0+ and 2+, poetry on 0-, an unknown on 1+."""
    rng = np.random.default_rng(0)
    own = [0] * 6 + [2] * 6 + [0] * 6 + [1] * 3
    signs = [1] * 12 + [-1] * 6 + [1] * 3
    rows = rng.uniform(0.05, 0.2, (22, 4)).astype(np.float32) * rng.choice([-1, 1], (22, 4))
    rows[np.arange(21), own] = np.array(signs) * np.linspace(0.6, 0.9, 21)
    rows[21] = 0  # an item without weights
    rows[:21] /= np.linalg.norm(rows[:21], axis=1, keepdims=True)
    genres = text(*["Nordic Crime|Fiction"] * 12, *["Poetry|Fiction"] * 6, *[""] * 3, "Poetry")
    ids = np.array([f"i{n:02d}" for n in range(22)])
    terms = item_terms({"genres": genres}, list_columns=("genres",))
    return SparseEmbeddings.from_dense(rows, ids), terms


@pytest.fixture
def segmentation(catalogue):
    embeddings, terms = catalogue
    return find_segments(embeddings.tocsr(), embeddings.item_ids, terms)


def test_segments_are_named_and_merged(segmentation):
    assert segmentation.segments.names == ["Nordic Crime, Fiction", "Poetry, Fiction", "Segment 1+"]
    assert [segment.pairs for segment in segmentation.segments.segments] == [
        ((0, 1), (2, 1)),
        ((0, -1),),
        ((1, 1),),
    ]
    assert [len(segment.items) for segment in segmentation.segments.segments] == [12, 6, 3]
    assert segmentation.segments.of_item[21] == -1
    strengths = segmentation.groups.strength[segmentation.segments[0].items]
    assert (np.diff(strengths) <= 0).all()
    root = np.sqrt(0.5)
    expected = [[root, 0, root, 0], [-1, 0, 0, 0], [0, 1, 0, 0]]
    np.testing.assert_allclose(segmentation.segments.vectors.toarray(), expected, rtol=1e-6)
    assert segmentation.segments.of_pair.tolist() == [0, 1, 2, -1, 0, -1, -1, -1]


def test_segments_survive_saving_and_loading(segmentation, tmp_path):
    save_segments(tmp_path, segmentation)
    loaded = load_segments(tmp_path, segmentation.segments.item_ids)
    assert loaded.names == segmentation.segments.names
    assert [s.pairs for s in loaded.segments] == [s.pairs for s in segmentation.segments.segments]
    np.testing.assert_array_equal(loaded.of_item, segmentation.segments.of_item)
    np.testing.assert_array_equal(
        sp.load_npz(tmp_path / "segment_vectors.npz").toarray(), loaded.vectors.toarray()
    )
    with pytest.raises(InputError, match=r"item '.*' is not in the catalogue"):
        load_segments(tmp_path, segmentation.segments.item_ids[:5])
    (tmp_path / "segments.json").write_text("[{}]")
    with pytest.raises(InputError, match=r"segments\.json: damaged"):
        load_segments(tmp_path, segmentation.segments.item_ids)
    with pytest.raises(InputError, match="No such file"):
        load_segments(tmp_path / "nowhere", segmentation.segments.item_ids)


def test_merges_are_read_as_the_linkage_of_each_segment(tmp_path):
    """Against a partition by SciPy, of random groups that all may merge."""
    rng = np.random.default_rng(0)
    item = np.repeat(np.arange(12), 3)
    rows = np.zeros((36, 12), np.float32)
    rows[np.arange(36), item] = np.where(item % 2, 1, -1)
    words = rng.permutation(np.repeat(["crime", "poetry", "chess"], 4))
    genres = text(*(f"{words[at]}|{'ab'[at % 2]}" for at in item))
    terms = item_terms({"genres": genres}, list_columns=("genres",))
    ids = np.arange(36).astype(np.str_)
    segmentation = find_segments(sp.csr_matrix(rows), ids, terms, threshold=0.2)
    save_segments(tmp_path, segmentation)
    trees = load_merges(tmp_path, load_segments(tmp_path, ids))
    assert max(map(len, trees)) > 2
    for segment, tree in zip(segmentation.segments, trees, strict=True):
        n_pairs = len(segment.pairs)
        assert tree.shape == (n_pairs - 1, 4)
        assert n_pairs == 1 or hierarchy.is_valid_linkage(tree)
        nodes = [{pair} for pair in segment.pairs]
        for left, right, distance, size in tree:
            nodes.append(nodes[int(left)] | nodes[int(right)])
            assert len(nodes[-1]) == size
            assert 0 <= distance <= 0.8 + 1e-6
        assert nodes[-1] == set(segment.pairs)


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (["m,0+,2+,0.9", "n,0-,1+,0.8"], "'n' is of two segments"),
        ([], "no tree of the segment 'Nordic Crime, Fiction'"),
        (["m,0+,3+,0.9"], "'3\\+'"),
        (["m,0+,2+,high"], "could not convert"),
    ],
)
def test_merges_of_other_segments_are_refused(segmentation, tmp_path, lines, problem):
    save_segments(tmp_path, segmentation)
    path = tmp_path / "merges.csv"
    assert path.read_text().startswith("node,left,right,cosine\n")
    path.write_text("\n".join(["node,left,right,cosine", *lines]))
    with pytest.raises(InputError, match=rf"merges\.csv: damaged: .*{problem}"):
        load_merges(tmp_path, segmentation.segments)


@pytest.mark.parametrize("share", [0, 0.5, 0.95])
def test_cut_off_segment_vectors_are_refused(segmentation, tmp_path, share):
    save_segments(tmp_path, segmentation)
    path = tmp_path / "segment_vectors.npz"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(InputError, match=r"segment_vectors\.npz: damaged: .*; run experiments\."):
        load_segments(tmp_path, segmentation.segments.item_ids)


@pytest.mark.parametrize("pairs", [[[4, 1]], [[-1, 1]], [[1, 0]], [[1, 2]], [[2, 1]]])
def test_segments_with_impossible_pairs_are_refused(segmentation, tmp_path, pairs):
    save_segments(tmp_path, segmentation)  # 4 factors; 2+ is of the first segment
    path = tmp_path / "segments.json"
    stored = json.loads(path.read_text())
    stored[-1]["pairs"] = pairs
    path.write_text(json.dumps(stored))
    with pytest.raises(InputError, match=r"segments\.json: damaged: the pair .*factors are 0 to 3"):
        load_segments(tmp_path, segmentation.segments.item_ids)


def test_segments_and_vectors_of_two_runs_are_refused(segmentation, tmp_path):
    save_segments(tmp_path, segmentation)
    sp.save_npz(tmp_path / "segment_vectors.npz", segmentation.segments.vectors[:2])
    with pytest.raises(InputError, match=r"segment_vectors\.npz: 2 vectors for the 3 segments of"):
        load_segments(tmp_path, segmentation.segments.item_ids)


def test_embeddings_without_weights_are_refused():
    empty = sp.csr_matrix((3, 4), dtype=np.float32)
    with pytest.raises(InputError, match="no item of the embeddings has weights"):
        find_segments(empty, np.array(["a", "b", "c"]), item_terms({}, n_items=3))


def test_ids_terms_and_titles_must_be_of_the_embeddings(catalogue):
    embeddings, terms = catalogue
    rows, ids = embeddings.tocsr(), embeddings.item_ids
    with pytest.raises(InputError, match="ids of 21 items for embeddings of 22"):
        find_segments(rows, ids[:21], terms)
    with pytest.raises(InputError, match="terms of 2 items for embeddings of 22"):
        find_segments(rows, ids, item_terms({}, n_items=2))
    with pytest.raises(InputError, match="titles of 1 items for embeddings of 22"):
        find_segments(rows, ids, terms, ["One"])


def test_characters_that_cannot_be_seen_become_blanks():
    assert printable("a\x00b\u202ec\x1b[31md\te") == "a b c [31md e"
    assert printable("Ünï किताब 戦争 é") == "Ünï किताब 戦争 é"


def test_synthetic_metadata_reads_as_titles_and_genres():
    _, metadata, planted = synthetic(50, 200, 8)
    terms = item_terms({name: metadata[name].astype(object) for name in ("title", "genres")})
    assert terms.kinds == {"title": "text", "genres": ","}
    names = name_groups(planted.primary, 8, terms)
    assert [name.name.split(",")[0] for name in names] == planted.names.tolist()
