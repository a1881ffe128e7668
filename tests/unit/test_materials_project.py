"""Download from a local Materials Project server: paging, faults, resumption, filters, and no key in outputs."""

import json
import logging
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
from pymatgen.core import Structure

import extract_materials
import extract_phases
from hullseeker.data.materials_project import ExtractionError, MaterialsProject, RefusedDocumentError, structure_columns
from hullseeker.tables.parquet import read_table
from materials_project_server import KEY, cut, server_error, serving, some_documents, times, too_many

SUMMARIES, THERMOS = some_documents()
SETTINGS = {
    "e_above_hull_below_ev_per_atom": 0.08,
    "icsd_only": False,
    "thermo_type": "GGA_GGA+U",
    "page_size": 4,
    "max_attempts": 4,
    "longest_wait_s": 0.01,
}


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("MP_API_KEY", KEY)
    with serving(list(SUMMARIES), list(THERMOS)) as running:
        yield running


def run_rule(script, folder, server, **changes):
    """Run an extraction script as its rule does; return the rows of its table."""
    settings = {**SETTINGS, "endpoint": server.endpoint, **changes.pop("settings", {})}
    kind = script.__name__.removeprefix("extract_")
    job = SimpleNamespace(
        input=SimpleNamespace(phases=folder / "phases.parquet"),
        output=SimpleNamespace(**{kind: folder / f"{kind}.parquet"}, refused=folder / f"{kind}_refused.parquet"),
        params=SimpleNamespace(
            settings=settings,
            cache_dir=folder / "cache",
        ),
        log=[folder / f"{kind}.log"],
    )
    script.main(job)
    return read_table(folder / f"{kind}.parquet", "materials").to_pylist()


def pages_asked(server, kind):
    return [query for name, query in server.requests if name == kind and query.get("_limit") == "4"]


def test_phases_are_all_entries_with_both_energies(server, tmp_path):
    phases = run_rule(extract_phases, tmp_path, server)
    assert [row["structure_id"] for row in phases] == sorted(d["material_id"] for d in THERMOS)
    salt = next(row for row in phases if row["formula"] == "NaCl")
    document = next(d for d in THERMOS if d["material_id"] == salt["structure_id"])
    assert salt["corrected_energy_ev_per_atom"] == document["energy_per_atom"]
    assert salt["uncorrected_energy_ev_per_atom"] - salt["corrected_energy_ev_per_atom"] == pytest.approx(0.25)
    assert salt["run_type"] == "GGA"
    assert salt["energy_ev_per_atom"] is None
    assert sorted(salt["atomic_numbers"]) == [11, 17]
    assert len(pages_asked(server, "thermo")) == 4
    about = json.loads(pq.read_schema(tmp_path / "phases.parquet").metadata[b"extraction"])
    assert (about["database_version"], about["n_documents"]) == ("2025.09.25", len(THERMOS))


def test_materials_are_filtered_here_and_on_the_server(server, tmp_path):
    run_rule(extract_phases, tmp_path, server)
    everything = run_rule(extract_materials, tmp_path, server)
    assert all(row["database_e_above_hull_ev_per_atom"] < 0.08 for row in everything)
    assert 9 <= len(everything) <= len(SUMMARIES)
    measured = run_rule(extract_materials, tmp_path, server, settings={"icsd_only": True})
    assert {row["is_theoretical"] for row in everything} == {True, False}
    assert {row["is_theoretical"] for row in measured} == {False}
    # No filter by size or elements: excluded materials remain known crystals and competing phases.
    queries = [query for kind, query in server.requests if kind == "summary"]
    assert {name for query in queries for name in query if not name.startswith("_")} == {"deprecated", "theoretical"}
    assert {row["formula"] for row in everything} >= {"LiBr", "NaBr", "KBr"}


@pytest.mark.parametrize("fault", [too_many, server_error, cut])
def test_what_may_pass_is_tried_again(server, tmp_path, fault):
    server.faults.append(times(2, fault, lambda query: query.get("_skip") == "4"))
    phases = run_rule(extract_phases, tmp_path, server)
    assert len(phases) == len(THERMOS)


@pytest.mark.parametrize("fault", [too_many, server_error, cut])
def test_an_interrupted_download_goes_on_where_it_was(server, tmp_path, fault):
    server.faults.append(times(1000, fault, lambda query: query.get("_skip") == "8"))
    with pytest.raises(ExtractionError, match="failed"):
        run_rule(extract_phases, tmp_path, server)
    assert not (tmp_path / "phases.parquet").exists()
    server.faults.clear()
    server.requests.clear()
    phases = run_rule(extract_phases, tmp_path, server)
    assert len(phases) == len(THERMOS)
    assert [query["_skip"] for query in pages_asked(server, "thermo")] == ["8", "12"]
    (tmp_path / "fresh").mkdir()
    with serving(list(SUMMARIES), list(THERMOS)) as fresh:
        assert run_rule(extract_phases, tmp_path / "fresh", fresh) == phases


