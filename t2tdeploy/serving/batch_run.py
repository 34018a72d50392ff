"""A batch under way."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic

from t2tdeploy.runtime import Interrupt
from t2tdeploy.serving.batcher import Item
from t2tdeploy.serving.waiting import WaitingRow
from t2tdeploy.serving.work import Key, Result, Row


@dataclass(eq=False)
class BatchRun(Generic[Row, Key, Result]):
    """A batch that a worker has taken.

    Attributes:
        started: when, on the clock of the event loop.
        others_waited: it left some behind: for want of room or of its leader's time, or they have another key.
        alone: see `Work.run`.
        divided: it failed, and its halves run in its place.
    """

    batch: list[Item[Key, WaitingRow[Row, Result]]]
    started: float
    others_waited: bool
    alone: bool
    divided: bool = False
    interrupt: Interrupt = field(default_factory=Interrupt)

    def stop_if_unwanted(self) -> None:
        """Ends it if nobody waits for any of its rows any more."""
        if all(item.content.unwanted for item in self.batch):
            self.interrupt.stop()
