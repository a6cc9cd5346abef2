"""Interest in books by logistic regression over PMML: 24,915 book ids in one field, one weight each.

    python -m examples.pmml_interest models

writes `models/interest.pmml`, as exporters of sklearn's and R's regressions write it, and `models/pmml_interest/1`,
what the import makes of it: the weights of the books are a table of dim 1, the rest is a dense program. In the shell
the second step is

    ringpull import pmml models/interest.pmml models/pmml_interest

It learns from Amazon's readers and books where RINGPULL_DATA names a folder with `amazonbook_kgat`, else from pairs
that it makes. A book that the model never saw weighs nothing.
"""

from __future__ import annotations

import os
import sys
from itertools import islice
from pathlib import Path
from typing import Final
from xml.sax.saxutils import quoteattr

import numpy as np
from numpy.typing import NDArray

from ringpull.inference.errors import RingpullError
from ringpull.inference.importers.pmml.model import import_pmml

DATA: Final = "amazonbook_kgat"
READERS: Final = 20_000
STEPS: Final = 10


def read_pairs() -> tuple[list[str], NDArray[np.int64], NDArray[np.int64]]:
    """Return the names of books, and the book and the number of its reader's books of each pair."""
    folder = Path(os.environ.get("RINGPULL_DATA", "")) / DATA
    if not (folder / "train.txt").is_file():
        random = np.random.default_rng(1)
        drawn = (random.random(60_000) ** 3 * 12_000).astype(np.int64)
        return [f"B{each:09}" for each in range(12_000)], drawn, random.integers(1, 200, len(drawn))
    names = [line.split()[0] for line in (folder / "item_list.txt").read_text(encoding="utf-8").splitlines()[1:]]
    with (folder / "train.txt").open(encoding="utf-8") as lines:
        readers = [line.split()[1:] for line in islice(lines, READERS)]
    books = np.array([book for reader in readers for book in reader], np.int64)
    activity = np.array([len(reader) for reader in readers], np.int64)
    return names, books, np.repeat(activity, activity)


def train(
    books: NDArray[np.int64], activity: NDArray[np.int64], names: int
) -> tuple[NDArray[np.float64], float, float]:
    """Return the weight of each book, that of the reader's activity, and the intercept: pairs against drawn ones."""
    drawn = np.random.default_rng(2).integers(0, names, len(books))
    book, log = np.concatenate([books, drawn]), np.log1p(np.concatenate([activity, activity]))
    read = np.repeat([1.0, 0.0], len(books))
    weights, slope, intercept = np.zeros(names), 0.0, 0.0
    seen = np.maximum(np.bincount(book, minlength=names), 1)
    for _ in range(STEPS):
        error = read - 1 / (1 + np.exp(-(weights[book] + slope * log + intercept)))
        weights += 4 * np.bincount(book, error, names) / (seen + 1)
        slope, intercept = slope + 0.1 * float(np.mean(error * log)), intercept + 0.1 * float(np.mean(error))
    return weights, slope, intercept


def document(names: list[str], weights: NDArray[np.float64], slope: float, intercept: float) -> str:
    """Return the model as PMML."""
    values = "\n".join(f"<Value value={quoteattr(name)}/>" for name in names)
    terms = "\n".join(
        f'<CategoricalPredictor name="book" value={quoteattr(name)} coefficient="{weight!r}"/>'
        for name, weight in zip(names, weights.tolist(), strict=True)
    )
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<PMML xmlns="http://www.dmg.org/PMML-4_4" version="4.4">
<Header><Application name="examples.pmml_interest"/></Header>
<DataDictionary>
<DataField name="read" optype="categorical" dataType="string"><Value value="no"/><Value value="yes"/></DataField>
<DataField name="activity" optype="continuous" dataType="double"/>
<DataField name="book" optype="categorical" dataType="string">
{values}
</DataField>
</DataDictionary>
<TransformationDictionary>
<DerivedField name="log(activity)" optype="continuous" dataType="double">
<Apply function="ln1p"><FieldRef field="activity"/></Apply>
</DerivedField>
</TransformationDictionary>
<RegressionModel functionName="classification" normalizationMethod="logit">
<MiningSchema>
<MiningField name="read" usageType="target"/>
<MiningField name="activity" missingValueReplacement="1"/>
<MiningField name="book" invalidValueTreatment="asMissing"/>
</MiningSchema>
<RegressionTable intercept="{intercept!r}" targetCategory="yes">
<NumericPredictor name="log(activity)" coefficient="{slope!r}"/>
{terms}
</RegressionTable>
<RegressionTable intercept="0" targetCategory="no"/>
</RegressionModel>
</PMML>
"""


def write(folder: Path) -> Path:
    """Write the document and what is imported of it; return the version's folder.

    Raises:
        RingpullError: The version is there already.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names, books, activity = read_pairs()
    file = folder / "interest.pmml"
    file.write_text(document(names, *train(books, activity, len(names))), encoding="utf-8")
    return import_pmml(file, folder / "pmml_interest", 1).path


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m examples.pmml_interest FOLDER")
    try:
        print(f"serve it with: ringpull serve {write(Path(sys.argv[1])).parent}")
    except RingpullError as exc:
        sys.exit(f"pmml_interest: {exc}")
