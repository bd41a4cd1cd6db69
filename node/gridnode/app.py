"""A node, put together: everything that one worker process needs, made from the settings."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from gridnode.averaging.hosted_plan import SandboxLimits
from gridnode.averaging.sandbox_pool import SandboxPool
from gridnode.averaging.strategies import Strategies
from gridnode.checkpoints.store import BlobCache, Downloads
from gridnode.cycles.intake import Intake
from gridnode.cycles.rejections import Rejections
from gridnode.cycles.service import CycleService
from gridnode.cycles.view import CycleViews
from gridnode.db import binary_copy
from gridnode.db.iam import IamTokens
from gridnode.db.revision import WrongRevision, check_revision
from gridnode.db.session import Database, reason_of
from gridnode.errors import NotFound
from gridnode.processes.catalog import Catalog
from gridnode.protocol.asgi import BodyLimits, Listener
from gridnode.protocol.device import DeviceEndpoints
from gridnode.protocol.hosting import HostingEndpoints
from gridnode.protocol.http import SPEED_TEST_PATH, make_device_app
from gridnode.protocol.management import make_management_app
from gridnode.protocol.routes import device_routes
from gridnode.protocol.speed_test import SpeedTests
from gridnode.protocol.ws import WebSocketEndpoint, device_handlers, hosting_handlers
from gridnode.reporting import metrics
from gridnode.reporting.announcer import Announcer
from gridnode.reporting.database_metrics import DatabaseCollector
from gridnode.reporting.dispatcher import Dispatcher
from gridnode.reporting.master import MasterNode
from gridnode.reporting.scrape import render_metrics
from gridnode.security.limits import AddressLimiter, AddressLimits
from gridnode.security.management_token import ManagementAccess
from gridnode.security.token_endpoint import TokenEndpoint
from gridnode.settings import Settings

log = logging.getLogger(__name__)

_WAIT_LOG_INTERVAL = 10.0
#: Threads of the management listener: enough for a probe, a scrape and a few people at once.
_MANAGEMENT_THREADS = 4


class Node:
    """All parts of one worker process, wired. :meth:`start` begins the background work, :meth:`stop` ends it."""

    def __init__(self, settings: Settings, database_url: str) -> None:
        self._settings = settings
        self._draining = threading.Event()
        self._schema_checked = False
        self._readiness = threading.Lock()
        self.database = Database(
            database_url,
            pool_size=settings.database_pool_size,
            # A request must not wait longer for a connection than for the database as a whole.
            connect_timeout=min(settings.database_connect_timeout, settings.database_deadline),
            deadline=settings.database_deadline,
            schema=settings.database_schema,
            statement_timeout=settings.database_statement_timeout,
            iam=IamTokens() if settings.database_iam_authentication else None,
        )
        metrics.track_pool(self.database.engine)
        self.catalog = Catalog(self.database)
        self.announcer = Announcer(settings.node_id, to_master=settings.master_url is not None)
        self._sandbox_limits = SandboxLimits(
            memory=settings.averaging_plan_memory,
            seconds=settings.averaging_plan_timeout,
            list_size=settings.averaging_list_limit,
        )
        self._sandboxes = SandboxPool(maximum=settings.averaging_sandboxes)
        self._strategies = Strategies(self._read_averaging_plan, self._sandboxes, self._sandbox_limits)
        self._views = CycleViews(self.database)
        rejections = Rejections()
        self._dispatcher = self._make_dispatcher()
        self.service = CycleService(
            self.database,
            self.catalog,
            self._strategies,
            self._views,
            rejections,
            self.announcer,
            event_written=self._notify_dispatcher,
            interval=settings.sweep_interval,
            keep_checkpoints=settings.checkpoint_retention,
        )
        self._intake = Intake(
            self.database,
            self._strategies,
            self._views,
            rejections,
            self.service.cycle_is_full,
            threads=settings.threads_per_process,
        )
        self._hosting = HostingEndpoints(self.database, self.catalog, self._sandbox_limits)
        self._threads = ThreadPoolExecutor(settings.threads_per_process, thread_name_prefix="request")
        self._management_threads = ThreadPoolExecutor(_MANAGEMENT_THREADS, thread_name_prefix="management")

    def start(self, give_up: Callable[[], None]) -> None:
        """Begin the background work as soon as the database is there with the right schema; returns at once.

        Args:
            give_up: Called, from another thread, if the schema is that of another release.
        """
        threading.Thread(target=self._start_when_possible, args=(give_up,), name="startup", daemon=True).start()

    def _start_when_possible(self, give_up: Callable[[], None]) -> None:
        next_log = 0.0
        while not self._draining.is_set():
            try:
                with self.database.engine.connect() as connection:
                    check_revision(connection)
            except WrongRevision as error:
                log.error(error.message)
                give_up()
                return
            except (DBAPIError, PoolTimeout) as error:
                if time.monotonic() >= next_log:
                    next_log = time.monotonic() + _WAIT_LOG_INTERVAL
                    log.warning("waiting for the database", extra={"reason": reason_of(error)})
                self._draining.wait(0.5)
            else:
                self._schema_checked = True
                self.service.start()
                if self._dispatcher is not None:
                    self._dispatcher.start()
                return

    def drain(self) -> None:
        """Say on ``/readyz`` that no new devices should be sent here."""
        self._draining.set()

    def stop(self) -> None:
        """End the background work and close the connections. Acknowledged reports are safe without it too."""
        self.service.stop()
        if self._dispatcher is not None:
            self._dispatcher.stop()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._intake.stop()
        self._management_threads.shutdown(wait=False, cancel_futures=True)
        self._sandboxes.close()
        self.database.close()

    def device_listener(self, limiter: AddressLimiter) -> Listener:
        """The ASGI application that phones reach."""
        settings = self._settings
        hosting = self._hosting if settings.legacy_hosting else None
        cache = BlobCache(settings.checkpoint_cache_bytes, lambda hit: metrics.count_checkpoint_lookup(hit=hit))
        endpoints = DeviceEndpoints(
            self.catalog,
            self._intake,
            self._views,
            Downloads(self.database, cache),
            self._strategies,
            TokenEndpoint().ask,
        )
        routes = device_routes(endpoints)
        handlers = device_handlers(endpoints)
        if hosting is not None:
            handlers |= hosting_handlers(hosting)
        # Checking an averaging plan may take minutes; nothing else that a device asks for does.
        answer_seconds = None if hosting else 2 * settings.database_deadline
        largest = max(settings.body_limit, settings.hosting_limit if hosting else 0)
        return Listener(
            make_device_app(routes, SpeedTests(settings.speed_test_bytes), hosting),
            WebSocketEndpoint(handlers, self._threads, limiter, answer_seconds=answer_seconds),
            self._threads,
            limiter,
            BodyLimits(
                largest=largest,
                seconds=settings.body_timeout,
                in_memory=2 * largest,
                discarded=frozenset({SPEED_TEST_PATH}),
            ),
            settings.trusted_proxies,
            answer_seconds,
            routes,
        )

    def management_listener(self) -> Listener:
        """The ASGI application of the management port."""
        settings = self._settings
        access = ManagementAccess(settings.management_token)
        collector = DatabaseCollector(self.database.sessions)
        app = make_management_app(
            self.database,
            self.catalog,
            self._hosting,
            self.announcer,
            access,
            is_ready=self.why_not_ready,
            render_metrics=lambda: render_metrics(collector),
            event_written=self._notify_dispatcher,
        )
        limiter = AddressLimiter(AddressLimits(requests_per_second=0, connections_per_address=0, connections=0))
        return Listener(
            app,
            WebSocketEndpoint(hosting_handlers(self._hosting), self._management_threads, limiter, access.check),
            self._management_threads,
            limiter,
            BodyLimits(
                largest=settings.hosting_limit, seconds=settings.body_timeout, in_memory=2 * settings.hosting_limit
            ),
        )

    def why_not_ready(self) -> str | None:
        """None if devices can be served; otherwise the reason, for ``/readyz``."""
        if self._draining.is_set():
            return "the node is shutting down"
        if not self._schema_checked:
            return "the node waits for its database"
        # One check at a time: with a database that hangs, probes would otherwise take all threads, and the liveness
        # probe with them.
        if not self._readiness.acquire(blocking=False):
            return "the database does not answer"
        try:
            return None if self.database.is_writable() else "the database is unavailable or read-only"
        finally:
            self._readiness.release()

    def _make_dispatcher(self) -> Dispatcher | None:
        settings = self._settings
        if settings.master_url is None:
            return None
        master = MasterNode(settings.master_url, key=settings.master_key, timeout=settings.master_timeout)
        return Dispatcher(self.database.sessions, master)

    def _notify_dispatcher(self) -> None:
        if self._dispatcher is not None:
            self._dispatcher.notify()

    def _read_averaging_plan(self, process_id: int) -> bytes:
        plan = self.database.transaction(
            lambda session: binary_copy.read_value(session, "processes", "averaging_plan", {"id": process_id})
        )
        if plan is None:
            raise NotFound("the process has no averaging plan")
        return plan
