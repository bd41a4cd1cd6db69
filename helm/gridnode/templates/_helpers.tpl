{{/* Names, labels and what all pods have in common. */}}

{{- define "gridnode.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "gridnode.operator.serviceAccount" -}}
{{- $name := printf "%s-operator" (include "gridnode.fullname" .) -}}
{{- default (.Values.operator.serviceAccount.create | ternary $name "default") .Values.operator.serviceAccount.name -}}
{{- end -}}

{{- define "gridnode.master.serviceAccount" -}}
{{- $name := printf "%s-master" (include "gridnode.fullname" .) -}}
{{- default (.Values.master.serviceAccount.create | ternary $name "default") .Values.master.serviceAccount.name -}}
{{- end -}}

{{/* The operator lets pods with this name and in its namespace reach the management port of nodes: see
desired/context.py. So the master node and the test have it, too. Takes a dict of root and component. */}}
{{- define "gridnode.selectorLabels" -}}
app.kubernetes.io/name: gridnode-operator
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* Labels of an object; those that the chart gives win. Takes a dict of root, component and perhaps more. */}}
{{- define "gridnode.labels" -}}
{{- $own := include "gridnode.selectorLabels" . | fromYaml -}}
{{- $own = merge $own (dict
  "app.kubernetes.io/part-of" "gridnode"
  "app.kubernetes.io/version" .root.Chart.AppVersion
  "app.kubernetes.io/managed-by" .root.Release.Service
  "helm.sh/chart" (printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_")
) -}}
{{- toYaml (merge $own (.more | default dict) .root.Values.commonLabels) -}}
{{- end -}}

{{/* Takes a dict of root and image (repository, tag, digest). */}}
{{- define "gridnode.image" -}}
{{- $name := .image.repository -}}
{{- with .root.Values.images.registry }}{{ $name = printf "%s/%s" (trimSuffix "/" .) $name }}{{ end -}}
{{- if .image.digest -}}
{{- printf "%s@%s" $name .image.digest -}}
{{- else -}}
{{- printf "%s:%s" $name (default .root.Chart.AppVersion .image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "gridnode.databaseSecret" -}}
{{- default (printf "%s-database" (include "gridnode.fullname" .)) .Values.database.existingSecret.name -}}
{{- end -}}

{{- define "gridnode.databaseKey" -}}
{{- .Values.database.embedded.enabled | ternary "url" .Values.database.existingSecret.key -}}
{{- end -}}

{{- define "gridnode.masterSecret" -}}
{{- if .Values.master.enabled -}}
{{- default (printf "%s-master" (include "gridnode.fullname" .)) .Values.master.existingSecret -}}
{{- else -}}
{{- .Values.master.external.existingSecret -}}
{{- end -}}
{{- end -}}

{{- define "gridnode.masterUrl" -}}
{{- if .Values.master.enabled -}}
{{- printf "http://%s-master.%s.svc:%d" (include "gridnode.fullname" .) .Release.Namespace (int .Values.master.service.port) -}}
{{- else -}}
{{- .Values.master.external.url -}}
{{- end -}}
{{- end -}}

{{/* Where the master node and the test make GridNodes. */}}
{{- define "gridnode.namespace" -}}
{{- .Values.watchNamespaces | first | default .Release.Namespace -}}
{{- end -}}

{{- define "gridnode.masterNamespace" -}}
{{- default (include "gridnode.namespace" .) .Values.master.namespace -}}
{{- end -}}

{{- define "gridnode.pullSecrets" -}}
{{- with .Values.images.pullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Pod Security: restricted. No runAsUser: the image names one, and OpenShift another. */}}
{{- define "gridnode.podSecurityContext" -}}
runAsNonRoot: true
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "gridnode.securityContext" -}}
allowPrivilegeEscalation: false
capabilities:
  drop: [ALL]
readOnlyRootFilesystem: true
{{- end -}}

{{/* What operator and master node let users say about their pods; takes their values. */}}
{{- define "gridnode.placement" -}}
{{- with .nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end -}}

{{/* Where people reach the dashboard; empty if nothing says so. */}}
{{- define "gridnode.master.publicUrl" -}}
{{- $master := .Values.master -}}
{{- if $master.publicUrl -}}
{{ $master.publicUrl }}
{{- else if $master.ingress.enabled -}}
{{ if $master.ingress.tlsSecretName }}https{{ else }}http{{ end }}://{{ $master.ingress.host }}
{{- end -}}
{{- end -}}

{{/* A generated text that stays the same over upgrades; takes a dict of root, secret, key, and length. */}}
{{- define "gridnode.kept" -}}
{{- $live := lookup "v1" "Secret" .root.Release.Namespace .secret -}}
{{- $found := dig "data" .key "" ($live | default dict) -}}
{{- if $found }}{{ b64dec $found }}{{ else }}{{ randAlphaNum (int .length) }}{{ end -}}
{{- end -}}
