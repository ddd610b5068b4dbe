"""Groups, terms, names, merging and segments, by hand and by loops."""

import itertools
import json
import pathlib
import sys
import types

import hypothesis.strategies as st
import numpy as np
import pytest
import scipy.sparse as sp
from conftest import planted_segments
from hypothesis import given, settings
from sklearn.metrics import adjusted_rand_score

from celsa_jax.data.metadata import printable
from celsa_jax.data.synthetic import synthetic
from celsa_jax.errors import InputError
from celsa_jax.segments import (
    Catalogue,
    SentenceEmbedder,
    TfidfEmbedder,
    find_segments,
    item_terms,
    load_segments,
    save_segments,
    segments_of_factors,
)
from celsa_jax.segments.groups import members, strongest_pairs
from celsa_jax.segments.hierarchy import nested_clusters
from celsa_jax.segments.merging import merge_groups
from celsa_jax.segments.naming import Name, distinct, name_groups, repeats
from celsa_jax.segments.segments import loadings


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
    pairs, of_item, strength = strongest_pairs(sp.csc_matrix(rows.astype(np.float32)))
    assert pairs.tolist() == [0 + 1, 2 + 0, 2 + 1]
    assert of_item.tolist() == [2, 1, 0, -1, 2]  # the tie of item 2 goes to factor 0
    np.testing.assert_allclose(strength, [0.8, 0.8, 0.5, 0, 0.9])
    items = members(of_item, 3, strength)
    assert [inside.tolist() for inside in items] == [[2], [1], [4, 0]]
    assert [inside.tolist() for inside in members(of_item, 3)] == [[2], [1], [0, 4]]


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
    pairs, of_item, strength = strongest_pairs(sp.csr_matrix(rows))
    for item, row in enumerate(rows):
        if not row.any():
            assert of_item[item] == -1
            continue
        factor = max(range(n_factors), key=lambda f: (abs(row[f]), -f))
        assert pairs[of_item[item]] == 2 * factor + (row[factor] < 0)
        assert strength[item] == np.float32(abs(row[factor]))
    assert set(of_item[of_item >= 0]) == set(range(len(pairs)))


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
    assert crime.name == "Nordic Crime"  # all of which is here: A. Moe adds nothing
    assert crime.terms == ("Nordic Crime", "A. Moe", "Fiction")
    assert poetry.name == "Poetry"
    assert nothing == Name("")
    assert name_groups(np.full(10, -1), 0, terms) == []


def test_a_name_is_true_of_most_of_a_group():
    """Two kinds that only together cover a group are both named; one word of two titles is not."""
    genres = text(*["Crime", "Poetry"] * 10)
    titles = text("War and Rain", "War", *(f"Nothing{n}" for n in range(18)))
    terms = item_terms({"title": titles, "genres": genres}, list_columns=("genres",))
    mixed, crime = name_groups(np.array([0] * 8 + [1, -1] * 6), 2, terms)
    assert mixed.name == "Crime and Poetry"
    assert distinct([Name(mixed.name, ("Crime", "War"))] * 2)[1].name == "Crime and Poetry, War"
    assert mixed.terms == ("Crime", "Poetry")
    assert crime.name == "Crime"


def test_what_a_name_tells_little_of_is_mixed():
    def name(n_elsewhere, n_others=3):
        """Of nine novels and others in a group, with further novels among a hundred elsewhere."""
        genres = ["Novel"] * 9 + [f"Kind {n}" for n in range(n_others)]
        genres += ["Novel"] * n_elsewhere + ["Verse"] * (100 - n_elsewhere)
        terms = item_terms({"genres": text(*genres)}, list_columns=("genres",))
        labels = np.array([0] * (9 + n_others) + [-1] * 100)
        return name_groups(labels, 1, terms)[0]

    # 3/4 log(3/4 / (39/112)) = 0.58, 3/4 log(3/4 / (11/112)) = 1.52
    assert name(30).name == "Mixed Novel"
    assert name(30).text == "Novel: Novel"
    assert name(2).name == "Novel"
    assert name(30, n_others=1).name == "Novel"  # of nine of ten


