{{- define "relay.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" -}}
{{- end }}

{{- /* Leaves room for what is appended: `-maintain`, `-test-delivery`. What is cut off goes on to count, as a hash. */ -}}
{{- define "relay.fullname" -}}
{{- $name := printf "%s-%s" .Release.Name (include "relay.name" .) -}}
{{- if .Values.fullnameOverride -}}
{{- $name = .Values.fullnameOverride -}}
{{- else if contains (include "relay.name" .) .Release.Name -}}
{{- $name = .Release.Name -}}
{{- end -}}
{{- $name = replace "." "-" $name -}}
{{- if gt (len $name) 45 -}}
{{- $name = printf "%s-%s" (trunc 36 $name | trimSuffix "-") (sha256sum $name | trunc 8) -}}
{{- end -}}
{{- $name -}}
{{- end }}

{{- define "relay.selector" -}}
app.kubernetes.io/name: {{ include "relay.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "relay.labels" -}}
{{ include "relay.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: relay
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- /* Metadata of an object. Takes root, suffix of its name, component. */ -}}
{{- define "relay.metadata" -}}
name: {{ include "relay.fullname" .root }}{{ with .suffix }}-{{ . }}{{ end }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "relay.labels" .root | nindent 2 }}
  {{- with .component }}
  app.kubernetes.io/component: {{ . }}
  {{- end }}
{{- end }}

{{- define "relay.image" -}}
{{- $tag := default .default .image.tag -}}
{{- if .image.digest -}}
{{- printf "%s@%s" .image.repository .image.digest -}}
{{- else -}}
{{- printf "%s:%s" .image.repository $tag -}}
{{- end -}}
{{- end }}

{{- define "relay.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "relay.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end }}

{{- define "relay.secretName" -}}
{{- default (include "relay.fullname" .) .Values.secrets.existingSecret -}}
{{- end }}

{{- /* Text of rules or dashboards with this deployment's addresses. Takes root, text. */ -}}
{{- define "relay.addresses" -}}
{{- with .root.Values.monitoring -}}
{{- $.text | replace "https://runbooks.invalid/" .runbookBaseUrl | replace "https://dashboards.invalid/" .dashboardBaseUrl -}}
{{- end -}}
{{- end }}

{{- /* The most pods that a component may have, and the fewest. */ -}}
{{- define "relay.most" -}}
{{- if eq (include "relay.scaled" .) "true" }}{{ .values.autoscaling.maxReplicas }}{{ else }}{{ .values.replicas }}{{ end -}}
{{- end }}
{{- define "relay.fewest" -}}
{{- if eq (include "relay.scaled" .) "true" }}{{ .values.autoscaling.minReplicas }}{{ else }}{{ .values.replicas }}{{ end -}}
{{- end }}
{{- /* Whether an autoscaler owns the number of pods. */ -}}
{{- define "relay.scaled" -}}
{{- $scaling := default dict .values.autoscaling -}}
{{- or (dig "enabled" false $scaling) (dig "hpa" "enabled" false $scaling) (dig "keda" "enabled" false $scaling) -}}
{{- end }}

{{- /* Pumps over all workers. */ -}}
{{- define "relay.pumps" -}}
{{- if gt (int .values.pumps) 0 }}{{ int .values.pumps }}{{ else }}{{ max 1 (int (include "relay.most" .)) }}{{ end -}}
{{- end }}

{{- /* What workers/supervisor.py does: jobs that one worker runs at a time, and how long it waits for them. */ -}}
{{- define "relay.maxJobs" -}}
{{- min 16 (add (int (include "relay.pumps" .)) 4) -}}
{{- end }}
{{- define "relay.drainSeconds" -}}
{{- add (int .Values.deliver.timeoutSeconds) 20 -}}
{{- end }}
{{- define "relay.readLimit" -}}200{{- end }}

{{- /* Name under which the receiver of the delivery test is reached. */ -}}
{{- define "relay.probeHost" -}}
{{- printf "%s-probe.%s.svc" (include "relay.fullname" .) .Release.Namespace -}}
{{- end }}

{{- define "relay.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "relay.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities:
  drop: [ALL]
{{- end }}
