"""A replica's served model: looked up at the start, and again as its alias moves."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from rayonale.serve import served_model
from rayonale.serve.served_model import ServedModel
from rayonale.serve.settings import Deployed

log = logging.getLogger("rayonale")


class Followed:
    """The model that new requests get.

    Args:
        settings: of the deployment.
        registry: MLflow's tracking URI.
        load: brings a new version into the running engine; called on this object's thread, after
            `now` is the new one.
        prepare: made of a version before it is served (its tokenizer, say); raises when it
            cannot be.
    """

    def __init__(
        self,
        settings: Deployed,
        registry: str | None,
        model: ServedModel,
        prepare: Callable[[ServedModel], None],
        load: Callable[[ServedModel], None],
    ) -> None:
        self.now = model
        self.held_back: str | None = None
        self._registry, self._prepare, self._load = registry, prepare, load
        self._every = settings.follow_s
        self._refused: str | None = None
        if self._every and served_model.follows(model.ref):
            threading.Thread(target=self._follow, daemon=True).start()

    def _follow(self) -> None:
        while True:
            time.sleep(self._every)
            try:
                self.look()
            except Exception as error:  # a registry that is away is no reason to stop serving
                if str(error) != self._refused:
                    log.warning("%s: not followed: %s", self.now.ref, error)
                self._refused = self.held_back = str(error)

    def look(self) -> None:
        """Serve the version that the alias names now, if it can be."""
        found = served_model.resolve(self.now.ref, self._registry)
        if found.fingerprint == self.now.fingerprint:
            if found != self.now:  # another version with the same files
                self.now = found
            self.held_back = self._refused = None
            return
        why = served_model.fits(self.now, found)
        if why:
            raise ValueError(f"{found.version} cannot take the place of {self.now.version}: {why}")
        self._prepare(found)
        before, self.now = self.now, found
        self.held_back = self._refused = None
        self._load(found)
        log.info("%s: %s is served in the place of %s", found.ref, found.told, before.told)
