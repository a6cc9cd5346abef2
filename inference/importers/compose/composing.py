"""`compose`: from tables of users' and items' vectors, and a score of the two, to a version that predicts.

The score is exported as any module is, with small tables in the place of the given ones: so it is traced, cut and
checked by `export_model`. Then the given tables take their place, their files linked, and rows of theirs are checked.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ringpull.inference.export.model import export_model
from ringpull.inference.export.report import CheckReport, ExportReport, TableReport
from ringpull.inference.export.version_folder import new_version, written_beside
from ringpull.inference.export.written_version import TOLERANCE, WrittenVersion, compare, rows_of
from ringpull.inference.importers.compose.given_table import GivenTable
from ringpull.inference.importers.compose.scores import FunctionScore, Similarity, read_score
from ringpull.inference.model.dense_program import ProgramTensor
from ringpull.inference.model.manifest import FileEntry, LookupSpec, Manifest, TableEntry, time_of_now
from ringpull.inference.model.samples import FILE as SAMPLES_FILE
from ringpull.inference.model.samples import RELATIVE_TOLERANCE, Samples
from ringpull.inference.schema.features import Prepared, PreparedFeature
from ringpull.inference.schema.kinds import Feature, IdSequence, Sparse
from ringpull.inference.schema.schema import Schema
from ringpull.inference.schema.transforms import Vocabulary
from ringpull.ps.errors import ExportError, InvalidInput
from ringpull.ps.hashing import keys_of
from ringpull.ps.spec import KeyType
from ringpull.ps.store.base import Base
from ringpull.ps.store.table import Table

USER: Final = "user_id"
INTERESTS: Final = "user_interests"
ITEM: Final = "item_id"
"""Features that a version has; interests by key take the place of the user."""
MAX_INTERESTS: Final = 1024

_STAND_IN_ROWS: Final = 8
_UNKNOWN_SHARE: Final = 8
"""One row of so many of the check has an unknown user, and another an unknown item."""


def compose(
    out_dir: str | Path,
    version: int,
    *,
    user: str | Path,
    item: str | Path,
    score: str | Callable[..., Any] | nn.Module = "dot",
    interests: int | None = None,
    schema: Schema | None = None,
    user_table: str | None = None,
    item_table: str | None = None,
    name: str | None = None,
    quiet: bool = False,
) -> ExportReport:
    """Write a version that scores pairs of user and item by their vectors, and by features of the request.

    Its features are `user_id` and `item_id`, looked up in the tables by their own keys, and those of `schema`. An
    unknown user or item has its table's default vector, and is counted.

    Args:
        out_dir: The model's folder.
        version: Number from 1, which must not exist yet.
        user: Folder of the version that has the users' table, or a model's folder: its newest version.
        item: The same of the items; it may be the same folder, and the same table.
        score: "dot"; "cosine", 0 for a vector of zeros; or a function `f(user (B, D), item (B, D), **features)` of
            torch tensors which returns scores by row, a module that is called so, or what makes such a module.
        interests: Number k of vectors that a user has, of which the nearest scores. Where rows of the users' table are
            k times as long as the items', they lie in the row, one after the other; where they are as long, each has
            a key of its own, and requests send those of a user as `user_interests`, at most k of them.
        schema: Features for `score`, besides.
        user_table: Table in `user`; None: the only one there is.
        item_table: The same of the items.
        name: The model's name; default: the name of `out_dir`.
        quiet: Print no report.

    Raises:
        InvalidInput: A folder, table or option is not valid; the message says what there is.
        CorruptData: A table is damaged.
        ExportError: The vectors do not fit each other or the score, or the score is none that can be served. Nothing is
            written then.
    """
    name = Path(out_dir).resolve().name if name is None else name
    target = new_version(Path(out_dir), name, version)
    plan = _Plan.make(
        GivenTable.find("user", user, user_table), GivenTable.find("item", item, item_table), score, interests, schema
    )
    with written_beside(target) as hidden:
        stand_in = _export(plan, hidden, name)
        manifest, check = _put_together(plan, hidden, stand_in, int(target.name))
    report = ExportReport(
        path=target,
        manifest=manifest,
        tables=tuple(plan.report(entry, stand_in) for entry in manifest.tables),
        kept=stand_in.kept,
        large=stand_in.large,
        check=check,
    )
    if not quiet:
        report.print(Console())
    return report


@dataclass(frozen=True, slots=True, eq=False)
class _Plan:
    """What is put together."""

    user: GivenTable
    item: GivenTable
    score: Similarity | FunctionScore
    interests: int | None
    by_key: bool
    """Whether each interest has a key of its own."""
    schema: Schema
    """All features, as the model takes them."""
    features: tuple[str, ...]
    """Arguments of the schema that the score is given."""

    @classmethod
    def make(
        cls, user: GivenTable, item: GivenTable, given: object, interests: int | None, schema: Schema | None
    ) -> _Plan:
        """Settle what is scored, and by what.

        Raises:
            InvalidInput: An option is not valid.
            ExportError: The vectors do not fit each other.
        """
        same = user.same_as(item)
        if user.entry.spec.name == item.entry.spec.name and not same:
            raise InvalidInput(
                f"{user.folder} and {item.folder} are two tables of the name {user.entry.spec.name!r}; import one under"
                " another name: ringpull import table NAME=SOURCE"
            )
        score = read_score(given)
        dims = user.entry.spec.dim, item.entry.spec.dim
        by_key = _by_key(score, dims, interests)
        own = Schema([*_features(user, item, interests if by_key else None)])
        if schema is not None:
            if taken := [each.name for each in schema.features if each.name in (USER, INTERESTS, ITEM)]:
                raise InvalidInput(f"schema: declares {taken[0]}, which is there; leave it out")
            own = Schema([*own.features, *schema.features])
            _check_used(score, schema)
        made = {} if schema is None else schema.argument_names()
        features = tuple(score.features_of(made)) if isinstance(score, FunctionScore) else ()
        return cls(user, item, score, interests, by_key, own, features)

    @property
    def tables(self) -> dict[str, GivenTable]:
        """The given tables by the name of their stand-ins."""
        return {"user": self.user} if self.user.same_as(self.item) else {"user": self.user, "item": self.item}

    def renamed(self, table: str) -> str:
        """Return the name of the table that a look-up in a table of the stand-in version is of."""
        return self.tables[table].entry.spec.name if table in self.tables else table

    def report(self, entry: TableEntry, stand_in: ExportReport) -> TableReport:
        """Return what people read of one table."""
        spec = entry.spec
        own = next(each for each in stand_in.tables if self.renamed(each.name) == spec.name)
        if all(spec.name != each.entry.spec.name for each in self.tables.values()):
            return own
        kind = "strings" if spec.key_type is KeyType.STRING else "integers"
        default = "zeros" if spec.default is None or not any(spec.default) else "given"
        return replace(
            own,
            name=spec.name,
            rows=entry.rows,
            row_type=spec.row_type.value,
            bytes=entry.bytes,
            keyed_by=f"raw ids, {kind}",
            default=default,
        )


def _by_key(score: Similarity | FunctionScore, dims: tuple[int, int], interests: int | None) -> bool:
    """Return whether interests have keys of their own, after checking that vectors fit."""
    user, item = dims
    if interests is None:
        if isinstance(score, Similarity) and user != item:
            hint = f"; where a user has several vectors in a row, interests={user // item}" if user % item == 0 else ""
            raise ExportError(f"users' vectors have {user} numbers and items' {item}; these have no dot product{hint}")
        return False
    if isinstance(interests, bool) or not isinstance(interests, int) or not 1 <= interests <= MAX_INTERESTS:
        raise InvalidInput(f"interests is {interests!r}; it must be a whole number from 1 to {MAX_INTERESTS}")
    if isinstance(score, FunctionScore):
        raise InvalidInput("interests is for dot and cosine; a function is given the user's row as it is")
    if user not in (item, interests * item):
        raise ExportError(
            f"users' vectors have {user} numbers and items' {item}; with interests={interests} they must have {item},"
            f" each with a key of its own, or {interests * item} in one row"
        )
    return user == item and interests > 1


def _features(user: GivenTable, item: GivenTable, by_key: int | None) -> list[Feature]:
    """Return the features of users and items, as the stand-in takes them."""
    kinds = {KeyType.INT64: "int64", KeyType.UINT64: "uint64", KeyType.STRING: "string"}

    def parts(table: GivenTable) -> dict[str, Any]:
        key_type = table.entry.spec.key_type
        transforms = (_vocabulary(),) if key_type is KeyType.STRING else ()
        return {"dtype": kinds[key_type], "transforms": transforms}

    users: Feature = Sparse(USER, **parts(user))
    if by_key is not None:
        users = IdSequence(INTERESTS, by_key, **parts(user))
    return [users, Sparse(ITEM, **parts(item))]


def _vocabulary() -> Vocabulary:
    return Vocabulary(tuple(f"stand-in {number}" for number in range(_STAND_IN_ROWS - 1)))


def _check_used(score: Similarity | FunctionScore, schema: Schema) -> None:
    if isinstance(score, Similarity):
        raise InvalidInput(
            f"schema: declares {', '.join(each.name for each in schema.features)}, which dot and cosine do not take;"
            " leave it out, or score by a function of yours"
        )


class _StandIn(nn.Module):
    """The score over small tables of random vectors."""

    def __init__(self, plan: _Plan) -> None:
        super().__init__()
        self._by_key = plan.by_key
        self._interests = None if plan.by_key else plan.interests
        self._features = plan.features
        generator = torch.Generator().manual_seed(1)
        for name, table in plan.tables.items():
            weight = torch.randn(_STAND_IN_ROWS, table.entry.spec.dim, generator=generator)
            self.add_module(name, nn.Embedding(weight.shape[0], weight.shape[1], _weight=weight))
        self._of_users, *others = plan.tables
        self._of_items = others[0] if others else self._of_users
        self.score = plan.score

    def forward(self, batch: Mapping[str, Tensor]) -> Any:
        """Return scores of a batch of the schema's arguments."""
        user = getattr(self, self._of_users)(batch[INTERESTS if self._by_key else USER])
        item = getattr(self, self._of_items)(batch[ITEM])
        return self.of_vectors(user, item, batch)

    def of_vectors(self, user: Tensor, item: Tensor, batch: Mapping[str, Tensor]) -> Any:
        """Return scores of vectors that were looked up."""
        if self._by_key:
            return self.score(user, item, batch[f"{INTERESTS}_lengths"])
        if self._interests is not None:
            return self.score(user.view(user.shape[0], self._interests, -1), item)
        return self.score(user, item, **{name: batch[name] for name in self._features})


