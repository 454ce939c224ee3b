package e2b_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Whoever may not mount a volume cannot tell it from one that does not exist: by status, header or body, whatever else is wrong with the
// volume or the request.
func TestForeignAndMissingVolumesAnswerAlike(t *testing.T) {
	const missing = "nowhereat"
	requests := map[string]struct{ path, body string }{
		"one":                     {"/v2/sandboxes", `{"templateID":"base","metadata":{"e2b.agents.kruise.io/csi-volume-name":"VOLUME","e2b.agents.kruise.io/csi-mount-point":"/a"}}`},
		"one, by the older route": {"/sandboxes", `{"templateID":"base","metadata":{"e2b.agents.kruise.io/csi-volume-name":"VOLUME","e2b.agents.kruise.io/csi-mount-point":"/a"}}`},
		"several":                 {"/v2/sandboxes", `{"templateID":"base","metadata":{"e2b.agents.kruise.io/csi-volume-config":"[{\"pvName\":\"scratch\",\"mountPath\":\"/a\"},{\"pvName\":\"VOLUME\",\"mountPath\":\"/b\"}]"}}`},
		"by E2B's field":          {"/v2/sandboxes", `{"templateID":"base","volumeMounts":[{"name":"VOLUME","path":"/a"}]}`},
		"with other faults":       {"/v2/sandboxes", `{"templateID":"base","metadata":{"e2b.agents.kruise.io/csi-volume-config":"[{\"pvName\":\"VOLUME\",\"mountPath\":\"/proc/x\",\"nonsense\":1}]"}}`},
		"where none can be":       {"/v2/sandboxes", `{"templateID":"plain","volumeMounts":[{"name":"VOLUME","path":"/a"}]}`},
		"into a living sandbox":   {"/sandboxes/ID/mounts", `{"pvName":"VOLUME","mountPath":"/a"}`},
		"with faults, into one":   {"/sandboxes/ID/mounts", `{"pvName":"VOLUME","mountPath":"/etc/x"}`},
	}
	w := newWorld(t)
	id := w.make(map[string]any{})
	claimed := w.pool.Claimed()
	ask := func(path, body, volume string) (int, http.Header, string) {
		a := w.as(aliceKey, http.MethodPost, strings.Replace(path, "ID", id, 1), strings.ReplaceAll(body, "VOLUME", volume))
		for _, own := range []string{"Date", "X-Request-Id", "X-E2b-Trace-Id"} { // of each answer
			a.header.Del(own)
		}
		return a.status, a.header, strings.ReplaceAll(string(a.body), volume, "VOLUME")
	}
	for name, r := range requests {
		t.Run(name, func(t *testing.T) {
			status, header, body := ask(r.path, r.body, missing)
			require.Equal(t, http.StatusBadRequest, status)
			require.NotEmpty(t, header)
			for _, foreign := range []string{"somebodys", "carolsown"} {
				require.Len(t, foreign, len(missing), "names of one length, so that the header can be compared as well")
				s, h, b := ask(r.path, r.body, foreign)
				require.Equal(t, status, s, foreign)
				require.Equal(t, header, h, foreign)
				require.Equal(t, body, b, foreign)
			}
		})
	}
	_, _, hidden := ask(requests["one"].path, requests["one"].body, missing)
	_, _, known := ask(requests["one"].path, requests["one"].body, "block")
	require.NotEqual(t, hidden, known, "what may be mounted and is faulty is told from it")
	require.Equal(t, claimed, w.pool.Claimed(), "nothing was claimed for any of them")
}
