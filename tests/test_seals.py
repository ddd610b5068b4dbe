"""No flipped bit of a file with a checksum goes unnoticed."""

import zipfile

import numpy as np
import pytest
import scipy.sparse as sp

from celsa_jax.data.splits import read_split
from celsa_jax.errors import InputError
from celsa_jax.seals import check_seal, write_sealed
from celsa_jax.sparse import SparseEmbeddings, load_embeddings, save_embeddings


@pytest.fixture
def embeddings(tmp_path):
    matrix = sp.csc_matrix(np.array([[0.6, 0.8], [0, 1], [1, 0]], np.float32))
    save_embeddings(tmp_path, matrix, np.array(["a", "é", "c"]), np.array(["é", "a"]))
    return tmp_path / "embeddings.npz"


def each_flip(path):
    """Leaves the file with one bit flipped after another, and in the end as it was.

    All bits of its beginning and its end, which say what it is, and one of each byte between.
    """
    content = path.read_bytes()
    for at in range(len(content)):
        for bit in range(8) if at < 8 or at >= len(content) - 100 else [at % 8]:
            flipped = bytearray(content)
            flipped[at] ^= 1 << bit
            path.write_bytes(flipped)
            yield
    path.write_bytes(content)


def test_numpy_and_scipy_read_past_the_checksum(embeddings):
    ours, item_ids, _ = load_embeddings(embeddings)
    np.testing.assert_array_equal(sp.load_npz(embeddings).toarray(), ours.toarray())
    np.testing.assert_array_equal(ours.toarray(), np.array([[0.6, 0.8], [0, 1], [1, 0]], "f4"))
    assert item_ids.tolist() == ["a", "é", "c"]
    assert embeddings.with_name("factors.txt").read_text("utf-8") == "é\na\n"
    assert SparseEmbeddings.load(embeddings).factor_ids.tolist() == ["é", "a"]


@pytest.mark.filterwarnings("ignore")  # of NumPy, on what it reads
@pytest.mark.parametrize("name", ["embeddings.npz", "items.txt", "factors.txt"])
def test_flipped_bits_of_embeddings_and_their_ids(embeddings, name):
    for _ in each_flip(embeddings.with_name(name)):
        with pytest.raises(InputError):
            SparseEmbeddings.load(embeddings)
    SparseEmbeddings.load(embeddings)


def test_flipped_bits_of_a_split(tmp_path):
    parts = {part: np.array([part]) for part in ("train", "val", "test")}
    write_sealed(tmp_path / "split.npz", lambda stream: np.savez_compressed(stream, **parts))
    for _ in each_flip(tmp_path / "split.npz"):
        with pytest.raises(InputError, match=r"split\.npz: damaged"):
            read_split(tmp_path / "split.npz")
    assert read_split(tmp_path / "split.npz")["val"] == ["val"]


def test_a_split_that_lost_its_end(tmp_path):
    parts = {part: np.array([part]) for part in ("train", "val", "test")}
    write_sealed(tmp_path / "split.npz", lambda stream: np.savez_compressed(stream, **parts))
    content = (tmp_path / "split.npz").read_bytes()
    for lost in range(1, 200):
        (tmp_path / "split.npz").write_bytes(content[:-lost])
        with pytest.raises(InputError, match=r"split\.npz: damaged"):
            read_split(tmp_path / "split.npz")


def test_flipped_bits_of_an_export(embeddings):
    path = embeddings.with_name("exported")
    SparseEmbeddings.load(embeddings).to_format("int8").save(path)
    for _ in each_flip(path):
        with pytest.raises(InputError):
            SparseEmbeddings.load(path)
    SparseEmbeddings.load(path)


def test_ids_of_another_run_are_refused(embeddings):
    embeddings.with_name("items.txt").write_text("a\nb\nc\n")
    with pytest.raises(InputError, match=r"damaged, or not written with these ids: .*items\.txt"):
        load_embeddings(embeddings)


def test_factors_of_another_run_are_refused(embeddings):
    factors = embeddings.with_name("factors.txt")
    factors.write_text("a\nb\n")
    with pytest.raises(InputError, match=r"not written with these ids: .*, and the factors\.txt"):
        load_embeddings(embeddings)
    factors.write_text("a\n")
    with pytest.raises(InputError, match=r"factors\.txt: 1 ids for the 2 factors of .*npz"):
        load_embeddings(embeddings)
    factors.unlink()
    with pytest.raises(InputError, match=r"items\.txt, and no factors\.txt"):
        load_embeddings(embeddings)


def test_items_and_factors_cannot_stand_for_one_another(tmp_path):
    """The same lines, parted elsewhere."""
    save_embeddings(tmp_path, sp.csc_matrix(np.eye(2)), ["a", "b"], ["c", "d"])
    sealed = (tmp_path / "embeddings.npz").read_bytes()
    save_embeddings(tmp_path, sp.csc_matrix((4, 2)), ["a", "b", "c", "d"])
    (tmp_path / "embeddings.npz").write_bytes(sealed)
    (tmp_path / "items.txt").write_text("a\nb\n")
    with pytest.raises(InputError, match="not written with these ids"):
        load_embeddings(tmp_path / "embeddings.npz")


def test_no_factors_of_an_earlier_run_stay(embeddings):
    matrix, item_ids, _ = load_embeddings(embeddings)
    save_embeddings(embeddings.parent, matrix, item_ids)
    assert not embeddings.with_name("factors.txt").exists()
    assert SparseEmbeddings.load(embeddings).factor_ids is None


@pytest.mark.parametrize("comment", [b"x", b"made by someone else, " * 4, bytes(71), b"y" * 65_535])
def test_comments_of_others_are_no_checksums(tmp_path, comment):
    sp.save_npz(tmp_path / "plain.npz", sp.csc_matrix(np.eye(2)))
    with zipfile.ZipFile(tmp_path / "plain.npz", "a") as archive:
        archive.comment = comment
    (tmp_path / "items.txt").write_text("a\nb\n")
    matrix, item_ids, _ = load_embeddings(tmp_path / "plain.npz")
    assert matrix.toarray().tolist() == [[1, 0], [0, 1]]
    assert item_ids.tolist() == ["a", "b"]


def test_files_without_a_checksum_are_taken_as_they_are(tmp_path):
    np.savez(tmp_path / "plain.npz", a=np.arange(3))
    check_seal(tmp_path / "plain.npz")
    np.save(tmp_path / "plain.npy", np.arange(3))
    check_seal(tmp_path / "plain.npy")
