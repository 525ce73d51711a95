package batch

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
)

var notInName = regexp.MustCompile(`[^a-z0-9]+`)

// KubernetesFile is the file with the Job.
const KubernetesFile = "job.yaml"

// KubernetesJob is an indexed Job, in YAML, that runs the tasks (batch/v1, Kubernetes 1.29: index
// I is task I+1). The claim's volume holds the job's directory, at the same path. A pod that ends with a
// final code ends its index; every other end counts, and the index begins again up to the number of
// retries, but an eviction does not count. No privilege is needed.
func KubernetesJob(d Dir, j Job) string {
	name := strings.Trim(notInName.ReplaceAllString("hookbed-"+j.Name, "-"), "-")
	var out strings.Builder
	fmt.Fprintf(&out, `# %d tasks of %s. When the Job is complete, merge them on any computer that has the volume:
#   %s submit --merge %s
apiVersion: batch/v1
kind: Job
metadata:
  name: %s
spec:
  completionMode: Indexed
  completions: %d
  parallelism: %d
  backoffLimitPerIndex: %d
  maxFailedIndexes: %d
  podFailurePolicy:
    rules:
      - action: Ignore
        onPodConditions:
          - type: DisruptionTarget
            status: "True"
      - action: FailIndex
        onExitCodes:
          containerName: task
          operator: In
          values: [1, 2, 3]
  template:
    spec:
      restartPolicy: Never
      terminationGracePeriodSeconds: %d
      activeDeadlineSeconds: %d
      securityContext:
        runAsNonRoot: true
        runAsUser: 65534
        runAsGroup: 65534
        fsGroup: 65534
        seccompProfile:
          type: RuntimeDefault
      containers:
        - name: task
          image: %s
          command: ["/bin/sh", "-c"]
          args:
            - %s
          env:
            - name: HOME
              value: /tmp
%s          resources:
            requests: {cpu: "%d", memory: %dMi}
            limits: {memory: %dMi}
          securityContext:
            allowPrivilegeEscalation: false
            capabilities:
              drop: ["ALL"]
          volumeMounts:
            - name: shared
              mountPath: %s
            - name: tmp
              mountPath: /tmp
      volumes:
        - name: shared
          persistentVolumeClaim:
            claimName: %s
        - name: tmp
          emptyDir: {}
`, j.Tasks, j.Name, d.Driver(), d.Path, name, j.Tasks, j.Tasks, j.Retries, j.Tasks, termBefore, j.LimitSeconds, text(j.Image),
		text(`exec "$0" submit --task "$((JOB_COMPLETION_INDEX + 1))" "$1"`)+"\n            - "+text(d.Driver())+"\n            - "+text(d.Path),
		storeEntry(j.Store), j.Guests, j.MemoryMiB, j.MemoryMiB, text(filepath.Dir(d.Path)), text(j.Claim))
	return out.String()
}

func storeEntry(store string) string {
	if store == "" {
		return ""
	}
	return "            - name: HOOKBED_STORE\n              value: " + text(store) + "\n"
}

// text is a text in YAML, which has the strings of JSON.
func text(s string) string {
	data, err := json.Marshal(s)
	if err != nil {
		return `""` // no text fails
	}
	return string(data)
}
