"""The Grafana dashboards of the chart: an environment, a node, a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

Json = dict[str, Any]

_SOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
_NODE: Final = 'namespace=~"$namespace", job=~"$job"'
_MODEL: Final = f'{_NODE}, model="$model", version="$version"'
_WIDTH: Final = 24


@dataclass(frozen=True, slots=True)
class Query:
    """A PromQL expression and how its series are called."""

    expression: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """A panel.

    Attributes:
        unit: As Grafana names it.
        kind: ``stat`` shows the last value, ``timeseries`` all of them.
        width: Of 24.
    """

    title: str
    queries: Sequence[Query]
    unit: str = "short"
    kind: Literal["timeseries", "stat"] = "timeseries"
    width: int = 8
    description: str = ""


def dashboards() -> dict[str, Json]:
    """All of them by name of the file, without its ending."""
    return {"environment": _environment(), "node": _node(), "model": _model()}


def _environment() -> Json:
    states = Query('sum by (state) (gridnode_operator_gridnodes{namespace=~"$namespace"})', "{{state}}")
    by_node = "sum by (namespace, job)"
    panels = [
        Panel("GridNodes by state", [states], kind="stat", width=12),
        Panel(
            "Models in training",
            [
                Query('sum(max by (job, model, version) (gridnode_process_state{state="active"}))', "active"),
                Query('sum(max by (job, model, version) (gridnode_process_state{state="failed"}))', "failed"),
                Query("sum(max by (job, model, version) (gridnode_cycle_starved))", "lack phones"),
            ],
            kind="stat",
            width=12,
        ),
        Panel(
            "Reports counted",
            [Query(f"{by_node} (rate(gridnode_workers_reported_total[$__rate_interval]))", "{{job}}")],
            "reqps",
        ),
        Panel("Requests", [Query(f"{by_node} (rate(gridnode_requests_total[$__rate_interval]))", "{{job}}")], "reqps"),
        Panel(
            "Share of errors of the node's own",
            [
                Query(
                    f'{by_node} (rate(gridnode_requests_total{{status=~"5.."}}[$__rate_interval]))'
                    f" / {by_node} (rate(gridnode_requests_total[$__rate_interval]))",
                    "{{job}}",
                )
            ],
            "percentunit",
        ),
        Panel(
            "Progress of models",
            [Query("max by (job, model, version) (gridnode_model_progress_ratio)", "{{job}} {{model}} {{version}}")],
            "percentunit",
            width=12,
        ),
        Panel(
            "Age of the oldest event that the master node has not heard",
            [Query("max by (job) (gridnode_outbox_age_seconds)", "{{job}}")],
            "s",
            width=12,
        ),
        Panel(
            "Reconciles",
            [
                Query("sum by (result) (rate(gridnode_operator_reconciles_total[$__rate_interval]))", "{{result}}"),
                Query("sum by (reason) (rate(gridnode_operator_errors_total[$__rate_interval]))", "{{reason}}"),
            ],
            "ops",
        ),
        Panel(
            "Duration of a reconcile, 99 %",
            [
                Query(
                    "histogram_quantile(0.99, sum by (le) "
                    "(rate(gridnode_operator_reconcile_seconds_bucket[$__rate_interval])))",
                    "99 %",
                )
            ],
            "s",
        ),
        Panel(
            "Operator's queue",
            [
                Query("sum(gridnode_operator_queue_waiting)", "waiting"),
                Query("sum(gridnode_operator_queue_running)", "worked on"),
                Query("sum(increase(gridnode_operator_missed_changes_total[$__rate_interval]))", "missed changes"),
            ],
        ),
    ]
    return _dashboard("environment", "GridNode: environment", panels, [_variable("namespace", "gridnode_database_up")])


def _node() -> Json:
    def selected(metric: str) -> str:
        return f"rate({metric}{{{_NODE}}}[$__rate_interval])"

    commit = f"sum by (le) ({selected('gridnode_report_commit_seconds_bucket')})"
    panels = [
        Panel("Pods that answer", [Query(f"sum(up{{{_NODE}}})", "pods")], kind="stat", width=6),
        Panel(
            "Reaches its database", [Query(f"max(gridnode_database_up{{{_NODE}}})", "1 = yes")], kind="stat", width=6
        ),
        Panel(
            "Open WebSockets", [Query(f"sum(gridnode_websocket_connections{{{_NODE}}})", "open")], kind="stat", width=6
        ),
        Panel(
            "Events the master node has not accepted",
            [
                Query(f"max(gridnode_outbox_depth{{{_NODE}}})", "waiting"),
                Query(f"max(gridnode_outbox_refused{{{_NODE}}})", "refused"),
            ],
            kind="stat",
            width=6,
        ),
        Panel(
            "Requests by endpoint",
            [Query(f"sum by (endpoint) ({selected('gridnode_requests_total')})", "{{endpoint}}")],
            "reqps",
        ),
        Panel(
            "Answers by status",
            [Query(f"sum by (status) ({selected('gridnode_requests_total')})", "{{status}}")],
            "reqps",
        ),
        Panel(
            "Duration by endpoint, 99 %",
            [
                Query(
                    "histogram_quantile(0.99, sum by (endpoint, le) "
                    f"({selected('gridnode_request_duration_seconds_bucket')}))",
                    "{{endpoint}}",
                )
            ],
            "s",
        ),
        Panel(
            "Traffic",
            [
                Query(f"sum({selected('gridnode_received_bytes_total')})", "received"),
                Query(f"sum({selected('gridnode_sent_bytes_total')})", "sent"),
            ],
            "Bps",
        ),
        Panel(
            "Reports per commit",
            [
                Query(
                    f"sum({selected('gridnode_reports_per_commit_sum')})"
                    f" / sum({selected('gridnode_reports_per_commit_count')})",
                    "mean",
                )
            ],
        ),
        Panel(
            "Time of a commit",
            [
                Query(f"histogram_quantile(0.5, {commit})", "50 %"),
                Query(f"histogram_quantile(0.99, {commit})", "99 %"),
            ],
            "s",
        ),
        Panel(
            "Database connections in use",
            [
                Query(f"sum by (pod) (gridnode_database_pool_in_use{{{_NODE}}})", "{{pod}}"),
                Query(f"max(gridnode_database_pool_size{{{_NODE}}})", "of a pod at most"),
            ],
        ),
        Panel(
            "Checkpoints from memory",
            [Query(f"sum by (result) ({selected('gridnode_checkpoint_cache_lookups_total')})", "{{result}}")],
            "ops",
        ),
        Panel(
            "Posts to the master node",
            [Query(f"sum by (outcome) ({selected('gridnode_progress_posts_total')})", "{{outcome}}")],
            "ops",
        ),
    ]
    return _dashboard("node", "GridNode: node", panels, _node_variables())


def _model() -> Json:
    def selected(metric: str) -> str:
        return f"rate({metric}{{{_MODEL}}}[$__rate_interval])"

    def quantile(share: float, metric: str) -> str:
        return f"histogram_quantile({share}, sum by (le) ({selected(metric)}))"

    panels = [
        Panel("Progress", [Query(f"max(gridnode_model_progress_ratio{{{_MODEL}}})", "done")], "percentunit", "stat", 6),
        Panel(
            "Completed cycles", [Query(f"max(gridnode_completed_cycles{{{_MODEL}}})", "cycles")], kind="stat", width=6
        ),
        Panel(
            "State",
            [Query(f"max by (state) (gridnode_process_state{{{_MODEL}}}) == 1", "{{state}}")],
            kind="stat",
            width=6,
        ),
        Panel("Lacks phones", [Query(f"max(gridnode_cycle_starved{{{_MODEL}}})", "1 = yes")], kind="stat", width=6),
        Panel(
            "Phones",
            [
                Query(f"sum({selected('gridnode_workers_assigned_total')})", "accepted"),
                Query(f"sum({selected('gridnode_workers_reported_total')})", "reported"),
                Query(f"sum({selected('gridnode_workers_dropped_total')})", "dropped"),
            ],
            "reqps",
            width=12,
        ),
        Panel(
            "Phones sent away",
            [Query(f"sum by (reason) ({selected('gridnode_rejections_total')})", "{{reason}}")],
            "reqps",
            width=12,
        ),
        Panel(
            "Norm of diffs",
            [
                Query(quantile(0.5, "gridnode_update_norm_bucket"), "50 %"),
                Query(quantile(0.95, "gridnode_update_norm_bucket"), "95 %"),
            ],
            description="A jump is a diverging model, or somebody who tampers with it.",
        ),
        Panel("Duration of a cycle", [Query(quantile(0.5, "gridnode_cycle_duration_seconds_bucket"), "50 %")], "s"),
        Panel(
            "Time until min_diffs reports",
            [Query(quantile(0.5, "gridnode_cycle_min_diffs_seconds_bucket"), "50 %")],
            "s",
        ),
    ]
    model = 'gridnode_completed_cycles{namespace=~"$namespace", job=~"$job"}'
    variables = [
        *_node_variables(),
        _variable("model", model, multi=False),
        _variable("version", model.replace("}", ', model="$model"}'), multi=False),
    ]
    return _dashboard("model", "GridNode: model", panels, variables)


def _node_variables() -> list[Json]:
    return [
        _variable("namespace", "gridnode_database_up"),
        _variable("job", 'gridnode_database_up{namespace=~"$namespace"}'),
    ]


def _variable(label: str, series: str, *, multi: bool = True) -> Json:
    everything = {"includeAll": multi, "multi": multi, **({"allValue": ".*"} if multi else {})}
    return {
        "name": label,
        "label": label,
        "type": "query",
        "datasource": _SOURCE,
        "query": {"query": f"label_values({series}, {label})", "refId": label},
        "refresh": 2,
        "sort": 1,
        **everything,
    }


def _dashboard(name: str, title: str, panels: Sequence[Panel], variables: Sequence[Json]) -> Json:
    source = {"name": "datasource", "label": "data source", "type": "datasource", "query": "prometheus"}
    return {
        "uid": f"gridnode-{name}",
        "title": title,
        "tags": ["gridnode"],
        "schemaVersion": 39,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": [source, *variables]},
        "links": [
            {"type": "dashboards", "tags": ["gridnode"], "title": "GridNode", "asDropdown": True, "keepTime": True}
        ],
        "panels": _placed(panels),
    }


def _placed(panels: Sequence[Panel]) -> list[Json]:
    placed, x, y, row = [], 0, 0, 0
    for number, panel in enumerate(panels, 1):
        height = 4 if panel.kind == "stat" else 8
        if x + panel.width > _WIDTH:
            x, y, row = 0, y + row, 0
        placed.append(_panel(number, panel, {"x": x, "y": y, "w": panel.width, "h": height}))
        x, row = x + panel.width, max(row, height)
    return placed


def _panel(number: int, panel: Panel, position: Json) -> Json:
    return {
        "id": number,
        "title": panel.title,
        **({"description": panel.description} if panel.description else {}),
        "type": panel.kind,
        "datasource": _SOURCE,
        "gridPos": position,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": [
            {
                "refId": chr(ord("A") + position),
                "datasource": _SOURCE,
                "expr": query.expression,
                "legendFormat": query.legend,
                **({"instant": True} if panel.kind == "stat" else {}),
            }
            for position, query in enumerate(panel.queries)
        ],
    }
