"""Seeds are the same everywhere; code hashes follow imports and ignore comments."""

from hullseeker.provenance import hash_of_code, seed_for, sha256_of_path


def test_seeds_are_fixed_numbers_and_differ_by_part():
    assert seed_for(2026, "a", 1) == seed_for(2026, "a", 1)
    assert len({seed_for(2026, "a", 1), seed_for(2026, "a", 2), seed_for(2025, "a", 1), seed_for(2026, "a1")}) == 4
    assert 0 <= seed_for(0) < 2**63


def test_code_hash_sees_imported_modules_and_not_comments(tmp_path):
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "deep.py").write_text("x = 1\n")
    (tmp_path / "lib" / "near.py").write_text("from lib.deep import x\n")
    script = tmp_path / "script.py"
    script.write_text("from lib import near\n")
    before = hash_of_code(script)
    (tmp_path / "lib" / "deep.py").write_text("# a comment\nx = 1\n")
    assert hash_of_code(script) == before
    (tmp_path / "lib" / "deep.py").write_text("x = 2\n")
    assert hash_of_code(script) != before


def test_folder_hash_follows_content(tmp_path):
    (tmp_path / "a").write_text("1")
    before = sha256_of_path(tmp_path)
    (tmp_path / "a").write_text("2")
    assert sha256_of_path(tmp_path) != before
    assert sha256_of_path("a/hub-name") == sha256_of_path("a/hub-name")