def test_a_second_term_is_of_half_of_a_group_and_says_more():
    group = ["Crime|Oslo|Snow"] * 6 + ["Crime|Oslo"] * 2 + ["Crime"] * 2
    others = ["Crime"] * 30 + ["Oslo"] * 20 + ["Novel"] * 40
    terms = item_terms({"genres": text(*group, *others)}, list_columns=("genres",))
    labels = np.array([0] * 10 + [-1] * 90)
    assert name_groups(labels, 1, terms)[0].name == "Crime, Oslo"
    labels[3:8] = -1  # Oslo and Snow are of three of five, and Snow is rarer
    assert name_groups(labels, 1, terms)[0].name == "Crime, Snow"
    labels[:2] = -1
    assert name_groups(labels, 1, terms)[0].name == "Crime"
    labels[60:62] = 0  # of novels; crime is of three of five, then
    assert name_groups(labels, 1, terms)[0].name == "Crime and Novel"
    labels[[0, 60, 61]], labels[40:44] = [0, -1, -1], 0
    assert name_groups(labels, 1, terms)[0].name == "Mixed Oslo"  # 5/6 log(5/6 / (28/100)) = 0.9


def test_terms_of_the_same_words_are_one_and_those_of_the_same_items_are_not_both_named():
    cells = ["Epic Fantasy|YA|Young Adult", "Fantasy-Epic|YA|Young Adult", "Epic fantasies|YA"]
    terms = item_terms({"g": text(*cells, *["Verse"] * 9)}, list_columns=("g",))
    [name] = name_groups(np.array([0] * 3 + [-1] * 9), 1, terms)
    assert len(name.terms) == 3
    assert name.name in ("Epic Fantasy", "Fantasy Epic", "Epic fantasies", "YA")


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
    names = find_segments(Catalogue(rows, np.array(list("abcdefgh")), terms), [4]).levels[0].names
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
        patch.setattr("celsa_jax.segments.hierarchy._ROWS_AT_ONCE", request.param)
        yield


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.integers(2, 14), st.floats(0.2, 0.95))
def test_merging_is_complete_linkage_in_any_order(rows_at_once, seed, n_groups, threshold):
    rng = np.random.default_rng(seed)
    vectors = unit(rng.normal(size=(n_groups, 3)))
    factors = np.sort(rng.choice(2 * n_groups, n_groups, replace=False)) // 2
    labels = merge_groups(vectors, factors, threshold)
    segments = as_sets(labels)
    assert segments == brute_force(vectors, factors, threshold)
    assert set(labels.tolist()) == set(range(len(segments)))
    sparse = merge_groups(sp.csr_matrix(vectors), factors, threshold)
    assert as_sets(sparse) == segments


def test_identical_names_merge_but_never_the_signs_of_one_factor():
    for factors in ([1, 3, 3, 4], [1, 1, 3, 4], [1, 3, 4, 4]):
        labels = merge_groups(np.ones((4, 1)), np.array(factors), 0.9)
        assert len(set(labels)) == 2
        first = next(at for at in range(3) if factors[at] == factors[at + 1])
        assert labels[first] != labels[first + 1]
    assert merge_groups(np.ones((1, 1)), np.array([0]), 0.9).tolist() == [0]


def test_zero_rows_merge_with_none():
    labels = merge_groups(np.array([[1.0], [0], [1], [0]]), np.arange(4), 0.5)
    assert as_sets(labels) == {frozenset({0, 2}), frozenset({1}), frozenset({3})}
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


# Clusters


def planted(n_items, n_fine=12, n_coarse=3, seed=0):
    """Sparse rows about fine centres, which stand about coarse ones; and what each row is of."""
    rng = np.random.default_rng(seed)
    coarse = unit(rng.normal(size=(n_coarse, 30)))
    fine = unit(coarse[np.arange(n_fine) % n_coarse] + 0.7 * unit(rng.normal(size=(n_fine, 30))))
    own = rng.permutation(np.arange(n_items) % n_fine)
    rows = fine[own] + 0.05 * rng.normal(size=(n_items, 30))
    return sp.csr_matrix(rows.astype(np.float32) * rng.uniform(0.5, 2, (n_items, 1))), own


@pytest.mark.parametrize("most_points", [16_384, 100])
def test_clusters_are_those_planted_at_each_level(monkeypatch, most_points):
    """Also where k-means comes first, on a sample."""
    monkeypatch.setattr("celsa_jax.segments.hierarchy._MOST_POINTS", most_points)
    monkeypatch.setattr("celsa_jax.segments.hierarchy._LEAST_CENTRES", 90)
    if most_points == 100:
        monkeypatch.setattr("celsa_jax.segments.hierarchy._SAMPLE", 300)
    rows, own = planted(400)
    coarse, fine = nested_clusters(rows, [12, 3])
    assert adjusted_rand_score(own, fine) == pytest.approx(1)
    assert adjusted_rand_score(own % 3, coarse) == pytest.approx(1)