def _export(plan: _Plan, hidden: Path, name: str) -> ExportReport:
    """Export the stand-in below a version's folder."""
    keys = {
        stand_in: _vocabulary()
        for stand_in, table in plan.tables.items()
        if table.entry.spec.key_type is KeyType.STRING
    }
    module = _StandIn(plan).eval()
    return export_model(module, plan.schema, hidden / "stand-in", 1, keys, name=name, quiet=True)


def _put_together(plan: _Plan, hidden: Path, stand_in: ExportReport, version: int) -> tuple[Manifest, CheckReport]:
    """Put the given tables in the place of the small ones, and check rows of them."""
    made, manifest = stand_in.path, stand_in.manifest
    assert manifest.schema is not None
    assert manifest.program is not None
    assert manifest.samples is not None
    entries = [table.put_into(hidden) for table in plan.tables.values()]
    for entry in manifest.tables:
        if entry.spec.name not in plan.tables:
            if any(entry.spec.name == each.spec.name for each in entries):
                raise InvalidInput(f"the score has a table {entry.spec.name!r}, and so have the vectors; rename one")
            assert entry.path is not None
            (made / entry.path).rename(hidden / entry.path)
            entries.append(entry)
    for part in (manifest.schema, manifest.program):
        (made / part.path).rename(hidden / part.path)
    rows = Samples.from_bytes(manifest.samples.read(made), str(made)).prepared
    shutil.rmtree(hidden / "stand-in")
    manifest = replace(
        manifest,
        version=version,
        created=time_of_now(),
        tables=tuple(entries),
        lookups=tuple(_renamed(plan, each) for each in manifest.lookups),
        samples=None,
    )
    manifest.save(hidden)
    samples, check = _checked(plan, hidden, manifest, rows)
    (hidden / SAMPLES_FILE).write_bytes(samples.to_bytes())
    manifest = replace(manifest, samples=FileEntry.of(hidden, SAMPLES_FILE))
    manifest.save(hidden)
    return manifest, check


