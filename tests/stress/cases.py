"""Define a malformed input, what a script should do with it, and the verdict.

case = Case("setid_cut", "train", ["--config.data.dir={folder}"], "refused", "setid.mat")
verdict = judge(case, completed, problem="")
"""

import dataclasses
import pathlib
import re
from collections.abc import Callable, Sequence

from tests.harness import Completed
from tests.stress.world import World

# {verdict: what it says}. All but the first are failures.
VERDICTS = {
    # A list of defects has a line for each.
    "correct": "accepted with the correct result, or refused by name",
    "accepted_wrong": "status 0 or 3 with a wrong result",
    "refused_wrong": "a valid input was refused",
    "traceback": "a traceback, or the interpreter crashed",
    "unnamed": "refused without the name of the file or value",
    "code_executed": "code from the input was executed",
    "hang": "the time limit was reached",
}
MARKER = "code_was_executed"  # what a hostile input would create in its folder

Check = Callable[[Completed, pathlib.Path, World], None]


@dataclasses.dataclass(frozen=True)
class Case:
    """An input for a script.

    Attributes:
      name: name of the case in its kind.
      script: name of the script.
      arguments: its command line; {folder} is the folder of the case, {world} that of
        the intact things.
      expect: "refused", "accepted" or "either".
      names: a regular expression that the error line has to match.
      prepare: writes the input into the folder of the case.
      check: raises an AssertionError if the result of an accepted input is wrong.
    """

    name: str
    script: str
    arguments: Sequence[str]
    expect: str
    names: str = ""
    prepare: Callable[[pathlib.Path, World], object] = lambda folder, world: None
    check: Check = lambda completed, folder, world: None

    def command(self, folder: pathlib.Path, world: World) -> list[str]:
        """Return the arguments with the folders filled in."""
        return [
            text.replace("{folder}", str(folder)).replace("{world}", str(world.folder))
            for text in map(str, self.arguments)
        ]


def error_text(stderr: str) -> str:
    """Return what a script said when it failed: from `scripts.NAME:` to the end."""
    found = re.search(r"^scripts\.\w+: .*", stderr, re.MULTILINE | re.DOTALL)
    if found:
        return found[0].strip()
    skipped = re.findall(r"^skipped: .*", stderr, re.MULTILINE | re.DOTALL)
    return skipped[-1].strip() if skipped else ""


def error_lines(stderr: str) -> list[str]:
    """Return the lines of `error_text`, without what progress bars leave behind."""
    plain = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", error_text(stderr))
    return [line for line in plain.splitlines() if line.strip()]


def judge(case: Case, completed: Completed, problem: str) -> tuple[str, str]:
    """Return (verdict, reason).

    Args:
      case: the case.
      completed: what its script left.
      problem: what `case.check` found; empty if the result is correct.
    """
    if "Traceback (most recent call last)" in completed.stderr:
        return "traceback", completed.stderr.strip().splitlines()[-1]
    status, text = completed.returncode, error_text(completed.stderr)
    accepted = status == 0 or (status == 3 and completed.stdout.strip())
    if accepted and (status == 0 or case.expect == "accepted"):
        if case.expect == "refused":
            return "accepted_wrong", "status 0; expected to be refused"
        return ("accepted_wrong", problem) if problem else ("correct", "")
    if case.expect == "accepted":
        return "refused_wrong", text or f"status {status}"
    if not text or not re.search(case.names, text, re.IGNORECASE):
        return "unnamed", f"expected {case.names!r} in: {text or f'status {status}'}"
    return "correct", ""