def test_cosines_with_a_segment_do_not_depend_on_how_embeddings_are_stored():
    rows, own = planted(30)  # square: a mistaken axis would not fail
    vectors = sp.csr_matrix(unit(np.random.default_rng(0).normal(size=(12, 30))).astype(np.float32))
    wanted = np.sum(unit(rows.toarray()) * vectors.toarray()[own], axis=1)
    for stored in (rows, rows.tocsc()):
        np.testing.assert_allclose(loadings(stored, vectors, own), wanted, atol=1e-6)


@settings(max_examples=15)
@given(st.integers(0, 10**6), st.integers(1, 40), st.lists(st.integers(1, 30), min_size=1))
def test_clusters_are_nested_and_hold_what_has_weights(seed, n_items, n_clusters):
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n_items, 8)) * (rng.random((n_items, 8)) < 0.3)
    rows[0, 0] = 1
    levels = nested_clusters(sp.csr_matrix(rows), n_clusters, seed)
    assert len(levels) == len(set(n_clusters))
    for labels, most in zip(levels, sorted(set(n_clusters)), strict=True):
        np.testing.assert_array_equal(labels < 0, ~rows.any(axis=1))
        found = np.unique(labels[labels >= 0])
        assert found.tolist() == list(range(len(found)))
        assert len(found) <= most
    for coarse, fine in itertools.pairwise(levels):
        assert len({*zip(fine.tolist(), coarse.tolist(), strict=True)}) == len(set(fine.tolist()))


def test_clusters_depend_on_directions_alone():
    rows, _ = planted(60)
    scaled = sp.diags_array(np.random.default_rng(1).uniform(0.1, 9, 60)) @ rows
    for ours, theirs in zip(nested_clusters(rows, [4]), nested_clusters(scaled, [4]), strict=True):
        assert as_sets(ours) == as_sets(theirs)


def test_kin_are_drawn_to_each_other():
    """An item between two clusters goes where its kin are; others stay where they are."""
    rows = np.repeat(np.eye(2, dtype=np.float32), 10, axis=0)
    rows[[0, 10]] = 1
    for of_kin in ([1, 2], [11, 12]):
        kin = sp.lil_matrix((20, 3), dtype=np.float32)
        kin[[0, 10, *of_kin], 0] = 1
        kin[5, 2] = 1  # a term of one item alone
        [labels] = nested_clusters(sp.csr_matrix(rows), [2], kin=kin.tocsr())
        assert labels[0] == labels[10] == labels[of_kin[0]]
        assert (labels[1:10] == labels[1]).all()
        assert (labels[11:] == labels[11]).all()
        assert labels[1] != labels[11]


def test_items_that_share_their_factor_with_few_follow_others():
    """Else the three, which are most like each other, would be a cluster."""
    rows = np.zeros((43, 5), np.float32)
    rows[:20, 0], rows[20:40, 1], rows[40:, 2], rows[40:, 0] = 1, 1, 1, 0.5
    rows[:20, 3], rows[20:40, 4] = 0.1, 0.1
    [labels] = nested_clusters(sp.csr_matrix(rows), [3])
    assert set(labels[40:]) <= set(labels[:20])
    assert not set(labels[:20]) & set(labels[20:40])


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
    rows[0] *= 3  # lengths have no say
    genres = text(*["Nordic Crime|Fiction"] * 12, *["Poetry|Fiction"] * 6, *[""] * 3, "Poetry")
    ids = np.array([f"i{n:02d}" for n in range(22)])
    terms = item_terms({"genres": genres}, list_columns=("genres",))
    return Catalogue(sp.csr_matrix(rows.astype(np.float32)), ids, terms)


