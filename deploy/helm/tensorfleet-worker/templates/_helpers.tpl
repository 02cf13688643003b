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

{{/* HTTP or HTTPS: what the port of metrics and page speaks. */}}
{{- define "worker.scheme" -}}
{{- if and .Values.tls.secretName .Values.tls.metrics }}HTTPS{{ else }}HTTP{{ end }}
{{- end }}

{{/* Ports that workers call, as one YAML list: that of the orchestrator, and of collectors of traces. */}}
{{- define "worker.called" -}}
{{- $addresses := list .Values.orchestrator.address }}
{{- range $pool := fromYaml (include "worker.pools" .) }}
{{- $settings := mergeOverwrite (deepCopy $.Values.settings) $pool.settings }}
{{- with $settings.OTEL_EXPORTER_OTLP_ENDPOINT }}
{{- $addresses = append $addresses . }}
{{- end }}
{{- end }}
{{- $ports := list }}
{{- range $addresses }}
{{- $ports = append $ports (trimSuffix "/" . | regexFind "[0-9]+$" | int) }}
{{- end }}
{{- $ports | uniq | toYaml }}
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
