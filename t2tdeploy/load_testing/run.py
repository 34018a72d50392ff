"""A whole load test: one or several loads on one server, one after the other."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from t2tdeploy.decoding import BUNDLE_DEFAULTS, TranslateOptions
from t2tdeploy.load_testing.generator import Target, measure
from t2tdeploy.load_testing.plan import Plan, Shape, request_messages
from t2tdeploy.load_testing.tally import Measured
from t2tdeploy.machine import cpu_model
from t2tdeploy.progress import Reporter
from t2tdeploy.runtime import available_cpus
from t2tdeploy.serving.channel import PLAIN, Security


@dataclass(frozen=True)
class Asked:
    """What requests hold.

    Args:
        sources: sentences, taken in turn.
        model: name; empty: the server's only one.
        model_version: its number or content; empty: the newest.
    """

    sources: Sequence[str]
    sentences_per_request: int = 1
    model: str = ""
    model_version: str = ""
    options: TranslateOptions = BUNDLE_DEFAULTS


@dataclass(frozen=True)
class Report:
    """All that was measured.

    Args:
        model, version: that answered.
        cpu, cpus: of the machine of the load generator, which may be another than the server's.
    """

    server: str
    model: str
    version: str
    date: str
    cpu: str
    cpus: int
    plan: Plan
    asked: Asked
    measured: list[Measured]

    def record(self) -> dict[str, Any]:
        """For JSON."""
        options = {name: value for name, value in asdict(self.asked.options).items() if value not in (None, False, ())}
        return {
            "server": self.server,
            "model": self.model,
            "version": self.version,
            "date": self.date,
            "generator": {"cpu": self.cpu, "cpus": self.cpus},
            "plan": asdict(self.plan),
            "sentences": len(self.asked.sources),
            "sentences_per_request": self.asked.sentences_per_request,
            "options": options,
            "measurements": [one.record() for one in self.measured],
        }


async def load_test(
    server: str,
    asked: Asked,
    shapes: Sequence[Shape],
    plan: Plan,
    reporter: Reporter,
    security: Security = PLAIN,
) -> Report:
    """Puts each of `shapes` on the server, after finding out that it answers such requests.

    Raises:
        ServerError: nothing answers there.
        UserError: it has no such model, or does not take such requests.
        InputError: there is no sentence.
    """
    messages = request_messages(
        asked.sources,
        asked.sentences_per_request,
        model=asked.model,
        model_version=asked.model_version,
        options=asked.options,
    )
    measured = []
    async with Target(server, connections=plan.connections, deadline=plan.deadline, security=security) as target:
        model, version = await target.try_out(messages[0])
        for number, shape in enumerate(shapes):
            measured.append(
                await measure(target.ask, messages, shape, replace(plan, seed=plan.seed + number), reporter)
            )
    return Report(
        server=server,
        model=model,
        version=version,
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        cpu=cpu_model(),
        cpus=available_cpus(),
        plan=plan,
        asked=asked,
        measured=measured,
    )