def _renamed(plan: _Plan, lookup: LookupSpec) -> LookupSpec:
    """Return a look-up in the given table; padded places of interests, which are left out, are zeros."""
    fill = lookup.fill if lookup.fill is None or lookup.table not in plan.tables else (0.0,) * len(lookup.fill)
    return replace(lookup, table=plan.renamed(lookup.table), fill=fill)


def _checked(plan: _Plan, hidden: Path, manifest: Manifest, rows: Prepared) -> tuple[Samples, CheckReport]:
    """Hold rows of the given tables against the score itself.

    Raises:
        ExportError: They differ.
    """
    assert manifest.schema is not None
    schema = Schema.from_json(manifest.schema.read(hidden))
    version = WrittenVersion(hidden, manifest, schema)
    bases = {name: Base.open(hidden / f"tables/{table.entry.spec.name}") for name, table in plan.tables.items()}
    try:
        served = _with_keys(plan, rows, bases)
        expected, largest = _expected(plan, schema, served, bases)
    finally:
        for base in bases.values():
            base.close()
    found = version.run(version.inputs(served), served.rows)
    if found.keys() == expected.keys():
        worst = compare(found, expected, TOLERANCE * largest, TOLERANCE, "differs from the score's", "the score's")
    else:
        raise ExportError(f"self-check: outputs {', '.join(found)}; the score's are {', '.join(expected)}")

    def tolerance(inputs: list[ProgramTensor]) -> float:
        return RELATIVE_TOLERANCE * largest

    outputs = max(float(np.abs(each[np.isfinite(each)]).max(initial=0.0)) for each in expected.values())
    report = CheckReport(rows=served.rows, largest_difference=worst, largest_output=outputs)
    return version.samples(served, tolerance), report


