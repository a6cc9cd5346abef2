"""Where requests for models look, and what may not be looked at."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from ringpull.ps.errors import Forbidden, InvalidInput, NotFound, Unavailable
from ringpull.router.control.deployment_spec import PlacedVersion, initial_spec
from ringpull.router.control.model_roots import ModelRoots
from ringpull.router.control.model_search import ModelSearch
from ringpull.router.control.operations import LoadModel, ModelSource, ServeModels
from tests.router.coordinated import version

SPEC = initial_spec(range(2), [version(1)])
THERE = {"/srv/new", "/more/new", "/more/late", "/m"}


class Disk:
    """Folders, and which of them were looked at."""

    def __init__(self) -> None:
        self.read: list[str] = []

    def find(self, source: ModelSource, known: Sequence[PlacedVersion]) -> tuple[PlacedVersion, ...]:
        assert known == SPEC.versions, "what is open may be followed"
        self.read.append(source.folder)
        if source.folder not in THERE:
            raise InvalidInput(f"{source.folder} is not a folder")
        return (version(9, source.folder.rpartition("/")[2]),)


@pytest.fixture
def disk() -> Disk:
    return Disk()


def search(disk: Disk, *roots: str) -> ModelSearch:
    return ModelSearch(disk.find, ModelRoots.of(roots))


def test_only_what_lies_below_the_roots_is_read(disk: Disk) -> None:
    looking = search(disk, "/srv")
    assert looking.all_of(LoadModel(folder="/srv//./new"), SPEC)[""][0].name == "new/9"
    for folder in ("/more/new", "/srv/../more/new", "s3://bucket/new"):
        with pytest.raises(Forbidden, match=r"folders that this deployment takes models from \(/srv\)"):
            looking.all_of(LoadModel(folder=folder), SPEC)
    assert disk.read == ["/srv/new"]


def test_a_bare_name_is_looked_for_below_every_root(disk: Disk) -> None:
    looking = search(disk, "/srv", "/more")
    assert looking.all_of(LoadModel(folder="late"), SPEC)[""][0].name == "late/9"
    assert disk.read == ["/srv/late", "/more/late"]
    with pytest.raises(NotFound, match="no model in a folder 'none': /srv/none is not a folder; /more/none is"):
        looking.all_of(LoadModel(folder="none"), SPEC)
    with pytest.raises(NotFound, match="takes models from no folder"):
        ModelSearch(disk.find, None).all_of(LoadModel(folder="none"), SPEC)
    with pytest.raises(Forbidden):
        looking.all_of(LoadModel(folder=".."), SPEC)


def test_a_served_model_is_looked_for_where_it_is_wherever_that_lies(disk: Disk) -> None:
    looking = search(disk, "/srv")
    request = ServeModels(models=(ModelSource(name="m"), ModelSource(name="new", folder="/srv/new")))
    assert {name: found[0].name for name, found in looking.all_of(request, SPEC).items()} == {
        "m": "m/9",
        "new": "new/9",
    }
    folder = SPEC.versions[0].models_folder
    for named in (folder, f"{folder}/", f"{folder}//", f"/{folder}/./"[1:]):  # however clients write it
        there = ServeModels(models=(ModelSource(name="m", folder=named),))
        assert looking.all_of(there, SPEC)["m"][0].name == "m/9"
    with pytest.raises(Forbidden):
        looking.all_of(ServeModels(models=(ModelSource(name="m", folder=f"{folder}/../m"),)), SPEC)
    with pytest.raises(InvalidInput, match="model late is not served here, so its folder must be given"):
        looking.all_of(ServeModels(models=(ModelSource(name="late"),)), SPEC)


def test_a_root_that_cannot_be_read_hides_no_other(disk: Disk) -> None:
    def find(source: ModelSource, known: Sequence[PlacedVersion]) -> tuple[PlacedVersion, ...]:
        if source.folder.startswith("/srv"):
            raise Unavailable("/srv: the disk is away")
        return disk.find(source, known)

    looking = ModelSearch(find, ModelRoots.of(["/srv", "/more"]))
    assert looking.all_of(LoadModel(folder="late"), SPEC)[""][0].name == "late/9"
    with pytest.raises(Unavailable, match="'none' cannot be looked for now: /srv: the disk is away; /more/none is not"):
        looking.all_of(LoadModel(folder="none"), SPEC)


def test_a_load_by_name_of_a_served_model_is_looked_for_where_it_is(disk: Disk) -> None:
    assert search(disk, "/srv").all_of(LoadModel(folder="m", model="m"), SPEC)["m"][0].name == "m/9"
    assert disk.read == ["/m"]
