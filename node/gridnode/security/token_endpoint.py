"""Asking a third party about a token: the ``endpoint`` of ``server_config.authentication``, over HTTP.

The URL is the model author's, so the node is made to send a request to where an author wants (server-side request
forgery). What an author gets by that is small: the request is always a POST with ``{"auth_token": …}``, redirects are
not followed, nothing of the answer but whether its status is 200 comes back, and no credential of the node travels
along. Which hosts a node may reach at all is for the network to decide (an egress NetworkPolicy): a name can point
elsewhere after it was checked, so a check in here would be worth little.
"""

from __future__ import annotations

import logging
import threading
import time
from queue import Empty, SimpleQueue
from typing import Final

import requests

from gridnode.errors import Unavailable

_RETRY_AFTER: Final = 5.0
_log = logging.getLogger(__name__)


class TokenEndpoint:
    """Asks endpoints, with a deadline, and with a bound on how many requests wait for the same one.

    :meth:`ask` blocks its thread, so it is not for an event loop's. It may be called from any number of threads.
    """

    def __init__(self, *, timeout: float = 5.0, maximum_pending: int = 8) -> None:
        """
        Args:
            timeout: seconds within which the status must have come, all in all.
            maximum_pending: requests under way at once to one URL. It should be well below the number of threads that
                serve phones, so that a dead endpoint of one process does not hold all of them.
        """
        self._timeout = timeout
        self._maximum_pending = maximum_pending
        self._slots: dict[str, threading.BoundedSemaphore] = {}

    def ask(self, url: str, body: dict[str, str]) -> int:
        """Post ``body`` as JSON to ``url``; the status of the answer, a redirect's own included.

        Raises:
            Unavailable: no connection, no answer in time, or too many requests wait for this URL already.
        """
        deadline = time.monotonic() + self._timeout
        # setdefault is atomic: two threads never get different semaphores for one URL.
        slot = self._slots.setdefault(url, threading.BoundedSemaphore(self._maximum_pending))
        if not slot.acquire(timeout=self._timeout / 10):
            raise _no_answer("too many requests wait for it")
        answer: SimpleQueue[int | str] = SimpleQueue()
        # A thread of its own, because requests limits the wait for each piece of an answer but not for the whole, and
        # the wait for a name server not at all. A daemon, so that a stuck one does not keep the process from ending.
        threading.Thread(target=self._post, args=(url, body, slot, answer), daemon=True).start()
        try:
            outcome = answer.get(timeout=max(0.0, deadline - time.monotonic()))
        except Empty:
            raise _no_answer(f"it took longer than {self._timeout:g} s") from None
        if isinstance(outcome, str):
            raise _no_answer(outcome)
        return outcome

    def _post(
        self, url: str, body: dict[str, str], slot: threading.BoundedSemaphore, answer: SimpleQueue[int | str]
    ) -> None:
        try:
            with requests.post(
                url, json=body, timeout=self._timeout, allow_redirects=False, stream=True, auth=_no_credentials
            ) as response:
                answer.put(response.status_code)
        except (requests.RequestException, OSError, ValueError) as error:
            # The class alone: the text of the error holds the URL, and its query may hold a key.
            answer.put(type(error).__name__)
        finally:
            slot.release()


def _no_credentials(request: requests.PreparedRequest) -> requests.PreparedRequest:
    # Without this, requests looks for a password for the host in ~/.netrc and sends it.
    return request


def _no_answer(reason: str) -> Unavailable:
    _log.warning("the endpoint of server_config.authentication gave no answer: %s", reason)
    return Unavailable("The service that checks 'auth_token' does not answer; try again later.", _RETRY_AFTER)
