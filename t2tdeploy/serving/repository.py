"""The models of a server: loaded, replaced while they serve, and found by name and version.

A new version is read, checked, loaded and warmed up beside the old one; then requests go to the new one, and the old
one leaves when its last request is answered. A version that cannot be loaded is reported and changes nothing: what
served goes on. Both are in memory for that time.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from t2tdeploy.bundle import load_bundle
from t2tdeploy.errors import InputError, RequestError, T2TDeployError, UnknownNameError, UnreadableError
from t2tdeploy.progress import Reporter
from t2tdeploy.serving.aliases import Aliases
from t2tdeploy.serving.bundle_source import BundleSource, Found, label_of
from t2tdeploy.serving.compute_slots import ComputeSlots
from t2tdeploy.serving.options import ServerOptions
from t2tdeploy.serving.scheduler import UnavailableError
from t2tdeploy.serving.served_model import LoadedModel, ServedModel, load_model
from t2tdeploy.serving.version_states import Broken, ModelEntry
from t2tdeploy.targets import require_runnable

logger = logging.getLogger("t2tdeploy.serving")


class ModelRepository:
    """The models of a server, on the running event loop.

    Args:
        changed: called after every change of what is served.
        loaded: called with every model before it serves.
    """

    def __init__(
        self,
        source: BundleSource,
        options: ServerOptions,
        reporter: Reporter,
        changed: Callable[[], None] = lambda: None,
        loaded: Callable[[ServedModel], None] = lambda model: None,
    ) -> None:
        self._announce = loaded
        self._source, self._options, self._reporter, self._changed = source, options, reporter, changed
        self._policy, self._aliases = options.version_policy, Aliases(options.aliases_by_name())
        self._served: dict[str, dict[int, ServedModel]] = {}
        self._broken: dict[tuple[str, int], Broken] = {}
        self._loading: set[tuple[str, int]] = set()
        self._unloaded: set[str] = set()  # by request: a look at the disk does not bring them back
        self._missing: set[tuple[str, int]] = set()  # from the disk, at the last look
        self._retiring: dict[asyncio.Task[None], ServedModel] = {}
        self._batches_of_retired = 0
        self._cpus, self._gpus = ComputeSlots(options.batches_at_once), ComputeSlots(options.workers or 1)
        self._lock = asyncio.Lock()
        self._to_load: dict[str, asyncio.Task[None]] = {}  # by request, not begun yet: who asks meanwhile joins
        self._loads: set[asyncio.Task[None]] = set()  # those, and what has begun

    @property
    def batches(self) -> int:
        """Batches run so far, also by models that have left; the warm-up not counted."""
        models = {*self.models(), *self._retiring.values()}
        return self._batches_of_retired + sum(model.scheduler.batches for model in models)

    async def start(self) -> None:
        """Loads what the source has.

        Raises:
            InputError: it has nothing that may be served, or an alias is the name of a model.
            UnknownNameError: an alias names a model or a version that is not there.
            UnreadableError: it cannot be looked at.
            T2TDeployError: a bundle cannot be loaded, and the source is strict or nothing else is there.
        """
        async with self._lock:
            found = await asyncio.to_thread(self._source.scan)
            if not found:
                raise InputError("there is no bundle to serve", help="a repository holds NAME/1, NAME/2, …")
            self._aliases.require_targets([(one.name, one.number) for one in found])
            for name in sorted({one.name for one in found}):
                await self._refresh([one for one in found if one.name == name])
        errors = [broken.error for broken in self._broken.values()]
        if errors and (self._source.strict or not self._served):
            raise errors[0]
        if not self._served:
            numbers = ", ".join(one.label for one in found)
            raise InputError(
                f"versions = {self._options.versions} takes none of what is there: {numbers}",
                help="choose other versions",
            )

    async def poll(self) -> None:
        """Looks at the disk once: loads what is new or changed, unloads what is gone.

        A folder counts as gone when it is missing twice in a row, so that one which is replaced is not unloaded
        in between. Of a model whose folder cannot be looked into, nothing counts as gone.

        Raises:
            UnreadableError: the source cannot be looked at; nothing has changed.
        """
        async with self._lock:
            found = await asyncio.to_thread(self._source.scan)
            present = {(one.name, one.number) for one in found}
            closed = {one.name for one in found if not one.number}
            missing = {(one.name, one.number) for one in self.models() if one.name not in closed} - present
            for name, number in sorted(missing & self._missing):
                self._retire(self._served[name].pop(number))
            self._missing = missing
            self._broken = {
                key: broken for key, broken in self._broken.items() if key in present or (key[0] in closed and key[1])
            }
            for name in sorted({one.name for one in found} - self._unloaded):
                await self._refresh([one for one in found if one.name == name])

    async def poll_forever(self, seconds: float) -> None:
        """`poll`, every so many seconds, until it is cancelled."""
        while True:
            await asyncio.sleep(seconds)
            try:
                await self.poll()
            except UnreadableError as error:
                logger.error("the bundles on disk could not be looked at: %s", error.message)
            except Exception:  # a disk that is away for a moment must not end the polling
                logger.exception("the bundles on disk could not be looked at")

    async def load(self, name: str) -> None:
        """Loads what is new of a model, or a model that was unloaded, and tries again what could not be loaded.

        Goes on if it is cancelled: who has no patience finds the model loaded at another try.

        Raises:
            UnknownNameError: the source has no such model.
            UnavailableError: its newest version cannot be loaded, the source not be looked at, or the server stops; the
                reason is told.
        """
        if name not in self._to_load:
            task = asyncio.create_task(self._load_asked(name))
            self._loads.add(task)
            task.add_done_callback(self._loads.discard)
            task.add_done_callback(lambda task: task.cancelled() or task.exception())  # nobody may be left to tell
            self._to_load[name] = task
        task = self._to_load[name]
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise UnavailableError(f"{name} cannot be loaded: the server is stopping") from None
            raise

    async def _load_asked(self, name: str) -> None:
        async with self._lock:
            del self._to_load[name]
            try:
                every = await asyncio.to_thread(self._source.scan)
            except UnreadableError as error:
                raise UnavailableError(f"{name} cannot be loaded: {error.message}") from error
            found = [one for one in every if one.name == name]
            if not found:
                raise UnknownNameError("model", name, {one.name for one in every})
            for key in [key for key in self._broken if key[0] == name]:
                del self._broken[key]
            await self._refresh(found)
            self._unloaded.discard(name)
            newest = self._policy.candidates(one.number for one in found)[:1]
        for number in [0, *newest]:  # 0: the model's folder
            if broken := self._broken.get((name, number)):
                raise UnavailableError(f"{label_of(name, number)} cannot be loaded: {broken.reason}")

    async def unload(self, name: str) -> None:
        """Serves a model no longer, until `load`; its accepted requests are answered.

        Raises:
            UnknownNameError: no such model is served.
        """
        async with self._lock:
            if name not in self._served:
                raise UnknownNameError("model", name, self._served)
            self._unloaded.add(name)
            for model in list(self._served[name].values()):
                self._retire(self._served[name].pop(model.number))

    async def close(self) -> None:
        """Stops every model; what waits or runs is answered with UnavailableError. Loads are not waited for."""
        for task in self._loads:
            task.cancel()
        async with self._lock:
            models = [*self.models(), *self._retiring.values()]
            self._served = {}
            await asyncio.gather(*(model.retire(0) for model in models))
            await asyncio.gather(*self._retiring)

    def find(self, name: str, version: str = "") -> ServedModel:
        """The model that answers a request.

        Args:
            name: of a model or an alias; empty: the server's only model.
            version: its number, or the id of its bundle's content; empty: the newest, of those that the policy takes.

        Raises:
            RequestError: no name is given and there are several models; no version, and the policy takes none of them.
            UnknownNameError: there is no such model or version.
            UnavailableError: there is, but it is not served now.
        """
        name, version = self._aliases.resolve(name or self._only_name(), version)
        versions = self._served.get(name, {})
        if not version and (newest := self._policy.candidates(versions)[:1]):
            return versions[newest[0]]
        for model in versions.values():
            if version in (str(model.number), model.bundle.version):
                return model
        raise self._not_served(name, version)

    def models(self) -> list[ServedModel]:
        """All that serve, by name and number."""
        return [self._served[name][number] for name in sorted(self._served) for number in sorted(self._served[name])]

    def entries(self) -> list[ModelEntry]:
        """Every version that is served, being loaded, leaving, or cannot be loaded."""
        found: dict[tuple[str, int], ModelEntry] = {}
        for (name, number), broken in self._broken.items():
            found[name, number] = ModelEntry(name, number, "UNAVAILABLE", broken.reason)
        for model in self._retiring.values():
            found[model.name, model.number] = ModelEntry(model.name, model.number, "UNLOADING", "")
        for name, number in self._loading:
            found[name, number] = ModelEntry(name, number, "LOADING", "")
        for model in self.models():
            key = model.name, model.number
            newer = self._broken.get(key)
            reason = f"its newer content cannot be loaded: {newer.reason}" if newer else ""
            found[key] = ModelEntry(*key, "READY", reason, model)
        for name in self._unloaded - {name for name, _ in found}:
            found[name, 0] = ModelEntry(name, 0, "UNAVAILABLE", "unloaded")
        return [found[key] for key in sorted(found)]

    def not_loaded(self) -> dict[str, int]:
        """Of every model, the versions that should serve and cannot be loaded, or not with their newest content, or are
        gone though an alias stays at them."""
        counts = dict.fromkeys(self._served, 0)
        for name in {*self._served, *(name for name, _ in self._broken)} - self._unloaded:
            served, broken = self._served.get(name, {}), {number for its, number in self._broken if its == name}
            wanted, pinned = self._policy.wanted({*served, *broken}, served), self._aliases.pinned(name)
            gone = {number for number in pinned - served.keys() if (name, number) not in self._loading}
            counts[name] = len(gone | broken.intersection([0, *wanted, *pinned]))  # 0: the model's folder
        return counts

    def _only_name(self) -> str:
        names = sorted(self._served)
        if len(names) == 1:
            return names[0]
        if not names:
            raise UnavailableError("the server has no model now")
        raise RequestError("model", f"the server has several: {', '.join(names)}", help="name one")

    def _not_served(self, name: str, version: str) -> Exception:
        """Why a model, or this version of it, is not found."""
        if name in self._served:
            if broken := {str(number): one for (its, number), one in self._broken.items() if its == name}.get(version):
                return UnavailableError(f"{name}:{version} is not served: {broken.reason}")
            if not version:
                labels = ", ".join(label_of(name, number) for number in sorted(self._served[name]))
                return RequestError(
                    "version",
                    f"versions = {self._options.versions} takes none of {labels}",
                    help="name one, or an alias",
                )
            return UnknownNameError(f"version of model '{name}'", version, map(str, self._served[name]))
        reasons = [broken.reason for (one, _), broken in self._broken.items() if one == name]
        if reasons or name in self._unloaded or name in (one for one, _ in self._loading):
            return UnavailableError(": ".join([f"model '{name}' is not served now", *reasons[:1]]))
        return UnknownNameError("model", name, [*self._served, *self._aliases.names])

    async def _refresh(self, found: list[Found]) -> None:
        """Serves of one model what the policy and the aliases want of what is on disk, as far as it can be loaded."""
        if found[0].error and not found[0].number:
            self._report_broken(found[0], found[0].error)
            return
        name, by_number = found[0].name, {one.number: one for one in found}
        kept: set[int] = set()
        for number in self._policy.candidates(by_number):
            if len(kept) == self._policy.newest:
                break
            if await self._obtain(by_number[number]):
                kept.add(number)
        for number in sorted(self._aliases.pinned(name) & by_number.keys() - kept):
            if await self._obtain(by_number[number]):
                kept.add(number)
        served = self._served.get(name, {})
        if not kept:
            return  # nothing can be loaded: what serves goes on
        for number in sorted(served):
            if number not in kept and (name, number) not in self._missing:
                self._retire(served.pop(number))

    async def _obtain(self, found: Found) -> bool:
        """Whether this version is served afterwards, perhaps with older content."""
        key = found.name, found.number
        served, broken = self._served.get(found.name, {}).get(found.number), self._broken.get(key)
        if found.error:
            if not broken or broken.may_pass:  # else more is known of it
                self._report_broken(found, found.error)
            return served is not None
        if served and served.fingerprint == found.fingerprint:
            self._broken.pop(key, None)
            return True
        if broken and broken.fingerprint == found.fingerprint and not broken.may_pass:
            return served is not None
        self._loading.add(key)
        started = time.monotonic()
        try:
            loaded = await asyncio.to_thread(_load, found, self._options)
        except Exception as error:
            self._report_broken(found, error)
            return served is not None
        finally:
            self._loading.discard(key)
        self._broken.pop(key, None)
        model = ServedModel(found, loaded, self._options, self._cpus if loaded.on_cpus else self._gpus)
        self._announce(model)
        self._served.setdefault(found.name, {})[found.number] = model
        self._report_loaded(model, time.monotonic() - started)
        if served:
            self._retire(served)
        self._changed()
        return True

    def _retire(self, model: ServedModel) -> None:
        if not self._served.get(model.name):
            self._served.pop(model.name, None)
        task = asyncio.create_task(model.retire(self._options.shutdown_grace_seconds))
        self._retiring[task] = model

        def retired(task: asyncio.Task[None]) -> None:
            self._retiring.pop(task, None)
            self._batches_of_retired += model.scheduler.batches
            self._reporter.event("unloaded", model=model.name, number=model.number, version=model.bundle.version)
            self._changed()

        task.add_done_callback(retired)
        self._changed()

    def _report_loaded(self, model: ServedModel, seconds: float) -> None:
        self._reporter.event(
            "loaded",
            model=model.name,
            number=model.number,
            version=model.bundle.version,
            variant=self._options.variant or model.bundle.manifest.default_variant,
            threads=model.answerer.session.threads,
            seconds=round(seconds, 2),
        )

    def _report_broken(self, found: Found, error: Exception) -> None:
        broken, before = Broken(found.fingerprint, error), self._broken.get((found.name, found.number))
        self._broken[found.name, found.number] = broken
        if before and (before.fingerprint, before.reason) == (broken.fingerprint, broken.reason):
            return  # tried again
        known = isinstance(error, T2TDeployError)
        logger.error("%s cannot be loaded: %s", found.label, broken.reason, exc_info=None if known else error)
        self._reporter.event("broken", model=found.name, number=found.number, reason=broken.reason)
        self._changed()


def _load(found: Found, options: ServerOptions) -> LoadedModel:
    bundle = load_bundle(found.directory)
    require_runnable(bundle, options.variant)
    return load_model(bundle, options)
