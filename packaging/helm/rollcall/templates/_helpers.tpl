{{/* Labels that pods are selected by. Called with a component's name. */}}
{{- define "rollcall.selector" -}}
app.kubernetes.io/name: rollcall
app.kubernetes.io/component: {{ . }}
{{- end }}

{{/* Labels of every object. Called with the chart's root. */}}
{{- define "rollcall.labels" -}}
app.kubernetes.io/name: rollcall
app.kubernetes.io/part-of: rollcall
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* An image. Called with a list of the root and the program's name. */}}
{{- define "rollcall.image" -}}
{{- $root := index . 0 -}}
{{ printf "%s/%s:%s" (trimSuffix "/" $root.Values.images.registry) (index . 1) (default $root.Chart.AppVersion $root.Values.images.tag) }}
{{- end }}

{{/* The user that both programs run as. */}}
{{- define "rollcall.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "rollcall.securityContext" -}}
allowPrivilegeEscalation: false
privileged: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* The port of a listen address such as 0.0.0.0:7655 or [::]:7655. */}}
{{- define "rollcall.port" -}}
{{ regexFind "[0-9]+$" . }}
{{- end }}

{{/*
The generated certificate, as YAML {cert, key, ca}: the one that is there already, or a new one. Made once a
rendering, since the Secret and the ConfigMap must belong together.
*/}}
{{- define "rollcall.generatedTls" -}}
{{- if not (hasKey .Release "rollcallTls") -}}
{{- $old := lookup "v1" "Secret" .Release.Namespace "rollcall-aggregator-tls" -}}
{{- $pair := dict -}}
{{- if and $old $old.data (hasKey $old.data "ca.crt") -}}
{{- $pair = dict "cert" (index $old.data "tls.crt" | b64dec) "key" (index $old.data "tls.key" | b64dec) "ca" (index $old.data "ca.crt" | b64dec) -}}
{{- else -}}
{{- $service := "rollcall-aggregator" -}}
{{- $names := list $service (printf "%s.%s" $service .Release.Namespace) (printf "%s.%s.svc" $service .Release.Namespace) (printf "%s.%s.svc.cluster.local" $service .Release.Namespace) -}}
{{- $days := int .Values.tls.generated.days -}}
{{- $ca := genCA "rollcall CA" $days -}}
{{- $made := genSignedCert $service nil $names $days $ca -}}
{{- $pair = dict "cert" $made.Cert "key" $made.Key "ca" $ca.Cert -}}
{{- end -}}
{{- $_ := set .Release "rollcallTls" $pair -}}
{{- end -}}
{{ toYaml (get .Release "rollcallTls") }}
{{- end }}

{{/* The agent's container is the same in both DaemonSets. Called with a list of the root and the runtime. */}}
{{- define "rollcall.agent" -}}
{{- $root := index . 0 -}}
{{- $runtime := index . 1 -}}
{{- $agent := $root.Values.agent -}}
apiVersion: apps/v1
kind: DaemonSet
metadata:
  name: rollcall-agent{{ if eq $runtime "nvidia" }}-nvidia{{ end }}
  namespace: {{ $root.Release.Namespace }}
  labels:
    {{- include "rollcall.labels" $root | nindent 4 }}
    app.kubernetes.io/component: agent
    rollcall.dev/runtime: {{ $runtime }}
