"""`step-clock`: `ringpull status` looks at the deployment while its clock says another time, as after a correction by
NTP or on a machine that was suspended. Only that one process sees the step: see `programs/stepped_clock.py`.

Promised: every answer; that `status` finds the deployment; and that nothing of it is removed, neither its record nor a
folder that the record names. There is nothing to undo.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from ringpull.loadtest.chaos.kinds.scene import Injected, Scene
from ringpull.loadtest.chaos.schedule import Fault
from ringpull.loadtest.chaos.serving import CommandFailed, run_program

STEPS_S: Final = (-86_400.0, -5.0, 2.0, 3_600.0)
"""Steps of the clock: a day and a few seconds back, a moment and an hour on."""


async def step_clock(scene: Scene, fault: Fault, injected: Injected) -> None:
    """Look at the deployment from a process whose clock was stepped."""
    step_s = STEPS_S[int(fault.pick * len(STEPS_S))]
    before = remains(scene.folders.records)
    injected()
    words = ("ringpull.loadtest.chaos.kinds.programs.stepped_clock", str(step_s), "status", "--json")
    try:
        await run_program(*words, environment={"RINGPULL_STATE_DIR": str(scene.folders.records)})
    except CommandFailed as exc:
        scene.broke(f"with its clock stepped by {step_s:g} s: {exc}")
    gone = sorted(str(path) for path in before if not path.exists())
    if gone:
        scene.broke(f"ringpull status, with its clock stepped by {step_s:g} s, removed {', '.join(gone)}")
    await scene.health.wait()


def remains(records: Path) -> set[Path]:
    """Return what a deployment's records name, and the records themselves, as far as it is there."""
    found = set[Path]()
    for record in records.glob("served/*.json"):
        named = json.loads(record.read_text(encoding="utf-8")).values()
        found |= {record, *(Path(value) for value in named if isinstance(value, str) and value.startswith("/"))}
    return {path for path in found if path.exists()}
