"""What can be set about a Ray Serve application; Ray itself is not needed to read it."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from t2tdeploy.serving.bundle_source import BundleFolders, BundleSource, RepositoryFolder
from t2tdeploy.serving.options import ServerOptions
from t2tdeploy.settings import Settings


class AppOptions(Settings):
    """Arguments of `t2tdeploy.serving.ray_app:app`."""

    bundle: str | None = Field(None, min_length=1, description="folder of a bundle, the same on every node")
    repository: str | None = Field(
        None, min_length=1, description="folder of models and versions instead: NAME/1, NAME/2, … are bundles"
    )
    cpus: int = Field(1, ge=1, description="CPUs that a replica asks Ray for, and threads of its model")
    min_replicas: int = Field(1, ge=1, description="replicas that always run")
    max_replicas: int | None = Field(None, ge=1, description="replicas under load; none: min_replicas, no autoscaling")
    target_ongoing_requests: float = Field(
        16.0, gt=0, description="requests of a replica, waiting ones included, that autoscaling aims at"
    )
    max_ongoing_requests: int = Field(
        256, ge=1, description="requests that Ray hands to a replica at once, for it to make batches of"
    )
    max_queued_requests: int = Field(
        1024, ge=-1, description="requests that wait in each of Ray's proxies; more are refused; -1: any number"
    )
    options: str = Field(
        "", description="options of the server in every replica, as of serve --options: max_batch_size=32"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if (self.bundle is None) == (self.repository is None):
            raise ValueError("bundle or repository: give one of them")
        if self.max_replicas is not None and self.max_replicas < self.min_replicas:
            raise ValueError(f"max_replicas is less than min_replicas = {self.min_replicas}")
        return self

    def source(self) -> BundleSource:
        """Where a replica finds its bundles.

        Raises:
            InputError, CorruptFileError, UnreadableError: there are none that can be read.
        """
        return RepositoryFolder(Path(self.repository)) if self.repository else BundleFolders([Path(str(self.bundle))])

    def server_options(self) -> ServerOptions:
        """The server's options in a replica.

        Raises:
            SettingsError: `options` are not valid.
        """
        return ServerOptions(threads=self.cpus).override(self.options)
