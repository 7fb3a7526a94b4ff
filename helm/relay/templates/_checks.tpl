{{- /* Relations that the schema cannot express. Each sentence says what to change. */ -}}
{{- define "relay.check" -}}
{{- include "relay.check.shutdown" . -}}
{{- include "relay.check.workers" . -}}
{{- include "relay.check.secrets" . -}}
{{- include "relay.check.rest" . -}}
{{- end }}

{{- define "relay.check.shutdown" -}}
{{- $drain := int (include "relay.drainSeconds" .) -}}
{{- $grace := int .Values.shutdown.gracePeriodSeconds -}}
{{- if lt $drain (add (int .Values.deliver.timeoutSeconds) 10 | int) -}}
{{- fail (printf "a worker drains for %d s, which is less than deliver.timeoutSeconds and 10 s: lower deliver.timeoutSeconds" $drain) -}}
{{- end -}}
{{- if gt (add $drain 15 | int) $grace -}}
{{- fail (printf "shutdown.gracePeriodSeconds is %d, but a worker drains for %d s (deliver.timeoutSeconds and 20 s) and 15 s must remain: raise it to at least %d, or lower deliver.timeoutSeconds" $grace $drain (add $drain 15)) -}}
{{- end -}}
{{- $api := add (int .Values.shutdown.preStopSeconds) 30 15 | int -}}
{{- if gt $api $grace -}}
{{- fail (printf "shutdown.gracePeriodSeconds is %d, but the API takes shutdown.preStopSeconds, 30 s to finish requests, and 15 s must remain: raise it to at least %d, or lower shutdown.preStopSeconds" $grace $api) -}}
{{- end -}}
{{- end }}

{{- define "relay.check.workers" -}}
{{- $scaling := .Values.deliver.autoscaling -}}
{{- if and $scaling.hpa.enabled $scaling.keda.enabled -}}
{{- fail "deliver.autoscaling.hpa and deliver.autoscaling.keda are both enabled, but a Deployment has one owner: turn one of them off" -}}
{{- end -}}
{{- range $name := list "api" "deliver" -}}
{{- $s := (index $.Values $name).autoscaling -}}
{{- if gt (int $s.minReplicas) (int $s.maxReplicas) -}}
{{- fail (printf "%s.autoscaling.minReplicas (%d) is above maxReplicas (%d): lower one or raise the other" $name (int $s.minReplicas) (int $s.maxReplicas)) -}}
{{- end -}}
{{- end -}}
{{- $half := div (int (include "relay.readLimit" .)) 2 | int -}}
{{- range $name := list "poll" "deliver" -}}
{{- $of := dict "root" $ "values" (index $.Values $name) -}}
{{- $most := int (include "relay.most" $of) -}}
{{- $pumps := int (include "relay.pumps" $of) -}}
{{- $jobs := int (include "relay.maxJobs" $of) -}}
{{- if gt $pumps 64 -}}
{{- fail (printf "%s: %d pumps, but the relay runs at most 64: set %s.pumps" $name $pumps $name) -}}
{{- end -}}
{{- if gt (mul $most $jobs | int) $half -}}
{{- fail (printf "%s: %d workers of %d jobs are %d, more than half of the %s jobs that arq looks at, so that some would find none: lower the number of workers, or %s.pumps (a worker has pumps and 4 jobs, at most 16)" $name $most $jobs (mul $most $jobs) (include "relay.readLimit" $) $name) -}}
{{- end -}}
{{- if lt $pumps $most -}}
{{- fail (printf "%s: there may be %d workers but only %d pumps, so that some would idle: raise %s.pumps, or set it to 0" $name $most $pumps $name) -}}
{{- end -}}
{{- end -}}
{{- if and $scaling.keda.enabled (not $scaling.keda.serverAddress) -}}
{{- fail "deliver.autoscaling.keda is enabled without serverAddress: name the address of Prometheus" -}}
{{- end -}}
{{- if and $scaling.keda.enabled (gt (int $scaling.keda.fallbackReplicas) (int $scaling.maxReplicas)) -}}
{{- fail "deliver.autoscaling.keda.fallbackReplicas is above deliver.autoscaling.maxReplicas: lower it" -}}
{{- end -}}
{{- end }}

{{- define "relay.check.secrets" -}}
{{- $s := .Values.secrets -}}
{{- $inline := values $s.inline | sortAlpha | join "" -}}
{{- if and $s.existingSecret $inline -}}
{{- fail "secrets.existingSecret and secrets.inline are both given: empty one of them" -}}
{{- end -}}
{{- if not $s.existingSecret -}}
{{- if not $s.inline.masterKeys -}}
{{- fail "no master key: name a secret in secrets.existingSecret or, for development only, give secrets.inline.masterKeys (relay keys master makes one)" -}}
{{- end -}}
{{- if and (not $s.inline.redisUrl) (not .Values.redis.dev.enabled) -}}
{{- fail "no Redis: name a secret in secrets.existingSecret or, for development only, give secrets.inline.redisUrl or enable redis.dev" -}}
{{- end -}}
{{- if ne (empty $s.inline.upstreamClientId) (empty $s.inline.upstreamClientSecret) -}}
{{- fail "secrets.inline.upstreamClientId and upstreamClientSecret belong together: give both or none" -}}
{{- end -}}
{{- else if or (not $s.keys.masterKeys) (and (not $s.keys.redisUrl) (not .Values.redis.dev.enabled)) -}}
{{- fail "secrets.keys.masterKeys and secrets.keys.redisUrl must name keys of the existing secret" -}}
{{- end -}}
{{- if and .Values.tests.delivery.enabled (not (ternary $s.keys.adminKey $s.inline.adminKey (ne $s.existingSecret ""))) -}}
{{- fail "tests.delivery needs the operator's key: name it in secrets.keys.adminKey, or give secrets.inline.adminKey" -}}
{{- end -}}
{{- if and .Values.redis.dev.enabled $s.inline.redisUrl -}}
{{- fail "redis.dev is enabled and secrets.inline.redisUrl names another Redis: drop one of them" -}}
{{- end -}}
{{- end }}

