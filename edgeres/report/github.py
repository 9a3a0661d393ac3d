"""Gate judgement as GitHub Actions workflow commands, which become annotations.

Escapes are those of ``@actions/core``: ``%``, CR and LF in messages, ``:`` and ``,`` as well in properties.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeres.gate.paired_test import Outcome

if TYPE_CHECKING:
    from edgeres.gate.judgement import Judgement

_COMMANDS = {Outcome.PASS: "notice", Outcome.FAIL: "error", Outcome.INCONCLUSIVE: "error"}


def workflow_commands(judgement: Judgement, name: str) -> tuple[str, ...]:
    """One workflow command for the outcome and one for each warning.

    Args:
        judgement: The gate's judgement.
        name: Name of the run, such as ``resnet18-jetson``.
    """
    title = f"edgeres gate: {name} {judgement.outcome.value}"
    verdict = _command(_COMMANDS[judgement.outcome], title, judgement.sentence)
    return (verdict, *(_command("warning", f"edgeres gate: {name}", text) for text in judgement.warnings))


def _command(command: str, title: str, message: str) -> str:
    return f"::{command} title={_property(title)}::{_message(message)}"


def _message(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _message(text).replace(":", "%3A").replace(",", "%2C")