def test_a_damaged_page_is_fetched_again(server, tmp_path):
    phases = run_rule(extract_phases, tmp_path, server)
    part = sorted((tmp_path / "cache").rglob("*.parquet"))[1]
    part.write_bytes(part.read_bytes()[:100])
    server.requests.clear()
    assert run_rule(extract_phases, tmp_path, server) == phases
    assert len(pages_asked(server, "thermo")) == 1


def test_another_database_version_starts_anew(server, tmp_path):
    run_rule(extract_phases, tmp_path, server)
    with serving(list(SUMMARIES), list(THERMOS)) as later:
        later.database_version = "2026.01.01"
        run_rule(extract_phases, tmp_path, later)
        assert len(pages_asked(later, "thermo")) == 4


def test_data_that_change_meanwhile_are_noticed(server, tmp_path):
    def shift(handler):
        handler.server.documents["thermo"] = THERMOS[-1:] + THERMOS[:-1]
        handler.answer(200, handler.page("thermo"))

    server.faults.append(times(1, shift, lambda query: query.get("_skip") == "8"))
    with pytest.raises(ExtractionError, match=r"said 15 thermo documents.*run again"):
        run_rule(extract_phases, tmp_path, server)
    assert not list((tmp_path / "cache").rglob("*.parquet"))
    server.documents["thermo"] = list(THERMOS)
    assert len(run_rule(extract_phases, tmp_path, server)) == len(THERMOS)


def test_a_field_missing_everywhere_is_a_changed_schema(server, tmp_path):
    server.documents["thermo"] = [{k: v for k, v in d.items() if k != "entries"} for d in THERMOS]
    with pytest.raises(ExtractionError, match="field 'entries'; the API's schema has changed"):
        run_rule(extract_phases, tmp_path, server)


def test_a_document_without_structure_is_refused_and_counted(server, tmp_path):
    broken = json.loads(json.dumps(THERMOS))
    del broken[0]["entries"]["GGA"]["structure"]["lattice"]
    broken[1]["entries"]["GGA"]["structure"]["sites"][0]["species"][0]["occu"] = 0.5
    broken[2]["energy_per_atom"] = None
    server.documents["thermo"] = broken
    phases = run_rule(extract_phases, tmp_path, server)
    refused = read_table(tmp_path / "phases_refused.parquet", "refusals").to_pylist()
    assert len(phases) + len(refused) == len(THERMOS)
    reasons = {row["structure_id"]: row["error"] for row in refused}
    assert "lattice" in reasons[broken[0]["material_id"]]
    assert "partially occupied" in reasons[broken[1]["material_id"]]
    assert "energy_per_atom" in reasons[broken[2]["material_id"]]


@pytest.mark.parametrize(
    ("key", "words"),
    [("", "MP_API_KEY is not set"), ("short", "no valid key"), ("w" * 32, r"refused the API key \(401\)")],
)
def test_a_missing_or_wrong_key_is_named_and_never_told(server, tmp_path, monkeypatch, key, words):
    monkeypatch.setenv("MP_API_KEY", key)
    monkeypatch.setattr("pymatgen.core.SETTINGS", {})
    with pytest.raises(ExtractionError, match=words) as caught:
        run_rule(extract_phases, tmp_path, server)
    assert not key or key not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


PAGES = {
    "CloudFront": (403, b"<html>Request blocked. CloudFront</html>", "a page, 'Request blocked. CloudFront',"),
    "Cloudflare": (
        403,
        b"<!DOCTYPE html><head><title>Attention Required! | Cloudflare</title><style>p {}</style></head><p>no</p>",
        "a page, 'Attention Required! | Cloudflare',",
    ),
    "text": (403, b"error code: 1010", "a page, 'error code: 1010',"),
    "login": (401, b"<html><title>Proxy login</title></html>", "a page, 'Proxy login',"),
    "none": (403, b"", "status code 403"),
    "not found": (404, b"<html><title>404</title></html>", "a page, '404',"),
    "gateway": (503, b"<html>Service unavailable</html>", "a page, 'Service unavailable',"),
}


