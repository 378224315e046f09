"""Whether a deployment is still there, looked at while requests wait for it.

When a deployment is taken away, Ray Serve refuses calls that come after it has gone. Calls that
came between the end of its last replica and that moment wait for a replica for ever.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import Any, TypeVar

from ray.serve.exceptions import DeploymentUnavailableError

T = TypeVar("T")

_LOOK_S = 1.0


class Presence:
    """Of one deployment.

    Args:
        handle: has the method `about`, which costs next to nothing.
    """

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._look: asyncio.Task[None] | None = None
        self._begun = 0.0

    async def waited(self, work: Awaitable[T]) -> T:
        """The work's result, looking each second whether the deployment is there.

        Raises:
            DeploymentUnavailableError: it has been taken away; the work is cancelled.
        """
        task = asyncio.ensure_future(work)
        try:
            while not (await asyncio.wait({task}, timeout=_LOOK_S))[0]:
                await self._raise_if_gone(task)
        except BaseException:
            task.cancel()
            await asyncio.wait({task})  # what it holds is given back before anything is tried again
            raise
        return task.result()

    async def _raise_if_gone(self, task: asyncio.Future[Any]) -> None:
        now = time.monotonic()
        if self._look is None or now - self._begun >= _LOOK_S:  # one look serves all that wait
            self._look, self._begun = asyncio.create_task(_look_at(self._handle)), now
        look = self._look  # another that waits may begin the next one meanwhile
        await asyncio.wait({task, look}, return_when=asyncio.FIRST_COMPLETED)
        if look.done() and not task.done():
            look.result()


async def _look_at(handle: Any) -> None:
    """Ask the deployment; no answer within a second says nothing."""
    response = handle.about.remote()
    try:
        await asyncio.wait_for(response, _LOOK_S)
    except DeploymentUnavailableError:
        raise
    except Exception:  # whatever else is wrong, the work itself will tell
        response.cancel()