def test_segments_of_factors_are_groups_named_and_merged(catalogue):
    tree = segments_of_factors(catalogue)
    merged, groups = tree.levels
    assert merged.names == ["Nordic Crime", "Poetry", "Segment 3"]
    assert [len(segment.items) for segment in merged] == [12, 6, 3]
    assert merged.of_item[21] == -1
    root = np.sqrt(0.5)
    expected = [[root, 0, root, 0], [-1, 0, 0, 0], [0, 1, 0, 0]]
    np.testing.assert_allclose(merged.vectors.toarray(), expected, rtol=1e-6)
    assert merged.of_pair.tolist() == [0, 1, 2, -1, 0, -1, -1, -1]
    assert [len(segment.items) for segment in groups] == [6, 6, 6, 3]
    assert [segment.parent for segment in groups] == [0, 1, 0, 2]
    assert tree.children[0][0].tolist() == [0, 2]
    assert (np.abs(groups.vectors.toarray()).sum(axis=1) == 1).all()
    assert tree.for_pages is merged


def test_segments_of_clusters_have_the_mean_of_their_rows(catalogue):
    tree = find_segments(catalogue, [4, 2])
    coarse, fine = tree.levels
    assert len(fine) == 4
    assert as_sets(fine.of_item) == {
        frozenset(range(6)),
        frozenset(range(6, 12)),
        frozenset(range(12, 18)),
        frozenset(range(18, 21)),
        frozenset([21]),
    }
    assert set(fine.names) > {"Poetry", "Segment 4"}
    rows = unit(catalogue.embeddings.toarray()[:21])
    for level in tree.levels:
        for segment, vector in zip(level, level.vectors.toarray(), strict=True):
            np.testing.assert_allclose(vector, unit(rows[segment.items].mean(axis=0)), atol=1e-6)
            assert (np.diff(rows[segment.items] @ vector) <= 1e-6).all()
    for at, segment in enumerate(fine):
        assert (coarse.of_item[segment.items] == segment.parent).all()
        assert at in tree.children[0][segment.parent]
    for pair in range(8):
        column = fine.vectors.toarray()[:, pair // 2] * (1 - 2 * (pair % 2))
        expected = column.argmax() if column.max() > 0 else -1
        assert fine.of_pair[pair] == expected


def test_rows_come_from_the_finest_level_of_twenty_items_a_segment():
    rows, _ = planted(120)
    terms = item_terms({}, n_items=120)
    tree = find_segments(Catalogue(rows, np.arange(120).astype(str), terms), [2, 6, 7])
    assert tree.for_pages is tree.levels[1]
    own = sp.csr_matrix(np.repeat(np.eye(4), 30, axis=0) + 0.1 * rows[:, :4].sign())
    merged = segments_of_factors(Catalogue(own, np.arange(120).astype(str), terms))
    assert merged.for_pages is merged.levels[0]


def test_a_language_model_names_parts_first_and_what_they_are_merged_into(catalogue):
    class Namer:
        def rename(self, names, examples):
            self.examples = examples
            return [Name(f"N{at}", name.terms) for at, name in enumerate(names)]

        def rename_merged(self, names, groups):
            return [Name(" and ".join(own), ("t",)) for own in groups]

    namer = Namer()
    tree = find_segments(catalogue, [4, 2, 1], namer=namer)
    top, middle, fine = tree.levels
    assert set(fine.names) == {"N0", "N1", "N2", "N3"}
    for level, below, parts in zip((top, middle), (middle, fine), tree.children, strict=True):
        for name, own in zip(level.names, parts, strict=True):
            assert name == " and ".join(below.names[at] for at in own)
    ids = catalogue.item_ids
    assert namer.examples == [ids[segment.items][:12].tolist() for segment in fine]
    merged, _ = segments_of_factors(catalogue, namer=namer).levels
    assert set(" and ".join(merged.names).split(" and ")) == {"N0", "N1", "N2", "N3"}


# Files


@pytest.fixture
def saved(catalogue, tmp_path):
    tree = find_segments(catalogue, [4, 2])
    save_segments(tmp_path, tree, catalogue.embeddings)
    return tree


def test_segments_survive_saving_and_loading(catalogue, saved, tmp_path):
    loaded = load_segments(tmp_path, catalogue.item_ids)
    for ours, theirs in zip(saved.levels, loaded.levels, strict=True):
        assert ours.names == theirs.names
        assert [s.parent for s in ours] == [s.parent for s in theirs]
        np.testing.assert_array_equal(ours.of_item, theirs.of_item)
        np.testing.assert_array_equal(ours.vectors.toarray(), theirs.vectors.toarray())
    with pytest.raises(InputError, match=r"item '.*' is not in the catalogue"):
        load_segments(tmp_path, catalogue.item_ids[:5])
    with pytest.raises(InputError, match="No such file"):
        load_segments(tmp_path / "nowhere", catalogue.item_ids)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda e: e[0].pop("name"), "'name'"),
        (lambda e: e[0].update(terms=[3]), "no text"),
        (lambda e: e[0].update(items=[]), "no items"),
        (lambda e: e[0].update(level="1"), "no whole number"),
        (lambda e: e[0].update(level=2), "level 2 behind level 0"),
        (lambda e: e[-1].update(parent=2), "the parent 2 of .* not of the level above"),
        (lambda e: e[-1].update(parent=None), "the parent None of"),
        (lambda e: e[0].update(parent=0), "the parent 0 of"),
        (lambda e: e[-1].update(items=e[-2]["items"]), "an item that is in two segments"),
    ],
)
def test_damaged_segments_are_refused(catalogue, saved, tmp_path, change, problem):
    path = tmp_path / "segments.json"
    entries = json.loads(path.read_text())
    change(entries)
    path.write_text(json.dumps(entries))
    with pytest.raises(InputError, match=rf"segments\.json: damaged: .*{problem}"):
        load_segments(tmp_path, catalogue.item_ids)