@pytest.mark.parametrize("page", PAGES)
def test_a_page_of_a_gateway_is_no_refusal_of_the_key(server, tmp_path, page):
    """The request is retried; if the page persists, the error describes it on one line."""
    status, body, words = PAGES[page]
    fault = times(2, lambda handler: handler.answer(status, body, Content_Type="text/html"), lambda q: "_skip" in q)
    server.faults.append(fault)
    for name in ("passes", "stays"):
        (tmp_path / name).mkdir()
    assert len(run_rule(extract_phases, tmp_path / "passes", server)) == len(THERMOS)
    server.faults.append(lambda handler: handler.answer(status, body, Content_Type="text/html") or True)
    with pytest.raises(ExtractionError, match="failed: ") as caught:
        run_rule(extract_phases, tmp_path / "stays", server)
    assert words in str(caught.value) and "refused the API key" not in str(caught.value)
    assert "<" not in str(caught.value) and "\n" not in str(caught.value)
    assert ("a gateway refused the request, not the API" in str(caught.value)) == (status in (401, 403))


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (403, b'{"message": "Forbidden"}'),
        (401, b'{"message":"Unauthorized"}'),
        (403, b'{"detail": "API key has expired"}'),
        (401, b""),
    ],
)
def test_a_refusal_by_the_api_is_not_repeated(server, tmp_path, status, body):
    server.faults.append(lambda handler: handler.answer(status, body) or True)
    with pytest.raises(ExtractionError, match=rf"refused the API key \({status}\); check MP_API_KEY"):
        run_rule(extract_phases, tmp_path, server)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (200, b"<html>log in</html>", "the answer is a page of a gateway or proxy, not the API's JSON"),
        (200, b"", "the answer is a page of a gateway or proxy, not the API's JSON"),
        (403, b'["no"]', "the client cannot read the answer (TypeError"),
    ],
)
def test_an_answer_that_is_none_is_asked_for_again(server, tmp_path, status, body, words):
    server.faults.append(times(2, lambda handler: handler.answer(status, body)))
    assert len(run_rule(extract_phases, tmp_path, server)) == len(THERMOS)
    server.faults.append(lambda handler: handler.answer(status, body) or True)
    (tmp_path / "stays").mkdir()
    with pytest.raises(ExtractionError) as caught:
        run_rule(extract_phases, tmp_path / "stays", server)
    assert words in str(caught.value)


def test_a_gateway_before_the_first_answer(server, monkeypatch):
    """The client ignores a 403 of the heartbeat, and caches a missing database version."""
    pages = [times(1, lambda handler: handler.answer(403, b"<html>no</html>"), lambda _: True)]
    monkeypatch.setattr(type(server), "heartbeat_faults", pages, raising=False)
    source = MaterialsProject(server.endpoint, 3, 0.01)
    assert source.db_version == "2025.09.25"
    pages[:] = [lambda handler: handler.answer(403, b"<html>no</html>") or True]
    with (
        serving(list(SUMMARIES), list(THERMOS)) as fresh,
        pytest.raises(ExtractionError, match="does not say its database version, as when a gateway answers"),
    ):
        MaterialsProject(fresh.endpoint, 2, 0.01)
    pages[:] = [lambda handler: handler.answer(200, b"<html>log in</html>") or True]
    with (
        serving(list(SUMMARIES), list(THERMOS)) as fresh,
        pytest.raises(ExtractionError, match="failed: the answer is a page of a gateway or proxy, not the API's JSON"),
    ):
        MaterialsProject(fresh.endpoint, 2, 0.01)


@pytest.mark.parametrize("char", ["\n", "\x07", " ", "\u2026"])
def test_a_key_with_a_character_that_none_has(server, monkeypatch, char):
    monkeypatch.setenv("MP_API_KEY", KEY[:10] + char + KEY[11:])
    with pytest.raises(ExtractionError, match=rf"\(U\+{ord(char):04X}, character 11 of 32\)") as caught:
        MaterialsProject(server.endpoint, 2, 0.01)
    assert KEY[:10] not in str(caught.value)
    monkeypatch.setenv("MP_API_KEY", f"{KEY}{char if char.isspace() else ''}")
    assert MaterialsProject(server.endpoint, 2, 0.01).db_version


def test_a_request_the_server_does_not_know_is_not_repeated(server):
    source = MaterialsProject(server.endpoint, 4, 0.01, logging.getLogger().warning)
    with pytest.raises(ExtractionError, match="does not support the request"):
        source.page("thermo", {"nonsense": 1}, ("material_id",), 0, 4)
    assert len(server.requests) == 1


def test_the_key_is_in_no_file(server, tmp_path):
    server.faults.append(times(1, cut))
    server.faults.append(times(1, server_error, lambda query: query.get("_skip") == "4"))
    run_rule(extract_phases, tmp_path, server)
    run_rule(extract_materials, tmp_path, server)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 8
    for path in files:
        assert KEY.encode() not in path.read_bytes(), path


def test_no_server_is_said_so(monkeypatch):
    monkeypatch.setenv("MP_API_KEY", KEY)
    with pytest.raises(ExtractionError, match="failed"):
        MaterialsProject("http://127.0.0.1:9/", 2, 0.01)


def test_structures_are_pymatgens():
    document = THERMOS[-1]["entries"]["GGA"]["structure"]
    structure = structure_columns(document)
    expected = Structure.from_dict(document)
    assert structure["lattice_ang"] == expected.lattice.matrix.ravel().tolist()
    assert structure["frac_coords"] == expected.frac_coords.ravel().tolist()
    assert structure["atomic_numbers"] == [site.specie.Z for site in expected]
    assert structure["formula"] == expected.composition.reduced_formula
    halfway = json.loads(json.dumps(document))
    halfway["sites"][0]["abc"][1] = None
    for broken in (None, halfway):
        with pytest.raises(RefusedDocumentError, match="no readable structure"):
            structure_columns(broken)