def _with_keys(plan: _Plan, rows: Prepared, bases: Mapping[str, Base]) -> Prepared:
    """Return rows with ids of the given tables, and some that they lack."""
    generator = np.random.default_rng(7)
    features = dict(rows.features)
    for place, feature in enumerate((INTERESTS if plan.by_key else USER, ITEM)):
        base = bases[list(plan.tables)[min(place, len(plan.tables) - 1)]]
        own = features[feature]
        assert own.ids is not None
        ids = np.zeros(len(own.ids), np.int64)
        if base.rows:
            places = generator.integers(0, base.rows, len(ids))
            ids = keys_of(np.array(base.sections.positions[np.sort(places)])).view(np.int64)
            generator.shuffle(ids)
        ids[place::_UNKNOWN_SHARE] = generator.integers(-(2**62), 2**62, len(ids[place::_UNKNOWN_SHARE]))
        features[feature] = PreparedFeature(rows.rows, ids, own.offsets, own.weights)
    return Prepared(rows.rows, features)


def _expected(
    plan: _Plan, schema: Schema, served: Prepared, bases: Mapping[str, Base]
) -> tuple[dict[str, NDArray[np.float32]], float]:
    """Return the score's own outputs for rows, and the largest number it had on the way."""
    arguments = schema.arguments(served, list(schema.argument_names()))
    batch = {name: torch.from_numpy(np.array(values)) for name, values in arguments.items()}
    users, items = (bases[list(plan.tables)[place]] for place in (0, -1))
    item_ids = served.features[ITEM].ids
    assert item_ids is not None
    item = torch.from_numpy(rows_of(Table(items))(item_ids.view(np.uint64))[0])
    own = served.features[INTERESTS if plan.by_key else USER]
    assert own.ids is not None
    vectors = rows_of(Table(users))(own.ids.view(np.uint64))[0]
    if plan.by_key:
        assert own.offsets is not None
        assert plan.interests is not None
        padded = np.zeros((served.rows, plan.interests, users.spec.dim), np.float32)
        for row, (begin, end) in enumerate(zip(own.offsets[:-1], own.offsets[1:], strict=True)):
            padded[row, : end - begin] = vectors[begin:end]
        vectors = padded
    with torch.no_grad(), _Largest() as largest:
        scores = _StandIn(plan).eval().of_vectors(torch.from_numpy(vectors), item, batch)
    named = scores if isinstance(scores, Mapping) else {"output": scores}
    return {name: each.float().numpy() for name, each in named.items()}, largest.magnitude


class _Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the largest product or sum that torch computes."""

    _COUNTED: Final = ("addmm", "bmm", "linear", "matmul", "mm", "mul", "pow", "square", "sum")

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.magnitude = 1.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor) and out.is_floating_point() and str(func.overloadpacket.__name__) in self._COUNTED:
            finite = out[out.isfinite()].abs()
            self.magnitude = max(self.magnitude, float(finite.max()) if finite.numel() else 0.0)
        return out
