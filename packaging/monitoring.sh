#!/usr/bin/env bash
# Wraps the rules for Prometheus Operator, as Kustomize's component takes them; the Helm chart wraps them itself.
# Run it after a change of prometheus/: tests/packaging.sh compares them.
set -euo pipefail
cd "$(dirname "$0")"

for rules in alerts recording; do
    {
        cat <<END
# Made of packaging/prometheus/$rules.yaml by packaging/monitoring.sh.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: rollcall-$rules
  namespace: rollcall-system
  labels:
    app.kubernetes.io/name: rollcall
    app.kubernetes.io/part-of: rollcall
spec:
END
        sed -n '/^groups:/,$ s/^/  /p' "prometheus/$rules.yaml"
    } >"kubernetes/components/prometheus-rule/$rules.yaml"
done
