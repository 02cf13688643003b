{{- define "worker.name" -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{/* Labels that select the pods of all pools. */}}
{{- define "worker.selector" -}}
app.kubernetes.io/name: tensorfleet-worker
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "worker.labels" -}}
{{ include "worker.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: tensorfleet
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{/* The pools that are enabled, each laid over the defaults, as one YAML object by name. */}}
{{- define "worker.pools" -}}
{{- if le (int .Values.drainSeconds) (int .Values.taskTimeoutSeconds) }}
{{- fail (printf "drainSeconds (%d) must be more than taskTimeoutSeconds (%d), or scaling in would cut tasks off" (int .Values.drainSeconds) (int .Values.taskTimeoutSeconds)) }}
{{- end }}
{{- $pools := dict }}
{{- range $name, $pool := .Values.pools }}
{{- if $pool.enabled }}
{{- $_ := set $pools $name (mergeOverwrite (deepCopy $.Values.defaults) (deepCopy $pool)) }}
{{- end }}
{{- end }}
{{- toYaml $pools }}
{{- end }}
