{{- /* Environment of the relay's processes: a ConfigMap, keys of a secret, files of certificates. */ -}}
{{- define "relay.env" -}}
{{- $root := . -}}
{{- $variables := dict "redisUrl" "RELAY_REDIS_URL" "masterKeys" "RELAY_MASTER_KEYS" "adminKey" "RELAY_ADMIN_KEY" "upstreamClientId" "RELAY_UPSTREAM_CLIENT_ID" "upstreamClientSecret" "RELAY_UPSTREAM_CLIENT_SECRET" "sentinelUsername" "RELAY_REDIS_SENTINEL_USERNAME" "sentinelPassword" "RELAY_REDIS_SENTINEL_PASSWORD" -}}
{{- range $key, $variable := $variables }}
{{- $name := ternary (index $root.Values.secrets.keys $key) (ternary $variable "" (ne (index $root.Values.secrets.inline $key) "")) (ne $root.Values.secrets.existingSecret "") }}
{{- if and $name (not (and (eq $key "redisUrl") $root.Values.redis.dev.enabled)) }}
- name: {{ $variable }}
  valueFrom:
    secretKeyRef:
      name: {{ include "relay.secretName" $root }}
      key: {{ $name }}
      {{- if has $key (list "adminKey" "upstreamClientId" "upstreamClientSecret") }}
      optional: true
      {{- end }}
{{- end }}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "relay.certificateMounts" -}}
{{- if .Values.redis.tls.caSecret }}
- name: redis-ca
  mountPath: /etc/relay/redis-ca
  readOnly: true
{{- end }}
{{- if .Values.redis.tls.clientSecret }}
- name: redis-client
  mountPath: /etc/relay/redis-client
  readOnly: true
{{- end }}
{{- end }}

{{- define "relay.certificateVolumes" -}}
{{- with .Values.redis.tls.caSecret }}
- name: redis-ca
  secret:
    secretName: {{ . }}
    defaultMode: 0440
    items:
      - key: {{ $.Values.redis.tls.caKey }}
        path: ca.crt
{{- end }}
{{- with .Values.redis.tls.clientSecret }}
- name: redis-client
  secret:
    secretName: {{ . }}
    defaultMode: 0440
{{- end }}
{{- end }}

{{- /* One Deployment. Takes root, component, args, port, values. */ -}}
{{- define "relay.deployment" -}}
{{- include "relay.check" .root -}}
{{- $worker := ne .component "api" -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  {{- include "relay.metadata" (dict "root" .root "suffix" .component "component" .component) | nindent 2 }}
spec:
  {{- if ne (include "relay.scaled" .) "true" }}
  replicas: {{ .values.replicas }}
  {{- end }}
  revisionHistoryLimit: 5
  strategy:
    type: RollingUpdate
    rollingUpdate:
      {{- if $worker }}
      maxUnavailable: 1
      maxSurge: 1
      {{- else }}
      maxUnavailable: 0
      maxSurge: 25%
      {{- end }}
  selector:
    matchLabels:
      {{- include "relay.selector" .root | nindent 6 }}
      app.kubernetes.io/component: {{ .component }}
  template:
    {{- include "relay.pod" . | nindent 4 }}
{{- end }}

{{- define "relay.pod" -}}
metadata:
  labels:
    {{- include "relay.labels" .root | nindent 4 }}
    app.kubernetes.io/component: {{ .component }}
  annotations:
    checksum/config: {{ include "relay.configData" .root | sha256sum }}
    {{- if not .root.Values.secrets.existingSecret }}
    checksum/secret: {{ toJson .root.Values.secrets.inline | sha256sum }}
    {{- end }}
    {{- with .values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "relay.serviceAccount" .root }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ .root.Values.shutdown.gracePeriodSeconds }}
  {{- with .root.Values.image.pullSecrets }}
  imagePullSecrets:
    {{- range . }}
    - name: {{ . }}
    {{- end }}
  {{- end }}
  securityContext:
    {{- include "relay.podSecurity" .root | nindent 4 }}
  containers:
    - name: {{ .component }}
      image: {{ include "relay.image" (dict "image" .root.Values.image "default" .root.Chart.AppVersion) | quote }}
      imagePullPolicy: {{ .root.Values.image.pullPolicy }}
      args: {{ toJson .args }}
      envFrom:
        - configMapRef:
            name: {{ include "relay.fullname" .root }}
      env:
        {{- include "relay.env" .root | trim | nindent 8 }}
      ports:
        - name: {{ ternary "http" "metrics" (eq .component "api") }}
          containerPort: {{ .port }}
        {{- if and (eq .component "maintain") .root.Values.canary.enabled }}
        - name: canary
          containerPort: 9103
        {{- end }}
      {{- if eq .component "api" }}
      lifecycle:
        preStop:
          sleep:
            seconds: {{ .root.Values.shutdown.preStopSeconds }}
      {{- end }}
      startupProbe:
        httpGet: {path: /livez, port: {{ .port }}}
        periodSeconds: 2
        timeoutSeconds: 2
        failureThreshold: 30
      livenessProbe:
        httpGet: {path: /livez, port: {{ .port }}}
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 3
      readinessProbe:
        httpGet: {path: /readyz, port: {{ .port }}}
        periodSeconds: 5
        timeoutSeconds: 2
        failureThreshold: 2
        successThreshold: 1
      resources:
        {{- toYaml .values.resources | nindent 8 }}
      securityContext:
        {{- include "relay.containerSecurity" .root | nindent 8 }}
      volumeMounts:
        - name: tmp
          mountPath: /tmp
        {{- with include "relay.certificateMounts" .root | trim }}
        {{- . | nindent 8 }}
        {{- end }}
  volumes:
    - name: tmp
      emptyDir: {}
    {{- with include "relay.certificateVolumes" .root | trim }}
    {{- . | nindent 4 }}
    {{- end }}
  topologySpreadConstraints:
    {{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
    - maxSkew: 1
      topologyKey: {{ . }}
      whenUnsatisfiable: ScheduleAnyway
      matchLabelKeys: [pod-template-hash]
      labelSelector:
        matchLabels:
          {{- include "relay.selector" $.root | nindent 10 }}
          app.kubernetes.io/component: {{ $.component }}
    {{- end }}
  {{- with .values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .values.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}

{{- /* A disruption budget, where at least two pods run. Takes root, component, values. */ -}}
{{- define "relay.pdb" -}}
{{- if and .root.Values.podDisruptionBudget.enabled (ge (int (include "relay.fewest" .)) 2) -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  {{- include "relay.metadata" (dict "root" .root "suffix" .component "component" .component) | nindent 2 }}
spec:
  maxUnavailable: {{ .root.Values.podDisruptionBudget.maxUnavailable }}
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- include "relay.selector" .root | nindent 6 }}
      app.kubernetes.io/component: {{ .component }}
{{- end -}}
{{- end }}

{{- /* How fast an autoscaler may act: up at once, down by one pod a minute after five quiet minutes. */ -}}
{{- define "relay.scalingBehavior" -}}
scaleUp:
  stabilizationWindowSeconds: 0
  policies:
    - {type: Pods, value: 2, periodSeconds: 30}
scaleDown:
  stabilizationWindowSeconds: 300
  policies:
    - {type: Pods, value: 1, periodSeconds: 60}
{{- end }}
