"""Images for an end-to-end test, built with buildah: GridNode's own from its Dockerfiles, and what else a cluster runs.

No registry is needed. The Dockerfiles' base is made by debootstrap, once per machine; all layers are kept in
``end-to-end/images`` of the cache.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from gridnode.db.embedded_programs import Programs
from tests.support.real_cluster.programs import cache, program

ROOT = Path(__file__).parents[3]
HERE = Path(__file__).parent / "images"
RUNTIME = "docker.io/library/python:3.11-slim-bookworm"
BUILDER = "docker.io/library/python:3.11-bookworm"
PYTHON = "python3.11,python3.11-venv,python3-venv,ca-certificates"
PAUSE = "localhost/pause:1"
COREDNS = "localhost/coredns:1"
POSTGRES = "localhost/postgres:18"
PROMETHEUS = "localhost/prometheus:1"

_PIP_CONFIGS = ("~/.config/pip/pip.conf", "~/.pip/pip.conf", "/etc/pip.conf")
_CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"


class ImageFailed(AssertionError):
    """An image could not be built; holds the end of what buildah said."""


class Images:
    """Builds images into a store that outlives the test run."""

    def __init__(self) -> None:
        self._folder = cache("end-to-end")
        configuration = self._folder / "containers.conf"
        # Root may lack the right to raise limits above its own.
        configuration.write_text('[containers]\ndefault_ulimits = ["nofile=20000:20000", "nproc=4096:4096"]\n')
        self._environment = {**os.environ, "CONTAINERS_CONF": str(configuration), "BUILDAH_RUNTIME": "runc"}

    def gridnode(self, tag: str, source: Path = ROOT) -> list[str]:
        """GridNode's two images from a source tree, node first."""
        self._python_base()
        built = self.of_tag(tag)
        for image, name in zip(built, ("node", "operator"), strict=True):
            secrets = [f"--secret=id=pip.conf,src={self._pip_config()}"]
            if Path(_CERTIFICATES).exists():
                secrets.append(f"--secret=id=ca-bundle,src={_CERTIFICATES}")
            self._build(image, source / f"Dockerfile.{name}", source, secrets)
        return built

    @staticmethod
    def of_tag(tag: str) -> list[str]:
        """The names of GridNode's images, node first."""
        return [f"docker.io/gridnode/{name}:{tag}" for name in ("node", "operator")]

    def pause(self) -> str:
        """What holds a pod's namespaces."""
        files = {"pause": Path("/usr/bin/catatonit")}
        return self._of_files(PAUSE, 'FROM scratch\nCOPY pause /pause\nENTRYPOINT ["/pause", "-P"]\n', files)

    def coredns(self) -> str:
        """Cluster DNS."""
        recipe = 'FROM scratch\nCOPY coredns /coredns\nENTRYPOINT ["/coredns"]\n'
        return self._of_files(COREDNS, recipe, {"coredns": program("coredns")})

    def postgres(self) -> str:
        """The embedded PostgreSQL of the tests, in an image that behaves as the official one does to the chart."""
        self._python_base()
        programs = Programs.find().bin_dir.parent
        # Programs look for their libraries beside the package that they are in.
        libraries = programs.parent.with_name(f"{programs.parent.name}.libs")
        there = f"/opt/{programs.parent.name}/{programs.name}"
        recipe = (
            f"FROM {RUNTIME}\nCOPY programs {there}\nCOPY libraries /opt/{libraries.name}\n"
            f"COPY entrypoint.sh /entrypoint.sh\nRUN echo 'postgres:x:999:999::/tmp:/bin/sh' >> /etc/passwd\n"
            # Else it would wait for its clients to go.
            f'STOPSIGNAL SIGINT\nENV PATH={there}/bin:/usr/bin:/bin\nENTRYPOINT ["/bin/sh", "/entrypoint.sh"]\n'
        )
        files = {"programs": programs, "libraries": libraries, "entrypoint.sh": HERE / "postgres" / "entrypoint.sh"}
        return self._of_files(POSTGRES, recipe, files)

    def prometheus(self) -> str:
        """Debian's Prometheus."""
        self._python_base()
        recipe = f'FROM {RUNTIME}\nCOPY prometheus /usr/bin/prometheus\nENTRYPOINT ["/usr/bin/prometheus"]\n'
        return self._of_files(PROMETHEUS, recipe, {"prometheus": Path("/usr/bin/prometheus")})

    def tag(self, image: str, other: str) -> str:
        """Give an image another name."""
        self._buildah("tag", image, other)
        return other

    def archive(self, image: str, path: Path) -> None:
        """Write an image as a file that docker, kind, k3s, containerd and skopeo read."""
        path.unlink(missing_ok=True)
        self._buildah("push", "--quiet", image, f"docker-archive:{path}:{image}")

    def _python_base(self) -> None:
        """What the Dockerfiles begin with, of this system's own packages."""
        for image, packages in ((RUNTIME, PYTHON), (BUILDER, f"{PYTHON},binutils")):
            if self._has(image):
                continue
            print(f"Making {image} with debootstrap (once, about a minute) …", file=sys.stderr, flush=True)
            with tempfile.TemporaryDirectory() as folder:
                tree, tar = Path(folder) / "root", Path(folder) / "root.tar"
                _run(["debootstrap", "--variant=minbase", f"--include={packages}", "bookworm", str(tree)])
                _run(["tar", "--create", f"--file={tar}", f"--directory={tree}", "--exclude=./var/cache/*", "."])
                shutil.rmtree(tree)
                self._of_files(image, "FROM scratch\nADD root.tar /\n", {"root.tar": tar})

    def _has(self, image: str) -> bool:
        found = self._buildah("images", "--quiet", "--filter", f"reference={image}", must_succeed=False)
        return bool(found.strip())

    def _of_files(self, image: str, recipe: str, files: Mapping[str, Path]) -> str:
        with tempfile.TemporaryDirectory() as folder:
            for name, source in files.items():
                if source.is_dir():
                    shutil.copytree(source, Path(folder) / name, symlinks=True)
                else:
                    shutil.copy(source, Path(folder) / name)
            (Path(folder) / "Containerfile").write_text(recipe)
            self._build(image, Path(folder) / "Containerfile", Path(folder))
        return image

    def _build(self, image: str, recipe: Path, context: Path, more: Sequence[str] = ()) -> None:
        self._buildah(
            "bud", "--format=docker", "--pull-never", "--network=host", "--layers", *more,
            f"--file={recipe}", f"--tag={image}", str(context),
        )  # fmt: skip

    def _buildah(self, *arguments: str, must_succeed: bool = True) -> str:
        store = self._folder / "images"
        command = ["buildah", f"--root={store}/storage", f"--runroot={store}/run", "--storage-driver=overlay"]
        return _run([*command, *arguments], self._environment, must_succeed=must_succeed)

    def _pip_config(self) -> Path:
        """The package index of whoever builds; an empty file where there is none."""
        given = os.environ.get("PIP_CONFIG_FILE")
        for candidate in filter(None, (given, *_PIP_CONFIGS)):
            if Path(candidate).expanduser().exists():
                return Path(candidate).expanduser()
        empty = self._folder / "pip.conf"
        empty.touch()
        return empty


def _run(command: Sequence[str], environment: Mapping[str, str] | None = None, *, must_succeed: bool = True) -> str:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode and must_succeed:
        said = (done.stdout + done.stderr)[-4000:]
        raise ImageFailed(f"{' '.join(command)} ended with {done.returncode}:\n{said}")
    return done.stdout
