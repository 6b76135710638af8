"""The parts that we use of the custom resources' published schemas (KEDA 2.x, Prometheus operator 0.8x): a field that
is not listed here is not one of theirs, or wants to be looked up and added."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_TEXTS: Schema = {"type": "object", "additionalProperties": _TEXT}
_NUMBER: Schema = {"type": "integer", "minimum": 0}
_DURATION: Schema = {
    "type": "string",
    "pattern": r"^(0|(([0-9]+)y)?(([0-9]+)w)?(([0-9]+)d)?(([0-9]+)h)?(([0-9]+)m)?(([0-9]+)s)?(([0-9]+)ms)?)$",
    "minLength": 1,
}


def _object(required: str = "", **properties: Schema) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": required.split(),
        "additionalProperties": False,
    }


def _list(of: Schema) -> Schema:
    return {"type": "array", "items": of, "minItems": 1}


def _resource(api: str, kind: str, spec: Schema) -> Schema:
    metadata = _object("name", name=_TEXT, namespace=_TEXT, labels=_TEXTS, annotations=_TEXTS)
    return _object(
        "apiVersion kind metadata spec", apiVersion={"const": api}, kind={"const": kind}, metadata=metadata, spec=spec
    )


# autoscaling/v2 as KEDA embeds it.
_SCALING = _object(
    stabilizationWindowSeconds={"type": "integer", "minimum": 0, "maximum": 3600},
    selectPolicy={"enum": ["Max", "Min", "Disabled"]},
    policies=_list(
        _object(
            "type value periodSeconds",
            type={"enum": ["Pods", "Percent"]},
            value={"type": "integer", "minimum": 1},
            periodSeconds={"type": "integer", "minimum": 1, "maximum": 1800},
        )
    ),
)
_SELECTOR = _object(
    matchLabels=_TEXTS,
    matchExpressions=_list(
        _object(
            "key operator",
            key=_TEXT,
            operator={"enum": ["In", "NotIn", "Exists", "DoesNotExist"]},
            values={"type": "array", "items": _TEXT},
        )
    ),
)
_RULE = _object("alert expr", alert=_TEXT, expr=_TEXT, labels=_TEXTS, annotations=_TEXTS, **{"for": _DURATION})

SCHEMAS: dict[str, Schema] = {
    "ScaledObject": _resource(
        "keda.sh/v1alpha1",
        "ScaledObject",
        _object(
            "scaleTargetRef triggers",
            scaleTargetRef=_object("name", name={"type": "string", "minLength": 1}, kind=_TEXT, apiVersion=_TEXT),
            minReplicaCount=_NUMBER,
            maxReplicaCount={"type": "integer", "minimum": 1},
            pollingInterval={"type": "integer", "minimum": 1},
            cooldownPeriod=_NUMBER,
            fallback=_object(
                "failureThreshold replicas",
                failureThreshold=_NUMBER,
                replicas=_NUMBER,
                behavior={"enum": ["static", "currentReplicas", "currentReplicasIfHigher", "currentReplicasIfLower"]},
            ),
            advanced=_object(
                horizontalPodAutoscalerConfig=_object(
                    name=_TEXT, behavior=_object(scaleUp=_SCALING, scaleDown=_SCALING)
                ),
            ),
            triggers=_list(
                _object(
                    "type metadata",
                    # Of all scalers the one that we use, and what it wants to be told: all of it text.
                    type={"const": "prometheus"},
                    name=_TEXT,
                    metricType={"enum": ["AverageValue", "Value"]},
                    metadata=_object(
                        "serverAddress query threshold",
                        serverAddress={"type": "string", "pattern": "^https?://"},
                        query={"type": "string", "minLength": 1},
                        threshold={"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?$"},
                    ),
                )
            ),
        ),
    ),
    "PodMonitor": _resource(
        "monitoring.coreos.com/v1",
        "PodMonitor",
        _object(
            "selector",
            selector=_SELECTOR,
            podTargetLabels=_list(_TEXT),
            podMetricsEndpoints=_list(_object(port=_TEXT, path=_TEXT, interval=_DURATION, scrapeTimeout=_DURATION)),
        ),
    ),
    "PrometheusRule": _resource(
        "monitoring.coreos.com/v1",
        "PrometheusRule",
        _object("groups", groups=_list(_object("name rules", name=_TEXT, interval=_DURATION, rules=_list(_RULE)))),
    ),
}