@pytest.mark.parametrize("share", [0, 0.5, 0.95])
def test_cut_off_segment_vectors_are_refused(catalogue, saved, tmp_path, share):
    path = tmp_path / "segment_vectors.npz"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(InputError, match=r"segment_vectors\.npz: damaged: .*; run experiments\."):
        load_segments(tmp_path, catalogue.item_ids)


def test_segments_and_vectors_of_two_runs_are_refused(catalogue, saved, tmp_path):
    sp.save_npz(tmp_path / "segment_vectors.npz", saved.levels[0].vectors)
    with pytest.raises(InputError, match=r"segment_vectors\.npz: 2 vectors for the 6 segments of"):
        load_segments(tmp_path, catalogue.item_ids)


def test_embeddings_without_weights_are_refused():
    empty = sp.csr_matrix((3, 4), dtype=np.float32)
    catalogue = Catalogue(empty, np.array(["a", "b", "c"]), item_terms({}, n_items=3))
    for find in (find_segments, segments_of_factors):
        with pytest.raises(InputError, match="no item of the embeddings has weights"):
            find(catalogue)
    with pytest.raises(InputError, match=r"n_clusters is \[3, 0\]"):
        nested_clusters(empty, [3, 0])


def test_ids_terms_and_titles_must_be_of_the_embeddings(catalogue):
    rows, ids, terms = catalogue.embeddings, catalogue.item_ids, catalogue.terms
    with pytest.raises(InputError, match="ids of 21 items for embeddings of 22"):
        Catalogue(rows, ids[:21], terms)
    with pytest.raises(InputError, match="terms of 2 items for embeddings of 22"):
        Catalogue(rows, ids, item_terms({}, n_items=2))
    with pytest.raises(InputError, match="titles of 1 items for embeddings of 22"):
        Catalogue(rows, ids, terms, ["One"])


def test_characters_that_cannot_be_seen_become_blanks():
    assert printable("a\x00b\u202ec\x1b[31md\te") == "a b c [31md e"
    assert printable("Ünï किताब 戦争 é") == "Ünï किताब 戦争 é"


def test_synthetic_metadata_reads_as_titles_and_genres():
    _, metadata = synthetic(50, 200, 8)
    segments, _, first = planted_segments(metadata)
    terms = item_terms({name: metadata[name].astype(object) for name in ("title", "genres")})
    assert terms.kinds == {"title": "text", "genres": ","}
    names = name_groups(first, 8, terms)
    assert [name.name.split(",")[0] for name in names] == segments.tolist()


@pytest.mark.parametrize(
    ("n_items", "n_used", "sizes"),
    [(2, 2, [1]), (7, 7, [2]), (200, 200, [30]), (900, 900, [30, 300]), (900, 899, [30])],
)
def test_levels_leave_three_items_a_segment(n_items, n_used, sizes):
    dense = np.random.default_rng(0).normal(size=(n_items, 40))
    dense[n_used:] = 0
    rows = sp.csr_matrix(dense)
    ids = np.arange(n_items).astype(np.str_)
    tree = find_segments(Catalogue(rows, ids, item_terms({}, n_items=n_items)))
    assert [len(level) for level in tree.levels] == sizes
