"""From the release before the newest migration to this one, and the node's pods back, while a model trains."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

import pytest

from gridnode.db.revision import REVISION
from tests.e2e.conftest import TAG, values
from tests.support.chart import NAMESPACE
from tests.support.real_cluster.images import ROOT, Images
from tests.support.real_cluster.release import GridNodeUnderTest, Release
from tests.support.real_cluster.target import Target, wait_for
from tests.support.real_cluster.training import EndlessTraining

# The older images are built here.
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]

OLDER = "before"
_MIGRATIONS = Path("node/gridnode/db/migrations/versions")


@pytest.fixture
def older(tmp_path: Path) -> Path:
    """The source tree as it was before the newest migration came."""
    [newest] = (ROOT / _MIGRATIONS).glob(f"{REVISION}_*.py")
    added = git("log", "--format=%H", "--diff-filter=A", "--", str(newest.relative_to(ROOT))).decode().split()
    commit = f"{added[-1]}^" if added else "HEAD"
    with tarfile.open(fileobj=io.BytesIO(git("archive", commit))) as archive:
        archive.extractall(tmp_path / "older", filter="data")
    return tmp_path / "older"


@pytest.fixture
def keyboard(release: Release, images: Images, older: Path) -> GridNodeUnderTest:
    """A GridNode of the older release."""
    for image in images.gridnode(OLDER, older):
        release.target.load_image(image)
    release.values = values(OLDER)
    release.install(older / "helm" / "gridnode")
    release.wait()
    gridnode = GridNodeUnderTest(release, "keyboard", "team-a", {"replicas": 2})
    gridnode.apply()
    gridnode.wait()
    return gridnode


def test_upgrade_and_rollback_lose_no_report(
    request: pytest.FixtureRequest, target: Target, release: Release, keyboard: GridNodeUnderTest
) -> None:
    def pods() -> set[str]:
        return set(keyboard.pods())

    def revision() -> str:
        found: str = target.get("gn", "keyboard", "team-a")["status"]["schemaRevision"]
        return found

    before, old_revision = pods(), revision()
    database = target.get("pod", "gridnode-database-0", NAMESPACE)["metadata"]["uid"]
    assert old_revision < REVISION
    with EndlessTraining(keyboard, "upgraded") as training:
        training.wait_for_reports()
        release.values = values(request.config.getoption("--tag", default=None) or TAG)
        release.install()
        release.wait()
        wait_for("the schema is migrated", lambda: revision() == REVISION, 120)
        wait_for("all pods are new", lambda: len(pods()) == 2 and not before & pods() and keyboard.is_ready(), 180)
        training.wait_for_reports()
        upgraded = pods()

        keyboard.apply(image=Images.of_tag(OLDER)[0])
        wait_for("all pods are old again", lambda: len(pods()) == 2 and not upgraded & pods(), 180)
        training.wait_for_reports()
        wait_for(f"it is well again: {keyboard.conditions()}", keyboard.is_ready, 120)
        # An older release takes nothing away from a newer one's schema.
        assert release.sql(f"SELECT version_num FROM {schema(release)}.alembic_version") == [REVISION]
        training.check()
        assert training.longest_stall() < 10, "phones had to wait"
    assert target.get("pod", "gridnode-database-0", NAMESPACE)["metadata"]["uid"] == database


def schema(release: Release) -> str:
    """The schema of the only GridNode."""
    [name] = release.sql("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'gn\\_%'")
    return name


def git(*arguments: str) -> bytes:
    """What git prints."""
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=True).stdout
