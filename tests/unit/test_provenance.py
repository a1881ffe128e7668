"""Seeds are deterministic; the hash of a folder depends on its content."""

from hullseeker.runtime.provenance import seed_for, sha256_of_path


def test_seeds_are_fixed_numbers_and_differ_by_part():
    assert seed_for(2026, "a", 1) == seed_for(2026, "a", 1)
    assert len({seed_for(2026, "a", 1), seed_for(2026, "a", 2), seed_for(2025, "a", 1), seed_for(2026, "a1")}) == 4
    assert 0 <= seed_for(0) < 2**63


def test_folder_hash_follows_content(tmp_path):
    (tmp_path / "a").write_text("1")
    before = sha256_of_path(tmp_path)
    (tmp_path / "a").write_text("2")
    assert sha256_of_path(tmp_path) != before
    assert sha256_of_path("a/hub-name") == sha256_of_path("a/hub-name")
