"""One hospital of a rehearsal: joined as a real one joins, its data and policy made for it."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from clients import join
from clients.exchanges import manifest_of
from clients.gate.approvals import approve, approved
from clients.gate.manifest import digest, dump
from clients.gate.policy_file import load_policy
from clients.settings import SiteSettings
from common.config.study import Study
from common.errors import InputError
from scripts.gate.check import problems
from server.consortium import membership
from server.consortium.place import Place
from server.consortium.register import now

POLICY = Path(__file__).resolve().parents[2] / "configs" / "policy.toml"
OPEN_STAGES = (
    "upper", "source_classifier", "diffusion", "reconstruct", "sphere", "score", "select",
    "annotate", "classify", "finetune_selected",
)  # fmt: skip


@dataclass
class RehearsalSite:
    """A site's folder in a rehearsal.

    Attributes:
        settings: What a simulation would give this site; its work and cache lie in `folder`.
        folder: The site's own.
        minimum: The policy's smallest count of people; synthetic patients need no shelter.
        environment: Over the environment of its SuperNode.
    """

    settings: SiteSettings
    folder: Path
    minimum: int = 1
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The site's name."""
        return self.settings.name

    @property
    def site_file(self) -> Path:
        """Its `site.toml`."""
        return self.folder / join.SITE_FILE

    @property
    def gate(self) -> Path:
        """Its gate's folder: ledger, approvals, spool."""
        return self.folder / "gate"

    @property
    def ledger(self) -> Path:
        """Its gate's ledger."""
        return self.gate / "ledger.jsonl"

    def join(self, place: Place) -> None:
        """Invitation, request, admission: once, with the same code that a hospital uses."""
        if (self.folder / join.CERTIFICATE).exists():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        invitation, admission = self.folder / "invitation.json", self.folder / "admission.json"
        text = membership.invite(place, self.name).model_dump_json(indent=1)
        invitation.write_text(text, encoding="utf-8")
        request = join.ask(
            invitation, self.folder, data=self.settings.data_folder, role=self.settings.role
        )
        given = membership.admit(place, membership.read_request(request))
        admission.write_text(given.model_dump_json(indent=1), encoding="utf-8")
        join.take(admission, self.folder)

    def write(self, address: str, listen: str, *, open_network: bool = False) -> None:
        """Write its `site.toml`: the rows that the study gives it, the front as it is now."""
        spec = json.loads(self.settings.data.model_dump_json(exclude_defaults=True))
        weights = {name: str(path) for name, path in self.settings.weights.items()}
        cohort = self.settings.min_cohort
        join.write_site_file(
            self.folder,
            name=self.name,
            role=self.settings.role,
            # As a path it may lead further down than the folder's last name.
            data=self.settings.data_root / "any",
            address=address,
            listen=listen,
            open_network=open_network,
            further={
                "data": _toml(spec),
                "own_parts": _toml(list(self.settings.own_parts)),
                "weights": _toml(weights),
                **({} if cohort is None else {"min_cohort": _toml(cohort)}),
            },
        )

    def allow(self, study: Study) -> None:
        """Write a policy that lets the study run, and hold the study to it.

        Raises:
            InputError: With what the policy would refuse.
        """
        found = manifest_of(study)
        name = f"{study.name}.manifest.json"
        (self.folder / name).write_text(dump(found), encoding="utf-8")
        text = POLICY.read_text(encoding="utf-8")
        studies = (
            f"[studies.{json.dumps(study.name)}]\nmanifest = {json.dumps(name)}\n"
            f'sha256 = "{digest(found)}"\n'
        )
        text = text.replace('site = "hospital-1" ', f"site = {json.dumps(self.name)} ", 1)
        text = text.replace("\n[studies]\n", f"\n[studies]\n{studies}", 1)
        text = text.replace("minimum = 5", f"minimum = {self.minimum}", 1)
        for stage in OPEN_STAGES:
            text = text.replace(f"\n# {stage} = ", f"\n{stage} = ", 1)
        # Parts of somebody's own, where the template names what a study may choose from.
        own = "".join(f", {json.dumps(part)}" for part in self.settings.own_parts)
        for known in ('"dice_bce"', '"entropy", "margin", "mean"'):
            text = text.replace(f"values = [{known}]", f"values = [{known}{own}]", 1)
        for key in ('"model.name"', '"sites.*.reader"'):
            text = text.replace(f"{key} = {{ values = []", f"{key} = {{ values = [{own[2:]}]", 1)
        path = self.folder / join.POLICY_FILE
        path.write_text(text, encoding="utf-8")
        refused = list(problems(load_policy(path), study, path))
        if refused:
            raise InputError([f"site {self.name}: {line}" for line in refused])

    def approve(self, bundle: bytes, sha256: str) -> None:
        """Sign that the code may run here. A hospital does this by hand."""
        if sha256 not in approved(self.gate):
            approve(self.gate, bundle, note=f"rehearsal, {now():%Y-%m-%d %H:%M}")

    def errors(self) -> str:
        """What the site's own code said when it failed."""
        found = sorted((self.folder / "work").rglob("errors.log"))
        return "\n".join(path.read_text(encoding="utf-8") for path in found)

    @property
    def told(self) -> tuple[str, str]:
        """What its own files say: `site.toml` and policy."""
        policy = self.folder / join.POLICY_FILE
        text = policy.read_text(encoding="utf-8") if policy.exists() else ""
        return self.site_file.read_text(encoding="utf-8"), text


def _toml(value: object) -> str:
    """A JSON value as TOML writes it."""
    if isinstance(value, dict):
        inner = ", ".join(f"{json.dumps(key)} = {_toml(item)}" for key, item in value.items())
        return f"{{ {inner} }}"
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    return json.dumps(value, ensure_ascii=False)
