{{- define "sandgate.image" -}}
{{- $v := .root.Values.image -}}
{{- $repository := printf "%s/%s" $v.registry .name | trimPrefix "/" -}}
{{- with index $v.digests .name }}{{ $repository }}@{{ . }}{{ else }}{{ $repository }}:{{ $v.tag }}{{ end -}}
{{- end }}
{{- define "sandgate.labels" -}}
app.kubernetes.io/name: sandgate
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}
{{- define "sandgate.meta" -}}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
{{- end }}
{{- define "sandgate.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
- name: {{ . }}
{{- end }}
{{- end }}
{{- end }}
{{- /* Where no volume's server may be: what is barred by hand, and the API servers themselves. `helm template` asks no cluster for those. */ -}}
{{- define "sandgate.barred" -}}
{{- $barred := default list .Values.policy.barredEndpoints -}}
{{- if .Values.policy.barAPIServers -}}
{{- range (lookup "discovery.k8s.io/v1" "EndpointSlice" "default" "kubernetes").endpoints -}}
{{- $barred = concat $barred .addresses -}}
{{- end -}}
{{- end -}}
{{- join "," (uniq $barred) -}}
{{- end }}
{{- /* Where an administrator lets pods of a component run. */ -}}
{{- define "sandgate.placement" -}}
{{- range $field := list "priorityClassName" "nodeSelector" "tolerations" "affinity" }}
{{- with index $ $field }}
{{ dict $field . | toYaml }}
{{- end }}
{{- end }}
{{- end }}
{{- define "sandgate.podMeta" -}}
labels:
  {{- .labels | nindent 2 }}
  {{- with .values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .values.podAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- define "sandgate.spread" -}}
topologySpreadConstraints:
- maxSkew: 1
  topologyKey: kubernetes.io/hostname
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels:
      {{- . | nindent 6 }}
{{- end }}
{{- /* The security contexts of pods and containers that need no right on the node. */ -}}
{{- define "sandgate.nobody" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end }}
{{- define "sandgate.locked" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}
