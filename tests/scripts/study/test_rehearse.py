"""`sonofed study submit --rehearse`: the study's own messages on phantom images."""

import json
from pathlib import Path

import pytest

from clients.exchanges import manifest_of
from clients.gate import manifest as manifests
from clients.settings import SiteSettings
from clients.site_list import write_sites
from common.config.data import DataSpec
from common.config.load import load_study
from common.config.study import REHEARSAL, Study
from common.errors import InputError
from common.formats import read_results
from scripts import prepare
from scripts.consortium.rehearsal_site import OPEN_STAGES
from scripts.engines import inprocess
from scripts.study import dossier
from scripts.study.rehearse import rehearsal_of
from server.bundle.export import open_run
from server.consortium import membership
from server.consortium import register as registers
from server.consortium.place import Place
from tests.scripts.conftest import Command
from tests.scripts.study.superlinks import played, runs
from tests.server.consortium.test_membership import request
from tests.tiny import choosing, tiny

CONFIGS = Path(__file__).resolve().parents[3] / "configs"


@pytest.mark.parametrize(
    "name",
    ["poc", "demo", "demo_al", pytest.param("lung_frames", marks=pytest.mark.slow),
     pytest.param("breast_al", marks=pytest.mark.slow)],
)  # fmt: skip
def test_its_messages_are_the_studys(name: str) -> None:
    """So the policies that name the study's manifest name the rehearsal's."""
    study = load_study(CONFIGS / f"{name}.toml")
    rehearsal = rehearsal_of(study)
    assert rehearsal.name == study.name
    assert manifests.digest(manifest_of(rehearsal)) == manifests.digest(manifest_of(study))


def test_nothing_of_the_sites_crosses(tmp_path: Path) -> None:
    crossing = rehearsal_of(tiny()).for_sites()
    assert crossing.rehearsal
    assert crossing.phantom is None
    assert not tiny().for_sites().rehearsal


def policy(folder: Path, site: str, study: Study) -> Path:
    """The template as a hospital fills it in for the study: five people at least, and all."""
    manifest = manifest_of(study)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.json").write_text(manifests.dump(manifest))
    entry = f'[studies.{study.name}]\nmanifest = "study.json"\n'
    entry += f'sha256 = "{manifests.digest(manifest)}"\n'
    text = (CONFIGS / "policy.toml").read_text().replace('site = "hospital-1"', f'site = "{site}"')
    for stage in OPEN_STAGES:
        text = text.replace(f"\n# {stage} = ", f"\n{stage} = ", 1)
    path = folder / f"{site}.toml"
    path.write_text(text.replace("\n[studies]\n", "\n" + entry, 1))
    return path


def rehearsed(study: Study, root: Path) -> Path:
    """Run a rehearsal at sites that have no data at all, each behind its policy for the study."""
    rehearsal = rehearsal_of(study)
    folder = root / "run"
    prepare.make_folder(folder, rehearsal)
    sites = [
        SiteSettings(
            name=name,
            role=site.role,
            data=DataSpec(folder="nowhere"),
            data_root=root / "none",
            folder=folder / "sites" / name,
            cache=root / "none",
            policy=policy(root / "policies", name, study),
        )
        for name, site in study.sites.items()
    ]
    listed = folder / "sites" / "sites.json"
    write_sites(listed, sites)
    inprocess.run(folder, listed, 1)
    return folder


@pytest.mark.timeout(900)
def test_it_passes_the_policies_and_opens_no_data(tmp_path: Path) -> None:
    study = tiny(arms=["ensemble", "lower"], mim={"rounds": 3, "epochs": 50})
    run = rehearsed(study, tmp_path)
    results = read_results(run / "results.json")
    assert results.synthetic
    assert REHEARSAL in (run / "report.html").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"run", "policies"}
    rounds = [
        json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()
        if '"event": "round"' in line
    ]  # fmt: skip
    assert {(told["round"], told["rounds"]) for told in rounds} == {(1, 1)}
    # Nobody can take it for a study.
    with pytest.raises(InputError, match="makes no bundle"):
        open_run(run)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_study_that_chooses_images(tmp_path: Path) -> None:
    study = choosing(annotate={"labels": "file"})
    results = read_results(rehearsed(study, tmp_path) / "results.json")
    assert results.selection is not None


def test_the_command(tmp_path: Path, sonofed: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SONOFED_CONSORTIUM", str(tmp_path / "center"))
    study = load_study(CONFIGS / "poc.toml")
    with played(tmp_path / "center", lambda path: (200, runs())) as place:
        for name in study.sites:
            membership.admit(place, request(place, name))
        said = sonofed("study", "submit", CONFIGS / "poc.toml", "--rehearse", "--no-watch")
        assert said.code == 0, said.err
    assert "opens none of its own images" in said.out
    run = place.runs / f"poc-{study.digest[:8]}-rehearsal"
    assert Study.model_validate_json((run / "study.json").read_bytes()) == rehearsal_of(study)
    with pytest.raises(InputError, match="is a rehearsal: phantom images"):
        dossier.gather(run, registers.read(Place(place.root)), unfinished=True)
