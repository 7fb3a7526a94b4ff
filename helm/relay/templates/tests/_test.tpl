{{- /* A pod of `helm test`. Takes root, suffix, args, receives: whether it has a receiver and the operator's key. */ -}}
{{- define "relay.test" -}}
apiVersion: v1
kind: Pod
metadata:
  {{- include "relay.metadata" (dict "root" .root "suffix" .suffix "component" "test") | nindent 2 }}
  annotations:
    helm.sh/hook: test
    helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
    {{- with .root.Values.tests.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  restartPolicy: Never
  activeDeadlineSeconds: 120
  serviceAccountName: {{ include "relay.serviceAccount" .root }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  {{- with .root.Values.image.pullSecrets }}
  imagePullSecrets:
    {{- range . }}
    - name: {{ . }}
    {{- end }}
  {{- end }}
  securityContext:
    {{- include "relay.podSecurity" .root | nindent 4 }}
  containers:
    - name: test
      image: {{ include "relay.image" (dict "image" .root.Values.image "default" .root.Chart.AppVersion) | quote }}
      imagePullPolicy: {{ .root.Values.image.pullPolicy }}
      args: {{ toJson .args }}
      {{- if .receives }}
      env:
        - name: RELAY_API_KEY
          valueFrom:
            secretKeyRef:
              name: {{ include "relay.secretName" .root }}
              key: {{ ternary .root.Values.secrets.keys.adminKey "RELAY_ADMIN_KEY" (ne .root.Values.secrets.existingSecret "") }}
      ports:
        - {name: receiver, containerPort: 9100}
      {{- end }}
      resources:
        requests: {cpu: 50m, memory: 96Mi}
      securityContext:
        {{- include "relay.containerSecurity" .root | nindent 8 }}
      volumeMounts:
        - {name: tmp, mountPath: /tmp}
  volumes:
    - {name: tmp, emptyDir: {}}
{{- end }}