spec:
  selector:
    matchLabels:
      {{- include "rollcall.selector" "agent" | nindent 6 }}
      rollcall.dev/runtime: {{ $runtime }}
  updateStrategy:
    type: RollingUpdate
    rollingUpdate:
      maxUnavailable: {{ $agent.maxUnavailable }}
  template:
    metadata:
      labels:
        {{- with $agent.podLabels }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
        {{- include "rollcall.selector" "agent" | nindent 8 }}
        app.kubernetes.io/part-of: rollcall
        rollcall.dev/runtime: {{ $runtime }}
      annotations:
        prometheus.io/scrape: "true"
        prometheus.io/port: {{ include "rollcall.port" $agent.listen | quote }}
        prometheus.io/path: /metrics
        {{- if eq $root.Values.tls.mode "generated" }}
        # Agents read their CA when they start.
        checksum/ca: {{ (include "rollcall.generatedTls" $root | fromYaml).ca | sha256sum }}
        {{- end }}
        {{- with $agent.podAnnotations }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
    spec:
      serviceAccountName: rollcall-agent
      automountServiceAccountToken: {{ eq $root.Values.stamping "agent" }}
      {{- with $root.Values.priorityClass.name }}
      priorityClassName: {{ . }}
      {{- end }}
      {{- if eq $runtime "nvidia" }}
      runtimeClassName: {{ $agent.nvidia.runtimeClassName }}
      {{- end }}
      {{- with $root.Values.images.pullSecrets }}
      imagePullSecrets:
        {{- range . }}
        - name: {{ . }}
        {{- end }}
      {{- end }}
      terminationGracePeriodSeconds: 10
      affinity:
        nodeAffinity:
          requiredDuringSchedulingIgnoredDuringExecution:
            nodeSelectorTerms:
              - matchExpressions:
                  - key: kubernetes.io/os
                    operator: In
                    values: [linux]
                  # Virtual nodes have no hardware of their own, and most cannot run a DaemonSet's pods.
                  - key: type
                    operator: NotIn
                    values: [virtual-kubelet]
                  - key: virtual-kubelet.io/provider
                    operator: DoesNotExist
                  - key: virtual-node.interlink/type
                    operator: NotIn
                    values: [virtual-kubelet]
                  - key: liqo.io/type
                    operator: NotIn
                    values: [virtual-node]
                  - key: eks.amazonaws.com/compute-type
                    operator: NotIn
                    values: [fargate]
                  {{- if $agent.nvidia.enabled }}
                  # No node has two agents.
                  - key: {{ $agent.nvidia.nodeLabel }}
                    operator: {{ eq $runtime "nvidia" | ternary "In" "NotIn" }}
                    values: [{{ $agent.nvidia.nodeLabelValue | quote }}]
                  {{- end }}
                  {{- with $agent.extraNodeAffinity }}
                  {{- toYaml . | nindent 18 }}
                  {{- end }}
      {{- with $agent.tolerations }}
      tolerations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      securityContext:
        {{- include "rollcall.podSecurityContext" $root | nindent 8 }}
      containers:
        - name: agent
          image: {{ include "rollcall.image" (list $root "rollcall-agent") }}
          imagePullPolicy: {{ $root.Values.images.pullPolicy }}
          args: [run]
          env:
            - name: NODE_NAME
              valueFrom:
                fieldRef:
                  fieldPath: spec.nodeName
            - name: ROLLCALL_AGGREGATOR
              value: https://rollcall-aggregator.{{ $root.Release.Namespace }}.svc:7655
            - name: ROLLCALL_CA_FILE
              value: /etc/rollcall/ca/ca.crt
            - name: ROLLCALL_TOKEN_FILE
              value: /var/run/secrets/rollcall/token
            - name: ROLLCALL_HOST_ROOT
              value: /host
            - name: ROLLCALL_LISTEN
              value: {{ $agent.listen | quote }}
            - name: ROLLCALL_STAMP_LABELS
              value: {{ eq $root.Values.stamping "agent" | quote }}
            {{- if $agent.overwriteLabels }}
            - name: ROLLCALL_OVERWRITE_LABELS
              value: "true"
            {{- end }}
            {{- if ne $agent.logLevel "info" }}
            - name: ROLLCALL_LOG_LEVEL
              value: {{ $agent.logLevel | quote }}
            {{- end }}
            {{- if eq $runtime "nvidia" }}
            # All GPUs, without asking for any: none is taken from the pods that compute. `utility` is NVML.
            - name: NVIDIA_VISIBLE_DEVICES
              value: all
            - name: NVIDIA_DRIVER_CAPABILITIES
              value: utility
            # A container gets NVIDIA's library when it is created: where it is missing, a new one is made.
            - name: ROLLCALL_REQUIRE_GPUS
              value: "true"
            {{- end }}
            {{- with $agent.extraEnv }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
          ports:
            - name: metrics
              containerPort: {{ include "rollcall.port" $agent.listen }}
              protocol: TCP
          livenessProbe:
            httpGet:
              path: /livez
              port: metrics
            periodSeconds: 20
            timeoutSeconds: 5
            failureThreshold: 3
          readinessProbe:
            httpGet:
              path: /readyz
              port: metrics
            periodSeconds: 10
            timeoutSeconds: 5
            failureThreshold: 3
          resources:
            {{- toYaml $agent.resources | nindent 12 }}
          securityContext:
            {{- include "rollcall.securityContext" $root | nindent 12 }}
          volumeMounts:
            - name: proc
              mountPath: /host/proc
              readOnly: true
            - name: sys
              mountPath: /host/sys
              readOnly: true
            - name: ca
              mountPath: /etc/rollcall/ca
              readOnly: true
            - name: token
              mountPath: /var/run/secrets/rollcall
              readOnly: true
            {{- if $agent.hostFiles }}
            - name: machine-id
              mountPath: /host/etc/machine-id
              readOnly: true
            - name: os-release
              mountPath: /host/etc/os-release
              readOnly: true
            {{- end }}
      volumes:
        - name: proc
          hostPath:
            path: /proc
            type: Directory
        - name: sys
          hostPath:
            path: /sys
            type: Directory
        # The CA of the aggregator's certificate; never a Secret that holds the aggregator's key, since a
        # kubelet may read the whole of what its pods mount a part of.
        - name: ca
          {{- if eq $root.Values.tls.mode "certManager" }}
          secret:
            secretName: rollcall-agent-tls
            defaultMode: 0444
            items:
              - key: ca.crt
                path: ca.crt
          {{- else }}
          configMap:
            name: {{ eq $root.Values.tls.mode "existing" | ternary $root.Values.tls.existing.caConfigMapName "rollcall-ca" }}
            defaultMode: 0444
          {{- end }}
        - name: token
          projected:
            defaultMode: 0440
            sources:
              - serviceAccountToken:
                  path: token
                  audience: rollcall
                  expirationSeconds: 3600
        {{- if $agent.hostFiles }}
        - name: machine-id
          hostPath:
            path: /etc/machine-id
            type: File
        - name: os-release
          hostPath:
            path: /etc/os-release
            type: File
        {{- end }}
{{- end }}