{{- /* A duration such as 15s, 500ms or 1m. */ -}}
{{- define "relay.milliseconds" -}}
{{- $number := regexFind "^[0-9]+" . | int -}}
{{- mul $number (get (dict "ms" 1 "s" 1000 "m" 60000) (regexFind "[a-z]+$" .)) -}}
{{- end }}

{{- define "relay.check.rest" -}}
{{- $own := include "relay.ownSettings" . | fromYaml -}}
{{- range $name, $_ := .Values.settings -}}
{{- with get $own.settings $name -}}
{{- fail (printf "settings.%s is set by the chart: use %s" $name .) -}}
{{- end -}}
{{- end -}}
{{- range $name, $value := .Values.settings -}}
{{- if regexMatch "://[^/]*@" (toString $value) -}}
{{- fail (printf "settings.%s holds a user or password, and settings become a ConfigMap: give it by extraEnv with valueFrom.secretKeyRef" $name) -}}
{{- end -}}
{{- end -}}
{{- range $variable := .Values.extraEnv -}}
{{- with get $own.settings $variable.name -}}
{{- fail (printf "extraEnv: %s is set by the chart: use %s" $variable.name .) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.api.autoscaling.enabled (not (dig "requests" "cpu" "" .Values.api.resources)) -}}
{{- fail "api.autoscaling aims at a share of the requested CPU, and none is requested: set api.resources.requests.cpu" -}}
{{- end -}}
{{- with .Values.monitoring -}}
{{- if gt (include "relay.milliseconds" .scrapeTimeout | int) (include "relay.milliseconds" .interval | int) -}}
{{- fail (printf "monitoring.scrapeTimeout (%s) is longer than monitoring.interval (%s), and the Prometheus operator passes over such monitors: lower it" .scrapeTimeout .interval) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.ingress.enabled (not .Values.ingress.hosts) -}}
{{- fail "ingress is enabled without hosts: name at least one in ingress.hosts" -}}
{{- end -}}
{{- if and .Values.httpRoute.enabled (not .Values.httpRoute.parentRefs) -}}
{{- fail "httpRoute is enabled without parentRefs: name the Gateway that it attaches to" -}}
{{- end -}}
{{- if and (not .Values.redis.dev.enabled) .Values.redis.tls.clientSecret (not .Values.redis.tls.caSecret) -}}
{{- fail "redis.tls.clientSecret is given without redis.tls.caSecret: name the authority as well" -}}
{{- end -}}
{{- if and .Values.redis.dev.enabled (or .Values.redis.tls.caSecret .Values.redis.tls.clientSecret) -}}
{{- fail "redis.dev has no TLS: drop redis.tls, or redis.dev" -}}
{{- end -}}
{{- end }}

{{- /* Settings that follow from values, and the value that each follows from. */ -}}
{{- define "relay.ownSettings" -}}
settings:
  RELAY_HOST: nothing (pods listen on all their addresses)
  RELAY_PORT: service.port (the container's own is 8080)
  RELAY_METRICS_PORT: nothing (it is 9102)
  RELAY_DELIVERY_TIMEOUT: deliver.timeoutSeconds
  RELAY_DELIVERY_CONCURRENCY: deliver.concurrency
  RELAY_DELIVER_PUMPS: deliver.pumps
  RELAY_POLL_PUMPS: poll.pumps
  RELAY_CANARY: canary.enabled
  RELAY_CANARY_PORT: nothing (it is 9103)
  RELAY_CANARY_URL: nothing (a service leads to the maintain workers)
  RELAY_REDIS_URL: secrets.keys.redisUrl
  RELAY_MASTER_KEYS: secrets.keys.masterKeys
  RELAY_ADMIN_KEY: secrets.keys.adminKey
  RELAY_UPSTREAM_CLIENT_ID: secrets.keys.upstreamClientId
  RELAY_UPSTREAM_CLIENT_SECRET: secrets.keys.upstreamClientSecret
  RELAY_REDIS_SENTINEL_USERNAME: secrets.keys.sentinelUsername
  RELAY_REDIS_SENTINEL_PASSWORD: secrets.keys.sentinelPassword
  RELAY_REDIS_CA_FILE: redis.tls.caSecret
  RELAY_REDIS_CERT_FILE: redis.tls.clientSecret
  RELAY_REDIS_KEY_FILE: redis.tls.clientSecret
{{- end }}
