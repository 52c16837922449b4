"""What the server does by itself: it notices runs that died without a word, and tells people.

`python -m flows.automations --notify slack-webhook/alerts` sets up, at the server that
PREFECT_API_URL names, what is to happen when a run fails, crashes, or brings a new champion.
Running it again replaces what it set up before.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from datetime import timedelta

from prefect.automations import (
    Automation,
    CallWebhook,
    ChangeFlowRunState,
    EventTrigger,
    Posture,
    SendNotification,
)
from prefect.blocks.abstract import NotificationBlock
from prefect.blocks.core import Block
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.settings import get_current_settings

from secateur.errors import InputError
from tasks.command import MISTAKE
from tasks.monitoring import PROMOTED

FLOWS = ("compress", "refresh", "study")
PREFIX = "secateur: "
HEARTBEAT = "prefect.flow-run.heartbeat"
SECONDS_OF_SILENCE = 90  # of three heartbeats, as often as pyproject.toml asks for them
OURS = {"prefect.resource.role": "flow", "prefect.resource.name": list(FLOWS)}


def main(words: Sequence[str] | None = None) -> int:
    """Set up what the command line asks for; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.automations",
        description="Let Prefect's server notice runs that died without a word and, if asked, "
        "tell of failed runs and of new champions.",
    )
    parser.add_argument(
        "--notify", metavar="TYPE/NAME",
        help="the block that takes messages, such as slack-webhook/alerts: a notification block, "
        "or a webhook that is sent them as JSON",
    )  # fmt: skip
    asked = parser.parse_args(words)
    try:
        for name in set_up(asked.notify):
            sys.stdout.write(f"{name}\n")
    except InputError as error:
        sys.stderr.write(f"error: {error}\n")
        return MISTAKE
    return 0


def set_up(block: str | None = None) -> list[str]:
    """Make the automations, in place of those made before, and return their names.

    Args:
        block: the slug of a block that takes messages, `type/name`; None leaves out what needs it.

    Raises:
        InputError: no server is named, or there is no such block, or it takes no messages.
    """
    if not get_current_settings().api.url:
        raise InputError(
            "PREFECT_API_URL names no server; `make ui` serves one at http://127.0.0.1:4200/api"
        )
    wanted = [_silent_runs()]
    if block is not None:
        wanted += _messages(_find_block(block))
    with get_client(sync_client=True) as client:
        for automation in wanted:
            for known in client.read_automations_by_name(automation.name):
                client.delete_automation(known.id)
    for automation in wanted:
        automation.create()
    return [automation.name for automation in wanted]


def _silent_runs() -> Automation:
    """Runs whose process is gone without having said so: after a power cut, say.

    They would count as running forever, and keep the runs that come after them from starting.
    """
    return Automation(
        name=f"{PREFIX}crashed without a word",
        trigger=EventTrigger(
            after={HEARTBEAT},
            expect={"prefect.flow-run.*"},  # the next heartbeat, or whatever it came to
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related=OURS,
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=SECONDS_OF_SILENCE),
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED,
                message=f"Nothing was heard of it for {SECONDS_OF_SILENCE} s: its process is gone",
            )
        ],
    )


def _messages(block: Block) -> Iterator[Automation]:
    yield Automation(
        name=f"{PREFIX}tell of failed and crashed runs",
        trigger=EventTrigger(
            expect={f"prefect.flow-run.{end}" for end in ("Failed", "Refused", "Crashed")},
            match={"prefect.resource.id": "prefect.flow-run.*"},
            match_related=OURS,
            posture=Posture.Reactive,
            threshold=1,
        ),
        actions=[
            _tell(
                block,
                "{{ flow.name }} {{ flow_run.state.name | lower }}: {{ flow_run.name }}",
                "{{ flow_run.state.message }}\n{{ flow_run | ui_url }}",
            )
        ],
    )
    yield Automation(
        name=f"{PREFIX}tell of promotions",
        trigger=EventTrigger(expect={PROMOTED}, posture=Posture.Reactive, threshold=1),
        actions=[
            _tell(
                block,
                "New champion in {{ event.resource.name }}",
                "{{ event.payload.message }}",
            )
        ],
    )


def _tell(block: Block, subject: str, body: str) -> SendNotification | CallWebhook:
    identity = block._block_document_id
    assert identity is not None  # it was loaded
    if isinstance(block, NotificationBlock):
        return SendNotification(block_document_id=identity, subject=subject, body=body)
    message = '{{ {"subject": subject, "body": body} | tojson }}'
    return CallWebhook(
        block_document_id=identity,
        payload=f"{{% set subject %}}{subject}{{% endset %}}{{% set body %}}{body}{{% endset %}}"
        + message,
    )


def _find_block(slug: str) -> Block:
    try:
        block = Block.load(slug)
    except ValueError as error:
        raise InputError(f"there is no block {slug!r}: {error}") from None
    if not isinstance(block, NotificationBlock | Webhook):
        raise InputError(
            f"{slug} takes no messages, allowed: a notification block, or a webhook. Make one in "
            "the UI under Blocks"
        )
    return block


if __name__ == "__main__":
    sys.exit(main())
